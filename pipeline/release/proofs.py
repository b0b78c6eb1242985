"""What a split of so many images can prove, before anything is trained."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from components.intervals import drop_interval, scale_needed, share_interval, simultaneous
from pipeline.config import Config
from pipeline.data.dataset import Dataset
from pipeline.errors import UserError


@dataclass(frozen=True)
class _Threshold:
    """A threshold, and what it is held against in the best of cases.

    Attributes:
        setting: its name.
        value: of it.
        images: that it is measured on.
        end: of the interval of so many images, where all is as good as it can be.
        bound: whether the end must be at least or at most the value.
        meaning: what the end is, in words.
    """

    setting: str
    value: float
    images: int
    end: Callable[[float], float]
    bound: str
    meaning: str

    def is_proved(self, images: float) -> bool:
        """Whether so many images can prove it."""
        end = self.end(images)
        return end >= self.value if self.bound == "min" else end <= self.value

    @property
    def problem(self) -> str:
        """Why it can't be proved, and how many images could."""
        scale = scale_needed(lambda scale: self.is_proved(self.images * scale))
        needed = f"it takes {math.ceil(self.images * scale):,}" if scale else "no number proves it"
        return (
            f"gate.{self.setting} = {self.value:g} can't be proved with {self.images:,} images: "
            f"{self.meaning.format(self.end(self.images))}; {needed}"
        )


def check_proofs(config: Config, dataset: Dataset) -> list[str]:
    """Checks which thresholds the split that is judged on can't prove, however good a model is.

    Where figures decide and not intervals, those that allow for no image.

    Returns:
        A line for each.

    Raises:
        UserError: there is one, and what is not proved is refused.
    """
    images = sum(dataset.counts[config.gate.split].values())
    if config.gate.evidence == "point":
        return [
            f"gate.{settings} = {budget:g} is less than one of {images:,} images: a variant may "
            "lose none"
            for settings, budget in _budgets(config)
            if 0 < budget * images < 1
        ]
    problems = [
        threshold.problem
        for threshold in _thresholds(config, dataset.counts[config.gate.split])
        if not threshold.is_proved(threshold.images)
    ]
    if problems and config.gate.unproven == "refuse":
        raise UserError(
            "\n".join(problems) + '\nwith gate.unproven = "refuse" nothing can be published: '
            'expected more images, other thresholds, or gate.unproven = "accept"'
        )
    return problems


def _budgets(config: Config) -> Iterator[tuple[str, float]]:
    """What accuracy may drop by, with the names of the settings that say so."""
    gate = config.gate
    # Without a registry nothing is deployed.
    deployed = gate.max_drop_deployed if config.registry else None
    budgets = {"max_drop": gate.max_drop, "max_drop_deployed": deployed}
    for budget in sorted({value for value in budgets.values() if value is not None}):
        yield " and gate.".join(name for name, value in budgets.items() if value == budget), budget


def _thresholds(config: Config, counts: Mapping[str, int]) -> Iterator[_Threshold]:
    gate, images = config.gate, sum(counts.values())
    confidence = simultaneous(len(config.rewriter.variants))

    def most_drop(images: float) -> float:
        return drop_interval(0, 0, images, confidence)[1]

    def least_share(images: float) -> float:
        return share_interval(1.0, images, confidence)[0]

    for settings, budget in _budgets(config):
        meaning = "a variant that never differs on them may still drop by {:.4f}"
        yield _Threshold(settings, budget, images, most_drop, "max", meaning)
    meaning = "a model that is right on all of them may still be so in {:.4f} only"
    for setting, minimum in (
        ("min_accuracy", gate.min_accuracy),
        ("min_agreement", gate.min_agreement),
    ):
        if minimum is not None:
            yield _Threshold(setting, minimum, images, least_share, "min", meaning)
    for label, minimum in gate.min_recall.items():
        yield _Threshold(
            f"min_recall.{label}", minimum, counts.get(label, 0), least_share, "min", meaning
        )
