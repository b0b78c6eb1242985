"""Searches for a person: checks, progress, and at the end a page and a configuration to run."""

from __future__ import annotations

import hashlib
import json
import math
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from components.tflite_rewriter.variants import VARIANTS
from edgeline._files import write_whole
from pipeline.config import Config, parse_config
from pipeline.config_mistakes import did_you_mean, in_toml
from pipeline.console import Console, console
from pipeline.content_digest import code_digest
from pipeline.data.dataset import Dataset
from pipeline.errors import UserError
from pipeline.search.device import DeviceFigures
from pipeline.search.plan import MEGABYTE, Candidate, Plan, Point, winner
from pipeline.training.base_weights import check_imagenet_weights
from pipeline.training.bases import BASES

FOLDER = "search"  # below the root of the runs
PAGE_FILE, WINNER_FILE = "search.html", "winner.toml"
SIDES = (32, 1024)  # at least and at most, as `[image]`


@dataclass(frozen=True)
class FoundFiles:
    """What a search found.

    Attributes:
        points: every file that was made and measured.
        config: the settings that won, ready to run.
        folder: where the page and these settings are.
    """

    points: tuple[Point, ...]
    config: Config
    folder: Path


def search_for_a_person(
    config: Config, plan: Plan, *, device: Path | None = None, verbose: bool = False
) -> FoundFiles:
    """Searches, telling how far it is; one that was killed goes on.

    Args:
        config: what the data is, and how the candidates are trained and converted.
        plan: what is searched among.
        device: what `edgeline benchmark --json` said on a device; then `plan.max_ms` is of it.
        verbose: show the libraries' output instead of writing it to a log file.

    Raises:
        UserError: a base, a size or a variant can't be, or nothing is within the budgets.
    """
    dataset = Dataset.load(config.data.path)
    # Without a log yet: a mistake leaves no folder.
    with console(None) as screen:
        number = len(plan.candidates)
        screen.say(
            f"{number} candidate{'s' if number > 1 else ''}: {', '.join(plan.bases)} at "
            f"{', '.join(map(str, plan.sides))} pixels, as {', '.join(plan.variants)}"
        )
        screen.busy("checking settings, data and weights")
        _check(config, plan, dataset)
        measured = DeviceFigures.load(device, config) if device else None
    folder = (config.run.root / config.name / FOLDER).absolute()
    with console(None if verbose else folder / "search.log") as screen:
        points = _search(config, plan, dataset, measured, folder, screen)
        best = winner(points)
        assert best is not None  # else the search would have said so
        won = _settings(config, best, plan)
        toml = to_toml(won)
        # Here, not above: with SciPy.
        from pipeline.search.page import page

        write_whole(folder / WINNER_FILE, toml.encode())
        write_whole(folder / PAGE_FILE, page(config.name, plan, points, toml).encode())
        screen.say(
            f"won: {best.candidate.base} at {best.candidate.side} pixels, {best.variant}: accuracy "
            f"{best.accuracy:.4f} on the eval split, {best.cost.bytes / MEGABYTE:.2f} MB, "
            f"{best.cost.ms:.1f} ms"
        )
        screen.say(f"the picture: {folder / PAGE_FILE}")
        screen.say(f"to run it: python -m pipeline run --config {folder / WINNER_FILE}")
        _remove_work(folder)
    return FoundFiles(tuple(points), parse_config(won, str(folder / WINNER_FILE)), folder)


def _search(
    config: Config,
    plan: Plan,
    dataset: Dataset,
    device: DeviceFigures | None,
    folder: Path,
    screen: Console,
) -> list[Point]:
    screen.say("loading TensorFlow ...")
    screen.busy("the search")
    # Here, not above: seconds that no mistake should wait for.
    from dataclasses import replace

    from pipeline.search.halving import search
    from pipeline.search.lab import TrainingLab
    from pipeline.search.notes import Notes

    if device is not None:
        plan = replace(plan, slower=device.slower_than_here())
        screen.say(
            "the device takes, against this machine: "
            + ", ".join(f"{name} {ratio:.2f} times" for name, ratio in plan.slower.items())
        )
    notes = Notes(folder, _key(config, plan, dataset))
    if notes.is_new:
        _remove_work(folder)
    else:
        screen.say("going on with an earlier search")
    return search(plan, TrainingLab(config, dataset, plan, folder), notes, screen.say)


