"""Searches for the variant of each layer: the frontier of accuracy against size and latency.

Two ladders of variants lead from what is cheapest to what costs no accuracy, one for size and one
for latency. A search climbs a ladder until a whole rung is accurate enough. Then it mixes that rung
with the one below it: each layer's harm is measured, by quantizing it alone; the most harmful ones
for their size are lifted first, as few as suffice; and those are taken back again, one by one, that
were lifted only for their place in the order.

16-bit activations are on neither ladder: a layer of them is as large as one of `weight_int8`, no
more accurate and many times slower.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from components.tflite_models import FrontierPoint
from components.tflite_rewriter.check import CheckError, Op, predict, read_ops, runner
from components.tflite_rewriter.images import StoredPixels
from components.tflite_rewriter.recipes import Ranges, quantize, quantize_unpacked, whole
from components.tflite_rewriter.variants import VARIANTS, Aim, Recipe, SearchSettings
from components.timing import take_turn

BY_SIZE = ("dynamic_int4", "dynamic", "weight_int8", "float32")
BY_LATENCY = ("int8", "weight_int8", "float32")
HARM_IMAGES = 16  # on which the harm of one layer is measured; more hardly change the order
SHARES = (0.25, 0.5, 0.75)  # of what lies between 4 and 8 bits, to draw the frontier by
# Of the trials: by when each answer has to be there, the one that was asked for first.
DEADLINES = (0.5, 0.75, 1.0)
ROUNDS, ROUND_IMAGES = 3, 12  # of measuring latency, all recipes in turns
LEAST_PROBABILITY = 1e-7  # a divergence is finite also where a model is quite sure
MINUTE = 60.0  # s

Say = Callable[[str], None]


@dataclass(frozen=True, eq=False)
class Evaluation:
    """What a trial is measured on.

    Attributes:
        pixels: of the images.
        label_ids: int64 `[images]`.
        float_model: probabilities that the float model gives, `[images, classes]`.
    """

    pixels: StoredPixels
    label_ids: NDArray[np.int64]
    float_model: NDArray[np.float32]

    def ask(self, model: bytes, count: int | None = None) -> NDArray[np.float32]:
        """What a TFLite file says of the first so many images, or all: `[images, classes]`."""
        pixels = self.pixels if count is None else self.pixels.read(0, count)
        return predict(model, pixels, classes=self.float_model.shape[1])

    def time(self, model: bytes) -> list[float]:
        """The milliseconds that a TFLite file takes for each of some images, after warming up."""
        run = runner(model, self.pixels.shape, self.float_model.shape[1])
        image = self.pixels.read(0, 1)[0]
        run(image)  # packs weights
        return [1e3 * seconds for seconds in take_turn(run, [image] * ROUND_IMAGES)]

    def accuracy(self, probabilities: NDArray[np.float32]) -> float:
        """The share of the images that is said right."""
        return float((probabilities.argmax(axis=1) == self.label_ids).mean())

    def divergence(self, probabilities: NDArray[np.float32]) -> float:
        """How far answers on the first images are from the float model's, see `divergence`."""
        return divergence(self.float_model[: len(probabilities)], probabilities)


def divergence(expected: NDArray[np.float32], probabilities: NDArray[np.float32]) -> float:
    """How far answers are from those expected, `[images, classes]` each.

    The mean Kullback-Leibler divergence (Kullback and Leibler 1951), in nats.
    """
    logs = [np.log(np.maximum(p, LEAST_PROBABILITY)) for p in (expected, probabilities)]
    return float((expected * (logs[0] - logs[1])).sum(axis=1).mean())


@dataclass(frozen=True)
class Trial:
    """A recipe and what was measured of it.

    Attributes:
        recipe: how it is made.
        bytes: of the file.
        accuracy: a share of the images.
        drop: of accuracy, against the float model.
        divergence: from the float model's answers, see `Evaluation`.
        quartiles_ms: of the latency of one image; the second is the median. Measured last.
    """

    recipe: Recipe
    bytes: int
    accuracy: float
    drop: float
    divergence: float
    quartiles_ms: tuple[float, float, float] = (np.nan, np.nan, np.nan)

    @property
    def median_ms(self) -> float:
        """The median latency."""
        return self.quartiles_ms[1]

    @property
    def lost(self) -> tuple[float, float]:
        """What it lost; more right answers than the float model's are luck, and no merit."""
        return max(self.drop, 0.0), self.divergence

    def beats(self, other: Trial) -> bool:
        """Whether it is as good in everything, and better in something."""
        mine, others = (
            (float(trial.bytes), trial.median_ms, *trial.lost) for trial in (self, other)
        )
        return (
            mine != others
            and self.bytes <= other.bytes
            and self.median_ms <= other.median_ms
            and self.lost <= other.lost
        )


