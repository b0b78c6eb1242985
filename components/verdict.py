"""The content of a TFLiteVerdict artifact: what was measured, against which threshold, and passed.

It is what the run's summary prints, what the pusher obeys, and a layer of every release.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

VERDICT_FILE = "verdict.json"
REPORT_FILE = "report.html"
SKETCHES_FOLDER = "sketches"  # of the split as each variant sees it, for devices to compare with
CHECKS_FILE = "checks.csv"  # every check of every model, also those that a verdict leaves out
CONFUSION_FILE = "confusion.csv"  # how often every class was said of every label
PREDICTIONS_CSV = "predictions.csv"  # what every model said of every image
RUN_PROPERTY = "run"  # of the artifact: id of the run that judged, also when the step is cached
VERSION = 1
CONFIDENCE = 0.95  # of the intervals in a verdict that doesn't say
OVERALL = "overall"
# A release's readers take 10,000 checks of a model and 16 MiB of a verdict, at most.
MOST_CHECKS = 3000  # on record of one model
MOST_CONFUSED = 50  # classes whose confusion is on record
PRECISION_OF = "precision of "
_OF_CLASS = (PRECISION_OF, "recall of ")


Decision = Literal["passed", "failed", "not proved"]
Unproven = Literal["point", "accept", "refuse"]


@dataclass(frozen=True)
class Check:
    """One metric on one slice; without a threshold it is only reported.

    Attributes:
        metric: its name.
        slice: "overall" or "<key>=<value>".
        value: NaN where the metric is not defined, as the precision of a class never said.
        threshold: what it is held against.
        bound: whether that is the least or the most.
        interval: of the value, with the verdict's confidence.
        unproven: what becomes of a threshold that is within the interval. "refuse": it is missed.
            "accept": the value decides. "point": the value decides always.
        images_needed: about how many images would decide, if the value stayed; None where none
            would, or where it is decided.
        waived: what it would be held against, had the machine not been so busy that the value, a
            latency, says more of that; `threshold` is None then.
    """

    metric: str
    slice: str
    value: float
    threshold: float | None = None
    bound: Literal["min", "max"] = "min"
    interval: tuple[float, float] | None = None
    unproven: Unproven = "point"
    images_needed: int | None = None
    waived: float | None = None

    @property
    def asked(self) -> float | None:
        """The threshold, also one that is waived."""
        return self.threshold if self.waived is None else self.waived

    @property
    def decision(self) -> Decision:
        """Whether the interval, or where there is none the value, is within the threshold."""
        if self.waived is not None:
            return "not proved"
        if self.threshold is None or self.interval is None or self.unproven == "point":
            return "passed" if self._is_within(self.value) else "failed"
        # Every part of the interval, or none, or some: NaN is within nothing.
        within = [self._is_within(end) for end in self.interval]
        return "passed" if all(within) else "not proved" if any(within) else "failed"

    @property
    def passed(self) -> bool:
        """Whether it is no reason against a release; NaN always is, where there is a threshold."""
        if self.decision != "not proved":
            return self.decision == "passed"
        if self.waived is not None:
            return True
        return self.unproven == "accept" and self._is_within(self.value)

    def _is_within(self, value: float) -> bool:
        if self.asked is None:
            return True
        return value >= self.asked if self.bound == "min" else value <= self.asked

    @property
    def of_part(self) -> bool:
        """Whether it is of one class or one slice, of which there may be thousands."""
        return self.slice != OVERALL or self.metric.startswith(_OF_CLASS)

    @property
    def margin(self) -> float:
        """How far the value is within its threshold; NaN as far out of it as can be.

        Raises:
            ValueError: there is no threshold.
        """
        if self.asked is None:
            raise ValueError(f"{self.metric} on {self.slice} has no threshold")
        if math.isnan(self.value):
            return -math.inf
        within = self.value - self.asked
        return within if self.bound == "min" else -within

    @property
    def reason(self) -> str:
        """How far the value is from its threshold, in words."""
        where = "" if self.slice == OVERALL else f" on {self.slice}"
        threshold = 0.0 if self.asked is None else self.asked
        if self._is_within(self.value):
            relation = "within the minimum" if self.bound == "min" else "within the maximum"
        else:
            relation = "below the minimum" if self.bound == "min" else "above the maximum"
        missed_by = abs(self.value - threshold)
        return (
            f"{self.metric}{where} is {self.value:.4f}, "
            f"{missed_by:.4f} {relation} of {threshold:.4f}{self._doubt}"
        )

    @property
    def _doubt(self) -> str:
        if self.waived is not None:
            return ", which the machine was too busy for: it is not gated on"
        if self.decision != "not proved" or self.interval is None:
            return ""
        low, high = self.interval
        needed = f": it takes about {self.images_needed:,} images" if self.images_needed else ""
        return f", which the interval {low:.4f} to {high:.4f} does not prove{needed}"


@dataclass(frozen=True)
class VariantVerdict:
    """Everything known of one variant."""

    variant: str
    checks: tuple[Check, ...] = ()
    error: str | None = None  # that kept it from being made or measured
    bytes: int | None = None
    sha256: str | None = None
    latency_ms: dict[str, float] | None = None  # p25, p50, p75 and p95 of one image
    threads: int | None = None  # that the latency was measured with
    confusion: tuple[tuple[int, ...], ...] | None = None  # [label][said], counts
    noisy: bool = False  # whether latencies scatter so much that the machine must have been busy

    @property
    def missed(self) -> tuple[Check, ...]:
        """The checks that are not within their threshold."""
        return tuple(check for check in self.checks if not check.passed)

    @property
    def never_said(self) -> tuple[str, ...]:
        """The classes that it says of no image."""
        return tuple(
            check.metric.removeprefix(PRECISION_OF)
            for check in self.checks
            if check.metric.startswith(PRECISION_OF) and math.isnan(check.value)
        )

    @property
    def unproven(self) -> tuple[Check, ...]:
        """The checks that passed without proof."""
        return tuple(
            check for check in self.checks if check.passed and check.decision == "not proved"
        )

    @property
    def reasons(self) -> tuple[str, ...]:
        """Why it did not pass; empty if it did."""
        if self.error:
            return (self.error,)
        return tuple(check.reason for check in self.missed)

    def main_reasons(self, most: int) -> tuple[str, ...]:
        """The reasons if they are no more; else half as many, and how many were left out.

        What is overall comes first then, and after it what was missed by most.
        """
        if len(self.reasons) <= most:
            return self.reasons
        ranked = sorted(self.missed, key=lambda check: (check.of_part, check.margin))
        shown = [check.reason for check in ranked[: most // 2]]
        return (*shown, f"and {len(ranked) - len(shown):,} more thresholds missed")

    @property
    def passed(self) -> bool:
        """Whether it may be published. A variant nothing was measured of may not."""
        return bool(self.checks) and not self.reasons


@dataclass(frozen=True)
class Policy:
    """What a release needs."""

    require: tuple[str, ...] = ()  # variants without which nothing is published
    publish: Literal["passed", "required"] = "passed"  # of the variants that passed


@dataclass(frozen=True)
class Deployed:
    """The release that was on the channel, with which the new variants were compared."""

    tag: str
    digest: str


@dataclass(frozen=True)
class Verdict:
    """The verdicts on the float model and on every variant, and what follows.

    Attributes:
        split: that was judged on.
        examples: how many.
        float_model: the verdict on the model the variants were made from.
        variants: the verdicts on them, in the order they were asked for.
        policy: what a release needs.
        deployed: what they were compared with; None if no release was deployed yet.
        inputs_digest: of everything the model was made from; equal for a run that makes it again,
            also with other thresholds.
        left_out: how many checks of each model are not on record, see `recorded`.
        confidence: of every interval, two-sided. Above 0.95 where several variants are judged, so
            that 0.95 holds for all of them together (Bonferroni).
    """

    split: str
    examples: int
    float_model: VariantVerdict
    variants: tuple[VariantVerdict, ...]
    policy: Policy = Policy()
    deployed: Deployed | None = None
    inputs_digest: str = ""
    left_out: int = 0
    confidence: float = CONFIDENCE

    @property
    def models(self) -> tuple[VariantVerdict, ...]:
        """The verdicts on the float model and, after it, on the variants."""
        return (self.float_model, *self.variants)

    @property
    def passed(self) -> tuple[str, ...]:
        """The variants that passed; none if the float model itself did not."""
        if not self.float_model.passed:
            return ()
        return tuple(variant.variant for variant in self.variants if variant.passed)

    @property
    def missing(self) -> tuple[str, ...]:
        """The required variants that did not pass."""
        return tuple(name for name in self.policy.require if name not in self.passed)

    @property
    def publishable(self) -> tuple[str, ...]:
        """The variants that a release consists of; empty if there may be none."""
        if self.missing:
            return ()
        if self.policy.publish == "required":
            return tuple(name for name in self.passed if name in self.policy.require)
        return self.passed

    @property
    def fastest_first(self) -> tuple[str, ...]:
        """The publishable variants by their median latency; those without one come last."""
        latency = {each.variant: each.latency_ms or {} for each in self.variants}
        return tuple(sorted(self.publishable, key=lambda name: latency[name].get("p50", math.inf)))

    def to_json(self) -> bytes:
        """The verdict with its conclusions (`passed`, `reasons`), for readers in any language."""
        document = {
            "version": VERSION,
            "split": self.split,
            "examples": self.examples,
            "passed": list(self.passed),
            "published": list(self.publishable),
            "policy": asdict(self.policy),
            "deployed": asdict(self.deployed) if self.deployed else None,
            "inputs_digest": self.inputs_digest,
            "left_out": self.left_out,
            "confidence": self.confidence,
            "float": _variant_to_json(self.float_model),
            "variants": [_variant_to_json(variant) for variant in self.variants],
        }
        return json.dumps(document, indent=2, allow_nan=False).encode() + b"\n"

    @classmethod
    def from_json(cls, content: bytes) -> Verdict:
        """Reads what `to_json` wrote; conclusions are drawn again, never read.

        Raises:
            ValueError: it is not a verdict of this version.
        """
        document = json.loads(content)
        if not isinstance(document, dict) or document.get("version") != VERSION:
            raise ValueError(f"expected a verdict of version {VERSION}, got {content[:80]!r}")
        policy, deployed = document["policy"], document["deployed"]
        return cls(
            split=document["split"],
            examples=document["examples"],
            float_model=_variant_from_json(document["float"]),
            variants=tuple(_variant_from_json(variant) for variant in document["variants"]),
            policy=Policy(tuple(policy["require"]), policy["publish"]),
            deployed=Deployed(**deployed) if deployed else None,
            inputs_digest=document["inputs_digest"],
            # Older ones left out nothing, and had no word for the confidence.
            left_out=document.get("left_out", 0),
            confidence=document.get("confidence", CONFIDENCE),
        )

    @classmethod
    def load(cls, folder: Path) -> Verdict:
        """Reads a TFLiteVerdict artifact."""
        return cls.from_json((folder / VERDICT_FILE).read_bytes())


def metric_value(checks: Sequence[Check], metric: str, slice_: str = OVERALL) -> float:
    """The value of one metric on one slice.

    Raises:
        KeyError: it was not measured.
    """
    for check in checks:
        if (check.metric, check.slice) == (metric, slice_):
            return check.value
    raise KeyError(f"{metric} on {slice_} was not measured")


def _variant_to_json(verdict: VariantVerdict) -> dict[str, Any]:
    document = asdict(verdict)
    document["checks"] = list(map(_check_to_json, verdict.checks))
    return {**document, "passed": verdict.passed, "reasons": list(verdict.reasons)}


def _check_to_json(check: Check) -> dict[str, Any]:
    """What says nothing is left out: there are thousands."""
    row = {key: value for key, value in asdict(check).items() if value is not None}
    if check.interval is None:
        del row["unproven"]
    if check.interval is not None or check.waived is not None:
        row["decision"] = check.decision
    # JSON knows no NaN.
    value = None if math.isnan(check.value) else check.value
    return {**row, "value": value, "threshold": check.threshold, "passed": check.passed}


def _variant_from_json(document: dict[str, Any]) -> VariantVerdict:
    facts = {k: v for k, v in document.items() if k not in ("passed", "reasons")}
    confusion = document["confusion"]
    return VariantVerdict(
        **{
            **facts,
            "checks": tuple(map(_check_from_json, document["checks"])),
            "confusion": tuple(map(tuple, confusion)) if confusion else None,
        }
    )


def _check_from_json(row: dict[str, Any]) -> Check:
    facts = {k: v for k, v in row.items() if k not in ("passed", "decision")}
    value = math.nan if row["value"] is None else row["value"]
    interval = tuple(row["interval"]) if row.get("interval") else None
    return Check(**{**facts, "value": value, "interval": interval})
