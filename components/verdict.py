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
CHECKS_FILE = "checks.csv"  # every check of every model, also those that a verdict leaves out
CONFUSION_FILE = "confusion.csv"  # how often every class was said of every label
RUN_PROPERTY = "run"  # of the artifact: id of the run that judged, also when the step is cached
VERSION = 1
OVERALL = "overall"
# A release's readers take 10,000 checks of a model and 16 MiB of a verdict, at most.
MOST_CHECKS = 3000  # on record of one model
MOST_CONFUSED = 50  # classes whose confusion is on record
_OF_CLASS = ("precision of ", "recall of ")


@dataclass(frozen=True)
class Check:
    """One metric on one slice; without a threshold it is only reported."""

    metric: str
    slice: str  # "overall" or "<key>=<value>"
    value: float  # NaN where the metric is not defined, as the precision of a class never said
    threshold: float | None = None
    bound: Literal["min", "max"] = "min"
    interval: tuple[float, float] | None = None  # 95%

    @property
    def passed(self) -> bool:
        """Whether the value is within its threshold; NaN never is."""
        if self.threshold is None:
            return True
        if self.bound == "min":
            return self.value >= self.threshold
        return self.value <= self.threshold

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
        if self.threshold is None:
            raise ValueError(f"{self.metric} on {self.slice} has no threshold")
        if math.isnan(self.value):
            return -math.inf
        within = self.value - self.threshold
        return within if self.bound == "min" else -within

    @property
    def reason(self) -> str:
        """How far the value is from its threshold, in words."""
        where = "" if self.slice == OVERALL else f" on {self.slice}"
        threshold = 0.0 if self.threshold is None else self.threshold
        relation = "below the minimum" if self.bound == "min" else "above the maximum"
        missed_by = abs(self.value - threshold)
        return (
            f"{self.metric}{where} is {self.value:.4f}, "
            f"{missed_by:.4f} {relation} of {threshold:.4f}"
        )


@dataclass(frozen=True)
class VariantVerdict:
    """Everything known of one variant."""

    variant: str
    checks: tuple[Check, ...] = ()
    error: str | None = None  # that kept it from being made or measured
    bytes: int | None = None
    sha256: str | None = None
    latency_ms: dict[str, float] | None = None  # p50 and p95 of one image
    threads: int | None = None  # that the latency was measured with
    confusion: tuple[tuple[int, ...], ...] | None = None  # [label][said], counts

    @property
    def missed(self) -> tuple[Check, ...]:
        """The checks that are not within their threshold."""
        return tuple(check for check in self.checks if not check.passed)

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
        deployed: what they were compared with; None if the channel had no release yet.
        inputs_digest: of everything the run was made from; equal for a run that repeats it.
        left_out: how many checks of each model are not on record, see `recorded`.
    """

    split: str
    examples: int
    float_model: VariantVerdict
    variants: tuple[VariantVerdict, ...]
    policy: Policy = Policy()
    deployed: Deployed | None = None
    inputs_digest: str = ""
    left_out: int = 0

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
            left_out=document.get("left_out", 0),  # older ones left out nothing
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
    for row, check in zip(document["checks"], verdict.checks, strict=True):
        row["passed"] = check.passed
        row["value"] = None if math.isnan(check.value) else check.value  # JSON knows no NaN
    return {**document, "passed": verdict.passed, "reasons": list(verdict.reasons)}


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
    facts = {k: v for k, v in row.items() if k != "passed"}
    value = math.nan if row["value"] is None else row["value"]
    interval = tuple(row["interval"]) if row["interval"] else None
    return Check(**{**facts, "value": value, "interval": interval})
