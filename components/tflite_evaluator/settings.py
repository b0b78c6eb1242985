"""What TFLiteEvaluator judges by, and what it puts on record."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from components.tflite_evaluator.gate import Gate
from components.verdict import Policy


@dataclass(frozen=True)
class Settings:
    """How models are judged.

    Attributes:
        split: of the examples, that was predicted.
        gate: the thresholds.
        policy: what a release needs, and which of the variants that passed it holds.
        model_name: the model's name.
        inputs_digest: of everything the model is made from; goes into the verdict.
        facts: of what data and code, and when it is judged; for the report.
        made_with: settings that the model was made with, for the report.
    """

    split: str
    gate: Gate
    policy: Policy
    model_name: str
    inputs_digest: str
    facts: Mapping[str, str] = field(default_factory=dict)
    made_with: Mapping[str, str] = field(default_factory=dict)
