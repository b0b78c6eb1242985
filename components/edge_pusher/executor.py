"""Runs the pusher inside TFX."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

from tfx import types
from tfx.components.util import model_utils
from tfx.dsl.components.base import base_executor
from tfx.types import artifact_utils

from components.edge_pusher.origin import Origin
from components.edge_pusher.push import push
from components.registry import RELEASE_FILE, Destination, connection_from_text
from components.tflite_models import TFLiteModelsFolder
from components.verdict import REPORT_FILE, RUN_PROPERTY, Verdict

_LOG = logging.getLogger(__name__)


class Executor(base_executor.BaseExecutor):
    """Hands the artifacts' folders and the destination to `push` and records the release."""

    def Do(  # noqa: N802
        self,
        input_dict: dict[str, list[types.Artifact]],
        output_dict: dict[str, list[types.Artifact]],
        exec_properties: dict[str, Any],
    ) -> None:
        """See the base class."""
        blessing = artifact_utils.get_single_instance(input_dict["model_blessing"])
        verdict = artifact_utils.get_single_instance(input_dict["verdict"])
        models = artifact_utils.get_single_instance(input_dict["tflite_models"])
        pushed = artifact_utils.get_single_instance(output_dict["pushed_model"])

        destination = Destination(
            location=exec_properties["registry"],
            model=exec_properties["model_name"],
            channel=exec_properties["channel"],
            root=exec_properties["root"].encode(),
            keys=json.loads(exec_properties["keys"]),
            connection=connection_from_text(exec_properties["connection"]),
        )
        published = push(
            TFLiteModelsFolder.load(Path(models.uri)),
            Verdict.load(Path(verdict.uri)),
            (Path(verdict.uri) / REPORT_FILE).read_bytes(),
            blessed=model_utils.is_model_blessed(blessing),
            run=verdict.get_string_custom_property(RUN_PROPERTY),
            origin=Origin.from_text(exec_properties["origin"]),
            destination=destination,
        )
        served_by = f"{destination.model}/{destination.channel}"
        _LOG.info("%s serves %s, %s", served_by, published.tag, published.digest)
        release = {
            "registry": destination.location,
            "model": destination.model,
            "channel": destination.channel,
            "tag": published.tag,
            "version": published.version,
            "digest": published.digest,
            "created": published.created,
        }
        (Path(pushed.uri) / RELEASE_FILE).write_text(json.dumps(release, indent=2) + "\n")
        pushed.set_int_custom_property("pushed", 1)
        pushed.set_string_custom_property("pushed_destination", destination.location)
        pushed.set_string_custom_property("pushed_version", published.tag)
        pushed.set_string_custom_property("digest", published.digest)
