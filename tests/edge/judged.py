"""Verdicts as the pipeline writes them, on made-up variants."""

from collections.abc import Mapping
from hashlib import sha256

from components.verdict import Check, VariantVerdict, Verdict

MINIMUM = 0.8


def judged(variants: Mapping[str, bytes], accuracy: float = 0.9) -> bytes:
    """Return the verdict on variants of this accuracy, which has to be 0.8 at least."""
    checks = (
        Check(
            "accuracy",
            "overall",
            accuracy,
            MINIMUM,
            interval=(round(accuracy - 0.04, 2), round(accuracy + 0.03, 2)),
        ),
        Check("precision of bird", "overall", float("nan")),  # of a class that is never said
        Check("accuracy", "camera=\x1b[31mleft", accuracy - 0.1),
    )
    verdicts = tuple(
        VariantVerdict(name, checks, sha256=sha256(content).hexdigest())
        for name, content in variants.items()
    )
    float_model = VariantVerdict("float", (Check("accuracy", "overall", 0.95, MINIMUM),))
    return Verdict("test", 394, float_model, verdicts).to_json()
