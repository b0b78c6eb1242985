"""The verdict that a release passed by, read from bytes that nobody has vouched for.

    verdict = Verdict.from_json(reader.read_verdict(release))
    verdict.objections({"int8": "sha256:..."})  # none: the release may be promoted

The pipeline's evaluator writes it, with its conclusions. They are read here and drawn again: a
verdict that says "passed" over checks that miss their thresholds has not passed.
"""

import json
import math
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from edgeline._text import quoted
from edgeline.errors import IntegrityError

OVERALL = "overall"
AGREEMENT_WITH = "agreement with "  # the deployed release, whose tag and variant follow

_VERSION = 1
_MAX_VARIANTS = 100
_MAX_CHECKS = 10_000  # of one variant
_MAX_TEXT = 1000  # characters
_SHA256 = re.compile(r"[0-9a-f]{64}")

_T = TypeVar("_T")


@dataclass(frozen=True)
class Check:
    """One metric on one slice; without a threshold it was only reported."""

    metric: str
    slice: str  # "overall" or "<key>=<value>"
    value: float  # NaN where the metric is not defined, as the precision of a class never said
    threshold: float | None
    bound: str  # "min" or "max"
    interval: tuple[float, float] | None = None
    proved: bool = False  # whether the whole interval must be within the threshold

    @property
    def passed(self) -> bool:
        """Whether the value is within its threshold, with what is asked of its interval."""
        decisive = (self.value, *(self.interval or ())) if self.proved else (self.value,)
        return all(map(self._is_within, decisive))

    def _is_within(self, value: float) -> bool:
        """Whether a value is within the threshold; NaN never is."""
        if self.threshold is None:
            return True
        return value >= self.threshold if self.bound == "min" else value <= self.threshold


@dataclass(frozen=True)
class VariantVerdict:
    """What was found of one variant, or of the float model that the variants were made from."""

    variant: str
    said_to_pass: bool
    reasons: tuple[str, ...]  # why not, in the evaluator's words
    checks: tuple[Check, ...]
    sha256: str | None  # of the weights, in hex

    def objections(self) -> Iterator[str]:
        """Yield every reason why this has not passed."""
        yield from self.reasons
        missed = [check for check in self.checks if not check.passed]
        if self.said_to_pass and not self.reasons:
            for check in missed:
                yield (
                    f"it is said to pass, but {check.metric} ({check.slice}) is {check.value:.4f} "
                    f"with a {check.bound}imum of {check.threshold:.4f}"
                )
        if not self.checks and not self.reasons:
            yield "nothing was measured of it"
        elif not self.said_to_pass and not self.reasons:
            yield "it did not pass, and no reason is recorded"

    @property
    def passed(self) -> bool:
        """Whether it is said to pass and its checks bear that out."""
        return not any(self.objections())


@dataclass(frozen=True)
class Verdict:
    """The verdicts on the float model and on every variant, and which of them were published."""

    split: str
    examples: int
    published: tuple[str, ...]
    required: tuple[str, ...]  # variants without which nothing was to be published
    deployed: str | None  # tag of the release that it was compared with
    deployed_digest: str | None  # of that one's index
    float_model: VariantVerdict
    variants: tuple[VariantVerdict, ...]

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
        fields = _Fields(document, "The verdict")
        policy = fields.object("policy")
        deployed = fields.optional("deployed", fields.object)
        variants = tuple(map(_variant, fields.objects("variants", _MAX_VARIANTS)))
        if len({variant.variant for variant in variants}) != len(variants):
            raise IntegrityError("The verdict names a variant twice")
        return cls(
            split=fields.text("split"),
            examples=fields.count("examples"),
            published=fields.texts("published"),
            required=policy.texts("require"),
            deployed=deployed.text("tag") if deployed else None,
            deployed_digest=deployed.text("digest") if deployed else None,
            float_model=_variant(fields.object("float")),
            variants=variants,
        )

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
        if self.deployed_digest != digest:
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
        missing = [name for name in self.required if name not in weights]
        found += [f"{name}: it is required, and missing from the release" for name in missing]
        return found


