"""What goes on record of a run beforehand: its settings, data, base weights and code.

It leaves the machine with every release, so it holds neither secrets nor paths: of the settings,
those of the machine are left out, and what they point at is named by digest.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from components.edge_pusher.origin import Origin
from edgeline._text import in_utc
from edgeline.publish.provenance import Resource
from pipeline.config import Config, TrainerConfig, flattened
from pipeline.content_digest import file_digest, source_digest, tree_digest
from pipeline.data.dataset import Dataset
from pipeline.training.bases import BASES

LOCAL_BUILDER = "https://edgeline.dev/provenance/local-runner/v1"
GIT_TIMEOUT = 10.0  # seconds


def origin(config: Config, dataset: Dataset, builder: str = LOCAL_BUILDER) -> Origin:
    """Gathers what is known of a run before it starts; `builder` is the URI of what runs it."""
    return Origin(
        builder=builder,
        parameters={
            "model": config.name,
            "channel": config.publishing.channel,
            "config": _settings(config, dataset),
        },
        dependencies=dependencies(config, dataset),
    )


def dependencies(config: Config, dataset: Dataset) -> tuple[Resource, ...]:
    """What a model is made from: settings, data, weights and code, each by its digest."""
    settings = _settings(config, dataset)
    content = json.dumps(settings, sort_keys=True, separators=(",", ":")).encode()
    images = {split: sum(by_label.values()) for split, by_label in dataset.counts.items()}
    return (
        Resource("config", {"sha256": hashlib.sha256(content).hexdigest()}),
        Resource("dataset", {"sha256": dataset.digest}, annotations={"images": images}),
        *_weights(config.trainer),
        _code(),
    )


def made_from(config: Config, dataset: Dataset) -> dict[str, dict[str, str]]:
    """What a report says of what a model was made from: `facts`, and `settings` by their names.

    The report travels with a release: of a path that leads through this machine, it has the end.
    """
    path = config.data.path
    facts = {"data": path.name if path.is_absolute() else str(path)}
    if dataset.written:
        facts["data, written"] = in_utc(dataset.written)
    for resource in dependencies(config, dataset):
        # A commit changes nothing of the model: the report does not become another one by it.
        digests = {k: v for k, v in resource.digest.items() if k != "gitCommit"}
        if resource.name != "config":
            facts |= {f"{resource.name}, {kind}": digest for kind, digest in digests.items()}
    settings = flattened(_settings(config, dataset))
    texts = {name: json.dumps(value, ensure_ascii=False) for name, value in settings.items()}
    return {"facts": facts, "settings": texts}


def _settings(config: Config, dataset: Dataset) -> dict[str, Any]:
    """Those that made the model: of the ingest, the dataset's own, not what would make another."""
    machine = {"name", "data", "ingest", "registry", "run", "beam", "kubeflow"}
    settings = config.model_dump(mode="json", exclude=machine)
    ingest = dict(dataset.options)
    paths = {"base_weights": settings["trainer"], "warm_start": settings["trainer"]}
    for name, section in {**paths, "labels": ingest, "inbox": ingest}.items():
        if section.get(name):
            section[name] = Path(section[name]).name
    return {**settings, "ingest": ingest}


def _weights(trainer: TrainerConfig) -> Iterator[Resource]:
    """What training started from: another model, or weights of the base."""
    if trainer.warm_start:
        yield Resource("warm start", {"sha256": tree_digest(trainer.warm_start)})
    elif trainer.base_weights == "imagenet":
        # Keras downloads them and accepts nothing else.
        base = BASES[trainer.base]
        yield Resource("base weights", {base.algorithm: base.digest}, uri=base.weights)
    elif digest := file_digest(trainer.base_weights):
        yield Resource("base weights", {"sha256": digest})


def _code() -> Resource:
    """The source of all our packages; with its git revision where it is under git."""
    digest = {"sha256": source_digest("pipeline", "components", "edgeline")}
    here = Path(__file__)
    # The file must be git's: an installed copy may lie in a repository of something else.
    if _git(here.parent, "ls-files", "--error-unmatch", here.name) is None:
        return Resource("code", digest)
    revision = _git(here.parent, "rev-parse", "HEAD")
    changes = _git(here.parent, "status", "--porcelain", "--untracked-files=no", ":/")
    if revision is None or changes is None:
        return Resource("code", digest)
    return Resource("code", {**digest, "gitCommit": revision}, annotations={"dirty": bool(changes)})


def _git(folder: Path, *arguments: str) -> str | None:
    """What git says, or None where it is missing, says nothing in time, or refuses."""
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *arguments],
            capture_output=True,
            text=True,
            timeout=GIT_TIMEOUT,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
