"""Hands the artifacts' folders and the destination to `push` and records the release."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from components.destination import RELEASE_FILE, Destination
from components.edge_pusher.origin import Origin
from components.edge_pusher.push import push
from components.folders import Folders
from components.settings_text import from_text
from components.tflite_models import TFLiteModelsFolder
from components.verdict import REPORT_FILE, RUN_PROPERTY, SKETCHES_FOLDER, Verdict

BLESSED = "blessed"  # property of TFX's ModelBlessing: 1 where the float model passed

_LOG = logging.getLogger(__name__)


def publish(inputs: Folders, outputs: Folders, settings: Mapping[str, Any], run: str) -> None:
    """Publishes; see `components.folders.Step`, and the component for the rest."""
    destination = from_text(Destination, settings["destination"])
    verdict = inputs["verdict"]
    published = push(
        TFLiteModelsFolder.load(inputs["tflite_models"].path),
        Verdict.load(verdict.path),
        (verdict.path / REPORT_FILE).read_bytes(),
        _sketches(verdict.path / SKETCHES_FOLDER),
        blessed=inputs["model_blessing"].properties.get(BLESSED) == 1,
        run=verdict.properties[RUN_PROPERTY],
        origin=from_text(Origin, settings["origin"]),
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
    pushed = outputs["pushed_model"]
    (pushed.path / RELEASE_FILE).write_text(json.dumps(release, indent=2) + "\n")
    pushed.properties.update(
        pushed=1,
        pushed_destination=destination.location,
        pushed_version=published.tag,
        digest=published.digest,
    )


def _sketches(folder: Path) -> dict[str, bytes]:
    return {file.stem: file.read_bytes() for file in folder.glob("*.json")}