def _variant(fields: "_Fields") -> VariantVerdict:
    name = fields.text("variant")
    fields = _Fields(fields.document, f"The verdict on {quoted(name)}")
    reasons = fields.texts("reasons")
    error = fields.optional("error", fields.text)
    return VariantVerdict(
        variant=name,
        said_to_pass=fields.flag("passed"),
        reasons=reasons if error is None or error in reasons else (error, *reasons),
        checks=tuple(map(_check, fields.objects("checks", _MAX_CHECKS))),
        sha256=fields.optional("sha256", fields.sha256),
    )


def _check(fields: "_Fields") -> Check:
    bound = fields.text("bound")
    if bound not in ("min", "max"):
        raise fields.wrong("bound", '"min" or "max"', bound)
    value = fields.optional("value", fields.number)
    return Check(
        metric=fields.text("metric"),
        slice=fields.text("slice"),
        value=math.nan if value is None else value,
        threshold=fields.optional("threshold", fields.number),
        bound=bound,
        interval=fields.optional("interval", fields.interval),
        proved=fields.document.get("unproven") == "refuse",
    )


class _Fields:
    """An untrusted JSON object, of which each field is read as what it should be."""

    def __init__(self, document: dict[str, Any], where: str) -> None:
        self.document = document
        self._where = where

    def wrong(self, name: str, expected: str, got: object) -> IntegrityError:
        return IntegrityError(
            f"{self._where} is malformed: expected {expected} under {name!r}, got {quoted(got)}"
        )

    def optional(self, name: str, read: Callable[[str], _T]) -> _T | None:
        return None if self.document.get(name) is None else read(name)

    def text(self, name: str) -> str:
        value = self.document.get(name)
        if not isinstance(value, str) or len(value) > _MAX_TEXT:
            raise self.wrong(name, f"text of at most {_MAX_TEXT} characters", value)
        return value

    def texts(self, name: str) -> tuple[str, ...]:
        values = self._list(name, _MAX_CHECKS)
        if not all(isinstance(value, str) and len(value) <= _MAX_TEXT for value in values):
            raise self.wrong(name, f"texts of at most {_MAX_TEXT} characters", values)
        return tuple(values)

    def flag(self, name: str) -> bool:
        value = self.document.get(name)
        if not isinstance(value, bool):
            raise self.wrong(name, "true or false", value)
        return value

    def count(self, name: str) -> int:
        value = self.document.get(name)
        if type(value) is not int or value < 0:
            raise self.wrong(name, "a count", value)
        return value

    def number(self, name: str) -> float:
        value = self.document.get(name, "nothing")
        if value is None:
            return math.nan
        if type(value) is int and abs(value) < 1 << 53:
            return float(value)
        if type(value) is not float:
            raise self.wrong(name, "a number", value)
        return value

    def interval(self, name: str) -> tuple[float, float]:
        ends = self.document.get(name)
        if not isinstance(ends, list) or len(ends) != 2 or {type(end) for end in ends} != {float}:
            raise self.wrong(name, "two numbers", ends)
        return ends[0], ends[1]

    def sha256(self, name: str) -> str:
        value = self.text(name)
        if not _SHA256.fullmatch(value):
            raise self.wrong(name, "a SHA-256 in hex", value)
        return value

    def object(self, name: str) -> "_Fields":
        value = self.document.get(name)
        if not isinstance(value, dict):
            raise self.wrong(name, "an object", value)
        return _Fields(value, f"{self._where}, {name!r},")

    def objects(self, name: str, most: int) -> list["_Fields"]:
        values = self._list(name, most)
        if not all(isinstance(value, dict) for value in values):
            raise self.wrong(name, "a list of objects", values)
        return [_Fields(value, f"{self._where}, {name!r},") for value in values]

    def _list(self, name: str, most: int) -> list[Any]:
        value = self.document.get(name)
        if not isinstance(value, list) or len(value) > most:
            raise self.wrong(name, f"a list of at most {most}", value)
        return value
