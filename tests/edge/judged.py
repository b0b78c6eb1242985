"""Verdicts as the pipeline writes them, on made-up variants."""

from collections.abc import Mapping
from hashlib import sha256

from components.verdict import Check, Deployed, VariantVerdict, Verdict

MINIMUM = 0.8


def judged(
    variants: Mapping[str, bytes], accuracy: float = 0.9, deployed: Deployed | None = None
) -> bytes:
    """Return the verdict on variants of this accuracy, which has to be 0.8 at least.

    With a deployed release, they agree with it on 97% of the images, and on 95% for sure.
    """
    checks: tuple[Check, ...] = (
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
    if deployed:
        name = f"agreement with {deployed.tag} float32"
        checks += (Check(name, "overall", 0.97, interval=(0.95, 0.98)),)
    verdicts = tuple(
        VariantVerdict(name, checks, sha256=sha256(content).hexdigest())
        for name, content in variants.items()
    )
    float_model = VariantVerdict("float", (Check("accuracy", "overall", 0.95, MINIMUM),))
    return Verdict("test", 394, float_model, verdicts, deployed=deployed).to_json()