@dataclass(frozen=True)
class FoundRecipe:
    """The outcome of a search.

    Attributes:
        model: the TFLite flatbuffer that answers what was asked.
        recipe: how it was made.
        frontier: the trials that no other one beats, by size.
        trials: all of them, as they go on record.
        note: what was chosen and by what, in words.
    """

    model: bytes
    recipe: Recipe
    frontier: tuple[FrontierPoint, ...]
    trials: list[dict[str, Any]]
    note: str


def search(
    float32: bytes, ranges: Ranges, evaluation: Evaluation, settings: SearchSettings, say: Say
) -> FoundRecipe:
    """Finds the smallest, the fastest and the most accurate, and the frontier that they are on.

    Args:
        float32: a TFLite file.
        ranges: of `recipes.calibrate`.
        evaluation: images to measure on; not those that judge the result.
        settings: what is asked, and within which budget.
        say: is told how far it is.

    Raises:
        CheckError: not even the smallest recipe is within `max_size_mb`, and the most accurate
            within it was asked for.
    """
    trials = Trials(float32, ranges, evaluation, settings, say)
    questions: dict[Aim, Callable[[], None]] = {
        "smallest": lambda: _climb(trials, BY_SIZE),
        "fastest": lambda: _climb(trials, BY_LATENCY),
        "most_accurate": lambda: _fill(trials),
    }
    asked = sorted(questions, key=lambda question: question != settings.aim)
    for question, share in zip(asked, DEADLINES, strict=True):
        trials.allow(share)
        questions[question]()
    trials.measure_latency()
    found = answers(trials.done, settings)
    if settings.aim not in found:
        least = min(trial.bytes for trial in trials.done) / 1e6
        raise CheckError(
            f"expected a recipe within {settings.max_size_mb} MB, the smallest has {least:.2f} MB: "
            "raise gate.max_size_mb"
        )
    chosen = found[settings.aim]
    return FoundRecipe(
        model=quantize(float32, chosen.recipe, ranges),
        recipe=chosen.recipe,
        frontier=tuple(_point(trial, found) for trial in frontier(trials.done)),
        trials=[{**asdict(trial), "answers": _answered(trial, found)} for trial in trials.done],
        note=_note(trials, chosen),
    )


