"""The thresholds that a model must reach; `[gate]` of the configuration describes each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

from components.intervals import CONFIDENCE, simultaneous


@dataclass(frozen=True)
class Gate:
    """Fractions, megabytes (10^6 bytes) and milliseconds; None asks for nothing.

    Where `evidence` is "interval", a figure with an interval passes or fails by all of it, and
    `unproven` says what becomes of one whose threshold is inside. `confidence` is two-sided.
    """

    min_accuracy: float
    evidence: Literal["interval", "point"] = "interval"
    unproven: Literal["accept", "refuse"] = "accept"
    confidence: float = CONFIDENCE
    min_auc: float | None = None
    min_slice_accuracy: Mapping[str, float] = field(default_factory=dict)
    min_precision: Mapping[str, float] = field(default_factory=dict)
    min_recall: Mapping[str, float] = field(default_factory=dict)
    max_calibration_error: float | None = None
    max_drop: float | None = 0.01
    max_drop_deployed: float | None = 0.01
    min_agreement: float | None = None
    max_size_mb: float | None = None
    max_latency_p50_ms: float | None = None
    max_latency_p95_ms: float | None = None
    max_latency_ratio: float | None = None

    def minimum(self, metric: str) -> float | None:
        """The least value of a metric, overall; None if it is only reported."""
        simple = {"accuracy": self.min_accuracy, "auc": self.min_auc}
        of_class = {f"precision of {label}": value for label, value in self.min_precision.items()}
        of_class |= {f"recall of {label}": value for label, value in self.min_recall.items()}
        return {**simple, **of_class}.get(metric)

    def together(self, variants: int) -> Gate:
        """The same for several variants, whose intervals hold all at once (Bonferroni).

        Every threshold of a variant must be reached: that needs no correction, as one that is not
        is enough to keep it back. But each further variant is one more that may pass by chance.
        """
        return replace(self, confidence=simultaneous(variants, self.confidence))
