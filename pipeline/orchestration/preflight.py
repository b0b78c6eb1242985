"""What can be known to be wrong before the first step runs is said before the first step runs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from components.intervals import share_interval
from edgeline.contract import MAX_LABELS
from pipeline.config import Config
from pipeline.data.dataset import Dataset
from pipeline.errors import UserError
from pipeline.release.proofs import check_proofs
from pipeline.release.registry import check_registry
from pipeline.training.base_weights import check_imagenet_weights
from pipeline.training.bases import BASES

FEW_IMAGES = 10  # of a class, that hardly measure it
MOST_NAMED = 5  # classes in a warning
PATTERN_CHARACTERS = "*?[\\"


def check(config: Config, dataset: Dataset) -> list[str]:
    """Checks the settings against the data and the registry.

    Returns:
        Warnings, a line each.

    Raises:
        UserError: the run could not succeed.
    """
    _check_classes(config, dataset)
    _check_slices(config, dataset)
    _check_gate(config, dataset)
    _check_batch_size(config, dataset)
    registry_warnings = check_registry(config) if config.registry else []
    _check_weights(config)
    return [*_warnings(config, dataset), *check_proofs(config, dataset), *registry_warnings]


def check_root(config: Config) -> None:
    """Checks, for a run on this machine, that TFX can read its artifacts by their paths.

    TFX takes them for patterns, which match other paths or nothing.

    Raises:
        UserError: the folder of the artifacts is one of those.
    """
    root = str(config.run.root.absolute())
    if found := sorted(set(root) & set(PATTERN_CHARACTERS)):
        raise UserError(
            f"run.root: TFX can't read files in {root}, whose path has {' '.join(found)}: expected "
            f"a folder without {' '.join(PATTERN_CHARACTERS)}, such as --set run.root=/var/tmp/runs"
        )


def _check_classes(config: Config, dataset: Dataset) -> None:
    if len(dataset.labels) > MAX_LABELS:
        raise UserError(
            f"{dataset.path}: {len(dataset.labels):,} classes; expected at most {MAX_LABELS:,}, "
            "which devices load: join some, or train several models"
        )
    for split in sorted({"train", "eval", config.gate.split}):
        missing = [label for label in dataset.labels if not dataset.counts[split].get(label)]
        if missing:
            raise UserError(
                f"{dataset.path}: split {split!r} has no image of {', '.join(missing)}; expected "
                "images of every class: add some, or give the split a larger share ([ingest])"
            )


def _check_slices(config: Config, dataset: Dataset) -> None:
    for key in config.gate.min_slice_accuracy:
        if key not in dataset.slice_keys:
            known = ", ".join(dataset.slice_keys) or "none"
            raise UserError(
                f"gate.min_slice_accuracy.{key}: {dataset.path} has no such slice key; it has: "
                f"{known}"
            )


def _check_gate(config: Config, dataset: Dataset) -> None:
    """Checks that every class and variant the gate names is there to be measured."""
    gate, made = config.gate, config.rewriter.variants
    for setting in ("min_precision", "min_recall"):
        for label in getattr(gate, setting):
            if label not in dataset.labels:
                raise UserError(
                    f"gate.{setting}.{label}: {dataset.path} has no such class; it has: "
                    f"{', '.join(dataset.labels)}"
                )
    for variant in gate.require:
        if variant not in made:
            raise UserError(
                f"gate.require: {variant} is required but not made; rewriter.variants has: "
                f"{', '.join(made)}"
            )
    if gate.split == "eval" and config.search:
        raise UserError(
            'gate.split: "eval" is what mixed is searched by, so that it can\'t be judged on it; '
            'expected "test"'
        )
    if config.search and config.search.aim == "most_accurate" and gate.max_size_mb is None:
        raise UserError(
            'rewriter.mixed: "most_accurate" is that within gate.max_size_mb; expected it to be set'
        )
    if gate.publish == "required" and not gate.require:
        raise UserError('gate.publish: "required" publishes nothing when gate.require is empty')
    if gate.max_latency_ratio is not None and "float32" not in made:
        raise UserError(
            "gate.max_latency_ratio is relative to float32, which rewriter.variants does not have"
        )


def _check_batch_size(config: Config, dataset: Dataset) -> None:
    images = sum(dataset.counts["train"].values())
    if config.trainer.batch_size > images:
        raise UserError(
            f"trainer.batch_size: expected at most the train split's {images} images; received "
            f"{config.trainer.batch_size}"
        )


def _check_weights(config: Config) -> None:
    trainer = config.trainer
    if trainer.warm_start is not None:
        if not Path(trainer.warm_start).exists():
            raise UserError(f"trainer.warm_start: no such file or folder: {trainer.warm_start}")
    elif trainer.base_weights == "imagenet":
        check_imagenet_weights(BASES[trainer.base])
    elif trainer.base_weights != "random" and not Path(trainer.base_weights).is_file():
        raise UserError(f"trainer.base_weights: no such file: {trainer.base_weights}")


def _warnings(config: Config, dataset: Dataset) -> Iterator[str]:
    if config.gate.split != "test":
        yield (
            f'gate.split = "{config.gate.split}": the model is trained or chosen with these '
            "images, and will do worse on new ones; the report says so"
        )
    counts = dataset.counts[config.gate.split]
    label, largest = max(counts.items(), key=lambda item: item[1])
    share = largest / sum(counts.values())
    few = sorted((count, label) for label, count in counts.items() if count < FEW_IMAGES)
    if few:
        named = ", ".join(f"{label} ({count})" for count, label in few[:MOST_NAMED])
        more = f" and {len(few) - MOST_NAMED:,} more classes" if few[MOST_NAMED:] else ""
        proved = share_interval(1.0, few[0][0])[0]
        yield (
            f"the {config.gate.split} split has fewer than {FEW_IMAGES} images of {named}{more}: "
            f"with {few[0][0]}, a recall of 1 proves no more than {proved:.2f}"
        )
    if config.gate.min_accuracy <= share:
        yield (
            f"gate.min_accuracy = {config.gate.min_accuracy:g} gates nothing: always saying "
            f"{label!r} reaches {share:.3f} on the {config.gate.split} split"
        )