class Trials:
    """Quantizes by recipes and measures, each recipe once, within a budget.

    Attributes:
        layers: the operations of the float model.
        settings: what is asked.
    """

    def __init__(
        self,
        float32: bytes,
        ranges: Ranges,
        evaluation: Evaluation,
        settings: SearchSettings,
        say: Say,
    ) -> None:
        self.layers = read_ops(float32)
        self.settings = settings
        self._float32, self._ranges, self._evaluation = float32, ranges, evaluation
        self._say = say
        self._done: list[Trial] = []
        self._models: list[bytes] = []
        self._harms: dict[str, dict[str, float]] = {}
        self._allowed = settings.trials
        self._started = time.monotonic()
        self.time_was_up = False

    @property
    def done(self) -> Sequence[Trial]:
        """All trials, in order."""
        return self._done

    @property
    def images(self) -> int:
        """On how many images each was measured."""
        return len(self._evaluation.pixels)

    def allow(self, share: float) -> None:
        """From now on, so large a share of all trials may have been made."""
        self._allowed = round(share * self.settings.trials)

    @property
    def exhausted(self) -> bool:
        """Whether the budget is."""
        if self._minutes() >= self.settings.minutes:
            self.time_was_up = True
        return self.time_was_up or len(self._done) >= self._allowed

    def run(self, recipe: Recipe) -> Trial:
        """Measures a recipe, also where the budget is exhausted."""
        found = next((trial for trial in self._done if trial.recipe == recipe), None)
        if found:
            return found
        model = quantize(self._float32, recipe, self._ranges)
        answers = self._evaluation.ask(model)
        accuracy = self._evaluation.accuracy(answers)
        drop = self._evaluation.accuracy(self._evaluation.float_model) - accuracy
        divergence = self._evaluation.divergence(answers)
        trial = Trial(recipe, len(model), accuracy, drop, divergence)
        self._done.append(trial)
        self._models.append(model)
        self._say(
            f"trial {len(self._done)} of at most {self.settings.trials}, {self._time()}: "
            f"{in_words(recipe)}: {len(model) / 1e6:.2f} MB, drop {drop:.4f}"
        )
        return trial

    def suffices(self, recipe: Recipe) -> bool:
        """Whether it is accurate enough."""
        return self.run(recipe).drop <= self.settings.max_drop

    def harms(self, variant: str) -> Mapping[str, float]:
        """By layer, how far the answers move if it alone is made as a variant.

        Not of those that are not made so even where all are. What there was no time for counts as
        the most harmful.
        """
        if variant not in self._harms:
            integer, others = VARIANTS[variant].integer, whole(variant, self.layers).layers
            made = [op.name for op in self.layers if integer or op.kernel]
            layers = [name for name in made if name not in others]
            self._harms[variant] = harms = dict.fromkeys(layers, np.inf)
            for number, layer in enumerate(layers):
                if self._minutes() >= self.settings.minutes:
                    self.time_was_up = True
                    break
                if number % 10 == 0:
                    self._say(
                        f"the harm of {variant} to each layer: {number} of {len(layers)}, "
                        f"{self._time()}"
                    )
                recipe = Recipe("float32", {layer: variant})
                model = quantize_unpacked(self._float32, recipe, self._ranges)
                answers = self._evaluation.ask(model, HARM_IMAGES)
                harms[layer] = self._evaluation.divergence(answers)
        return self._harms[variant]

    def measure_latency(self) -> None:
        """Times all trials in turns, so that a busy while slows none of them alone."""
        times: list[list[float]] = [[] for _ in self._models]
        for number in range(1, ROUNDS + 1):
            self._say(f"latency of {len(self._models)} recipes: round {number} of {ROUNDS}")
            for model, measured in zip(self._models, times, strict=True):
                measured += self._evaluation.time(model)
        for index, measured in enumerate(times):
            low, median, high = np.percentile(measured, (25, 50, 75)).round(3).tolist()
            self._done[index] = replace(self._done[index], quartiles_ms=(low, median, high))

    def _minutes(self) -> float:
        return (time.monotonic() - self._started) / MINUTE

    def _time(self) -> str:
        return f"{self._minutes():.1f} of at most {self.settings.minutes:g} minutes"


def answers(trials: Sequence[Trial], settings: SearchSettings) -> dict[Aim, Trial]:
    """The trials that answer the questions; the last has no answer where it was not asked.

    Of equals, the one that is better in the rest: so an answer is always on the frontier.
    """
    enough = [trial for trial in trials if trial.drop <= settings.max_drop]
    found: dict[Aim, Trial] = {
        "smallest": min(enough, key=lambda t: (t.bytes, t.lost, t.median_ms)),
        "fastest": min(enough, key=lambda t: (t.median_ms, t.lost, t.bytes)),
    }
    limit = settings.max_size_mb
    small = [trial for trial in trials if limit and trial.bytes <= limit * 1e6]
    if small:
        found["most_accurate"] = min(small, key=lambda t: (t.lost, t.bytes, t.median_ms))
    return found


def frontier(trials: Sequence[Trial]) -> list[Trial]:
    """The trials that no other one beats, by size."""
    unbeaten = [trial for trial in trials if not any(other.beats(trial) for other in trials)]
    return sorted(unbeaten, key=lambda trial: trial.bytes)


def _climb(trials: Trials, ladder: Sequence[str]) -> None:
    """Tries rungs until one suffices, and then what lies between it and the one below."""
    for lower, upper in pairwise(ladder):
        if trials.suffices(whole(lower, trials.layers)):
            return
        if trials.suffices(whole(upper, trials.layers)):
            _mix(trials, lower, upper)
            return