def _remove_work(folder: Path) -> None:
    """Removes features, checkpoints and models; what is known stays in the notes."""
    for each in filter(Path.is_dir, folder.iterdir()):
        shutil.rmtree(each)


def _check(config: Config, plan: Plan, dataset: Dataset) -> None:
    for what, given, known in (
        ("base", plan.bases, list(BASES)),
        ("variant", plan.variants, [n for n, v in VARIANTS.items() if not v.searched]),
    ):
        for name in given:
            if name not in known:
                hint = did_you_mean(name, known) or f"expected one of: {', '.join(known)}"
                raise UserError(f"{name}: no such {what} to search among; {hint}")
    for what, number in (
        ("max-size-mb", plan.max_size_mb),
        ("max-ms", plan.max_ms),
        ("minutes", plan.minutes),
    ):
        if number is not None and not 0 < number < math.inf:
            raise UserError(f"{what}: expected more than 0; received {number:g}")
    for side in plan.sides:
        if not SIDES[0] <= side <= SIDES[1]:
            raise UserError(f"expected sides from {SIDES[0]} to {SIDES[1]} pixels; received {side}")
    for split in ("train", "eval"):
        if missing := [name for name in dataset.labels if not dataset.counts[split].get(name)]:
            raise UserError(f"{dataset.path}: split {split!r} has no image of {missing[0]}")
    trainer = config.trainer
    if trainer.warm_start or trainer.base_weights not in ("imagenet", "random"):
        raise UserError(
            'a search takes several bases: expected trainer.base_weights to be "imagenet" or '
            '"random", and no trainer.warm_start'
        )
    if not trainer.epochs:
        raise UserError("a search trains heads on frozen bases: expected trainer.epochs above 0")
    if trainer.base_weights == "imagenet":
        for base in plan.bases:
            check_imagenet_weights(BASES[base])


def _key(config: Config, plan: Plan, dataset: Dataset) -> str:
    """Tells what the outcomes depend on; budgets and minutes are not among it."""
    content = {
        "dataset": dataset.digest,
        "trainer": config.trainer.model_dump(mode="json", exclude={"base"}),
        "rewriter": config.rewriter.calibration_images,
        "variants": list(plan.variants),
        "slower": dict(plan.slower),
        "code": code_digest("pipeline.search.lab", "components.tflite_rewriter.worker"),
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _settings(config: Config, best: Point, plan: Plan) -> dict[str, Any]:
    """What the user has set, with what won."""
    settings = config.model_dump(mode="json", exclude_unset=True)
    candidate: Candidate = best.candidate
    trainer = settings.get("trainer", {})
    if candidate.base != config.trainer.base:
        # A block of another base.
        trainer = {key: value for key, value in trainer.items() if key != "fine_tune_from"}
    gate: dict[str, Any] = {**settings["gate"], "require": [best.variant]}
    if plan.max_size_mb is not None:
        gate["max_size_mb"] = plan.max_size_mb
    # What the gate compares latencies with.
    reference = ["float32"] if config.gate.max_latency_ratio and best.variant != "float32" else []
    return {
        **settings,
        "image": {"height": candidate.side, "width": candidate.side},
        "trainer": {**trainer, "base": candidate.base},
        "rewriter": {**settings.get("rewriter", {}), "variants": [best.variant, *reference]},
        "gate": gate,
    }


def to_toml(settings: Mapping[str, Any]) -> str:
    """A configuration as a TOML file: single settings first, then a section each."""
    return "\n".join(_lines(settings)) + "\n"


def _lines(settings: Mapping[str, Any]) -> Iterator[str]:
    given = {key: value for key, value in settings.items() if value is not None}
    yield from (f"{k} = {in_toml(v)}" for k, v in given.items() if not isinstance(v, Mapping))
    for name, section in given.items():
        if isinstance(section, Mapping):
            yield f"\n[{name}]"
            yield from (f"{k} = {in_toml(v)}" for k, v in section.items() if v is not None)
