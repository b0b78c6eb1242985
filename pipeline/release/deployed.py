"""Which release a new model is compared with: what the channel serves, before this very model.

The channel's name is resolved to a digest before the run, so that no cached verdict can hide that
it moved. But a run that repeats the run whose release is on the channel would compare a model with
itself; it is compared with what that release was compared with, and every step can be reused.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict
from pathlib import Path

from components.libraries import library_versions
from components.verdict import Verdict
from edgeline.registry.reader import RegistryReader
from pipeline.config import Config
from pipeline.content_digest import file_digest, source_digest, tree_digest
from pipeline.data.dataset import Dataset
from pipeline.release.registry import destination


def baseline_digest(config: Config, dataset: Dataset) -> str:
    """The digest of the release to compare with, as it was signed; empty if there is none.

    Raises:
        UserError: the trusted root can't be read.
        edgeline.errors.RegistryError: the registry's metadata is not to be trusted, or the release
            is damaged.
    """
    if config.registry is None:
        return ""
    registry = destination(config).open()
    served = registry.repository.channel(config.name, config.registry.channel)
    if served is None:
        return ""
    reader = RegistryReader(registry.store)
    release = reader.open(served.release)
    verdict = _verdict(reader.read_verdict(release))
    if verdict is None or verdict.inputs_digest != inputs_digest(config, dataset):
        return release.digest
    return verdict.deployed.digest if verdict.deployed else ""


def inputs_digest(config: Config, dataset: Dataset) -> str:
    """The SHA-256, in hex, of everything a model is made from: settings, data, weights and code."""
    # Without those that say where it is made (on a laptop or on Kubeflow, it is the same), and
    # without the gate: other thresholds judge the same model, against the same release.
    others = {"data", "run", "registry", "ingest", "beam", "kubeflow", "gate"}
    settings = config.model_dump(mode="json", exclude=others)
    if config.search:
        settings["search"] = asdict(config.search)
    # Wherever they are: what is in them counts.
    for name in ("base_weights", "warm_start"):
        settings["trainer"][name] = Path(settings["trainer"][name] or "").name
    content = {
        "settings": settings,
        "dataset": dataset.digest,
        "base_weights": file_digest(config.trainer.base_weights),
        "warm_start": tree_digest(config.trainer.warm_start or ""),
        "code": source_digest("pipeline", "components", "edgeline"),
        "libraries": library_versions(),
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _verdict(content: bytes) -> Verdict | None:
    """A release's verdict, or None if it was published by other means than this pipeline."""
    try:
        return Verdict.from_json(content)
    except (ValueError, KeyError, TypeError):
        return None
