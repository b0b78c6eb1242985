"""The verdict that a release passed by, read from bytes that nobody has vouched for.

    verdict = Verdict.from_json(reader.read_verdict(release))
    verdict.objections({"int8": "sha256:..."})  # none: the release may be promoted

The pipeline's evaluator writes it, with its conclusions. They are read here and drawn again: a
verdict that says "passed" over checks that miss their thresholds has not passed.
"""

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, TypeAlias

from edgeline._records import MOST, Sha256, read
from edgeline._text import quoted
from edgeline.errors import IntegrityError

OVERALL = "overall"
AGREEMENT_WITH = "agreement with "  # the deployed release, whose tag and variant follow

_VERSION = 1
_MAX_TEXT = 1000  # characters


def _text(value: object) -> str:
    if not isinstance(value, str) or len(value) > _MAX_TEXT:
        raise ValueError(f"expected text of at most {_MAX_TEXT} characters, got {quoted(value)}")
    return value


def _bound(value: object) -> str:
    if value not in ("min", "max"):
        raise ValueError(f'expected "min" or "max", got {quoted(value)}')
    return str(value)


def _number(value: object) -> float:
    if value is None:
        return math.nan
    if type(value) is float or (type(value) is int and abs(value) <= MOST):
        return float(value)
    raise ValueError(f"expected a number, got {quoted(value)}")


def _interval(value: object) -> tuple[float, float]:
    if isinstance(value, list) and len(value) == 2 and {type(end) for end in value} == {float}:
        return value[0], value[1]
    raise ValueError(f"expected two numbers, got {quoted(value)}")


_Text: TypeAlias = Annotated[str, _text]
_Number: TypeAlias = Annotated[float, _number]


@dataclass(frozen=True)
class Check:
    """One metric on one slice; without a threshold it was only reported."""

    metric: _Text
    slice: _Text  # "overall" or "<key>=<value>"
    bound: Annotated[str, _bound]  # "min" or "max"
    value: _Number = math.nan  # where it is not defined, as the precision of a class never said
    threshold: _Number | None = None
    interval: Annotated[tuple[float, float], _interval] | None = None
    unproven: _Text | None = None  # "refuse": the whole interval must be within the threshold

    @property
    def passed(self) -> bool:
        """Whether the value is within its threshold, with what is asked of its interval."""
        ends = self.interval if self.unproven == "refuse" and self.interval else ()
        return all(map(self._is_within, (self.value, *ends)))

    def _is_within(self, value: float) -> bool:
        """Whether a value is within the threshold; NaN never is."""
        if self.threshold is None:
            return True
        return value >= self.threshold if self.bound == "min" else value <= self.threshold


@dataclass(frozen=True)
class VariantVerdict:
    """What was found of one variant, or of the float model that the variants were made from."""

    variant: _Text
    passed: bool  # by what is said; see `objections`
    reasons: tuple[_Text, ...]  # why not, in the evaluator's words
    checks: tuple[Check, ...]
    sha256: Sha256 | None = None  # of the weights
    error: _Text | None = None  # that kept it from being measured

    def objections(self) -> Iterator[str]:
        """Yield every reason why this has not passed."""
        reasons = dict.fromkeys(filter(None, (self.error, *self.reasons)))
        yield from reasons
        missed = [check for check in self.checks if not check.passed]
        if self.passed and not reasons:
            for check in missed:
                yield (
                    f"it is said to pass, but {check.metric} ({check.slice}) is {check.value:.4f} "
                    f"with a {check.bound}imum of {check.threshold:.4f}"
                )
        if not self.checks and not reasons:
            yield "nothing was measured of it"
        elif not self.passed and not reasons:
            yield "it did not pass, and no reason is recorded"


@dataclass(frozen=True)
class Policy:
    """What was to be published."""

    require: tuple[_Text, ...]  # variants without which nothing was


@dataclass(frozen=True)
class Deployed:
    """The release that was on the channel."""

    tag: _Text
    digest: _Text  # of its index


@dataclass(frozen=True)
class Verdict:
    """The verdicts on the float model and on every variant, and which of them were published."""

    split: _Text
    examples: int
    published: tuple[_Text, ...]
    policy: Policy
    float_model: VariantVerdict
    variants: tuple[VariantVerdict, ...]
    deployed: Deployed | None = None  # that it was compared with

    @classmethod
    def from_json(cls, content: bytes) -> "Verdict":
        """Read a verdict from untrusted bytes; what this edgeline has no use for is ignored.

        Raises:
            IntegrityError: they are not a verdict of the version that this edgeline knows.
        """
        try:
            # Older pipelines wrote a metric that is not defined as NaN.
            document = json.loads(content.decode())
        except (RecursionError, ValueError) as error:
            raise IntegrityError(f"The verdict is not valid JSON: {error}") from None
        version = document.get("version") if isinstance(document, dict) else None
        if type(version) is not int or version != _VERSION:
            raise IntegrityError(
                f"Expected a verdict of version {_VERSION}, got version {quoted(version)}. "
                "Was the release published by the pipeline? A newer one needs a newer edgeline"
            )
        try:
            verdict = read(cls, {**document, "float_model": document.get("float")}, strict=False)
        except ValueError as error:
            raise IntegrityError(f"The verdict is malformed: {error}") from None
        if len({variant.variant for variant in verdict.variants}) != len(verdict.variants):
            raise IntegrityError("The verdict names a variant twice")
        return verdict

    def metrics(self) -> dict[tuple[str, str, str], float]:
        """Return what was measured of published variants, by variant, metric and slice."""
        return {key: check.value for key, check in self.published_checks().items()}

    def published_checks(self) -> dict[tuple[str, str, str], Check]:
        """Return the checks of published variants, by variant, metric and slice."""
        return {
            (variant.variant, check.metric, check.slice): check
            for variant in self.variants
            if variant.variant in self.published
            for check in variant.checks
        }

    def promised_agreement(self, digest: str) -> float | None:
        """Return how often devices must get the label of the release before, at least.

        It is the lower end of the interval of what was measured on the test split, of the published
        variant that agrees least.

        Args:
            digest: of the index of the release before.

        Returns:
            A share of images; None where it was not measured, or with another release.
        """
        if self.deployed is None or self.deployed.digest != digest:
            return None
        ends = (
            check.interval[0]
            for (_, metric, slice_), check in self.published_checks().items()
            if metric.startswith(AGREEMENT_WITH) and slice_ == OVERALL and check.interval
        )
        return min(ends, default=None)

    def objections(self, weights: Mapping[str, str]) -> list[str]:
        """Return every reason why this verdict lets no release of these weights pass.

        Args:
            weights: the digest of each variant's weights, as the release has them.
        """
        found = [f"float model: {reason}" for reason in self.float_model.objections()]
        judged = {variant.variant: variant for variant in self.variants}
        for name, digest in sorted(weights.items()):
            if name not in judged:
                found.append(f"{name}: the verdict is silent on it")
                continue
            found += [f"{name}: {reason}" for reason in judged[name].objections()]
            if name not in self.published:
                found.append(f"{name}: it is not among those that were to be published")
            if digest != f"sha256:{judged[name].sha256}":
                found.append(
                    f"{name}: its weights are {digest}, but the verdict is on "
                    f"sha256:{judged[name].sha256}"
                )
        missing = [name for name in self.policy.require if name not in weights]
        found += [f"{name}: it is required, and missing from the release" for name in missing]
        return found