def _mix(trials: Trials, lower: str, upper: str) -> None:
    """Lifts the fewest layers that suffice, and takes back those that it is enough without."""
    order = _order(trials, lower, upper)
    too_few, enough = 0, len(order)
    while enough - too_few > 1 and not trials.exhausted:
        middle = (enough + too_few) // 2
        if trials.suffices(_lifted(trials, lower, upper, order[:middle])):
            enough = middle
        else:
            too_few = middle
    lifted = order[:enough]
    for op in sorted(lifted[:-1], key=lambda op: -op.kernel_values):
        if trials.exhausted:
            return
        fewer = [other for other in lifted if other != op]
        if trials.suffices(_lifted(trials, lower, upper, fewer)):
            lifted = fewer


def _fill(trials: Trials) -> None:
    """Lifts what harms most, as far as the size allows, and draws the frontier on the way."""
    rungs = [trials.run(whole(variant, trials.layers)) for variant in BY_SIZE]
    limit = trials.settings.max_size_mb
    sizes = [rungs[0].bytes + share * (rungs[1].bytes - rungs[0].bytes) for share in SHARES]
    for size in (*([limit * 1e6] if limit else []), *sizes):
        for (lower, below), (upper, above) in pairwise(zip(BY_SIZE, rungs, strict=True)):
            if below.bytes < size < above.bytes and not trials.exhausted:
                order = _order(trials, lower, upper)
                trials.run(_lifted(trials, lower, upper, _fitting(order, size, below, above)))


def _fitting(order: Sequence[Op], size: float, below: Trial, above: Trial) -> list[Op]:
    """The first layers that fit, and of the others those that still do."""
    each = (above.bytes - below.bytes) / sum(op.kernel_values for op in order)
    # Not all: what is not in proportion to the values, such as scales, has to fit too.
    room, lifted = 0.99 * (size - below.bytes), []
    for op in order:
        if op.kernel_values * each <= room:
            lifted.append(op)
            room -= op.kernel_values * each
    return lifted


def _order(trials: Trials, lower: str, upper: str) -> list[Op]:
    """The layers, those first whose lifting does most good for its size."""
    harms = trials.harms(lower)
    grows = VARIANTS[lower].weights != VARIANTS[upper].weights
    layers = [op for op in trials.layers if op.name in harms]
    return sorted(
        layers, key=lambda op: -harms[op.name] / (op.kernel_values if grows and op.kernel else 1)
    )


def _lifted(trials: Trials, lower: str, upper: str, lifted: Sequence[Op]) -> Recipe:
    """All layers as one variant, but for some; those without a kernel know integers or floats."""
    above = {op.name: upper if op.kernel else "float32" for op in lifted}
    below = whole(lower, trials.layers)
    return Recipe(below.everywhere, {**below.layers, **above})


def in_words(recipe: Recipe) -> str:
    """A recipe in a few words."""
    choices = list(recipe.layers.values())
    counts = [(choices.count(name), name) for name in sorted(set(choices))]
    exceptions = [f"{count} layer{'s' * (count > 1)} {name}" for count, name in counts]
    return ", ".join((recipe.everywhere, *exceptions))


def _measured(trial: Trial) -> str:
    return f"{trial.bytes / 1e6:.2f} MB, drop {trial.drop:.4f}, {trial.median_ms:.1f} ms"


def _answered(trial: Trial, answers: Mapping[Aim, Trial]) -> tuple[str, ...]:
    return tuple(question for question, answer in answers.items() if answer is trial)


def _point(trial: Trial, answers: Mapping[Aim, Trial]) -> FrontierPoint:
    return FrontierPoint(
        in_words(trial.recipe),
        trial.bytes,
        round(trial.accuracy, 6),
        trial.median_ms,
        _answered(trial, answers),
    )


def _note(trials: Trials, chosen: Trial) -> str:
    settings = trials.settings
    limit = (
        f"{settings.max_size_mb:g} MB"
        if settings.aim == "most_accurate"
        else f"a drop of {settings.max_drop:g}"
    )
    note = (
        f"the {settings.aim.replace('_', ' ')} within {limit} of {len(trials.done)} recipes, on "
        f"{trials.images} images of the eval split: {in_words(chosen.recipe)}, {_measured(chosen)}"
    )
    if trials.time_was_up:
        note += "; the time was up before the search was done: with more it may find another"
    return note
