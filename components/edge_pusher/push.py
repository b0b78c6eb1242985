"""Publishes a release of the variants that passed, or refuses and says why.

It fails closed: without the Evaluator's blessing, and without a verdict under which at least one
variant passed, nothing is published.
"""

from __future__ import annotations

from pathlib import Path

from components.tflite_models import TFLiteModelsFolder, sha256_of
from components.verdict import Verdict
from edgeline.registry.writer import Published, VariantFiles, publish

RELEASE_FILE = "release.json"  # in the PushedModel artifact


class GateNotPassed(Exception):  # noqa: N818 - an outcome, not a malfunction
    """The model did not earn its place; the message says which metric missed by how much."""

    exit_code = 3


def push(
    models: TFLiteModelsFolder,
    verdict: Verdict,
    report: bytes,
    *,
    blessed: bool,
    registry: Path,
    model: str,
    channel: str,
) -> Published:
    """Publishes the variants that passed as one release, and points the channel at it.

    Args:
        models: the variants' files.
        verdict: on those files.
        report: for people, HTML; travels with the release.
        blessed: whether TFX's Evaluator blessed the float model.
        registry: an OCI image-layout directory; made when it isn't there.
        model: its name in the registry.
        channel: that will point at the release.

    Raises:
        GateNotPassed: there is nothing that may be published.
        ValueError: a file is not the one the verdict is about.
        edgeline.errors.RegistryError: the registry can't be written.
    """
    if not blessed or not verdict.publishable:
        raise GateNotPassed(refusal(verdict, blessed=blessed))
    variants = [
        VariantFiles(file.variant, models.path(file))
        for file in models.models
        if file.variant in verdict.publishable
    ]
    if not variants:
        raise GateNotPassed(f"none of the variants that passed is among {models.folder}")
    _check_identity(variants, verdict)
    return publish(
        registry,
        model=model,
        channel=channel,
        variants=variants,
        preprocessing=models.contract,
        verdict=verdict.to_json(),
        report=report,
    )


def refusal(verdict: Verdict, *, blessed: bool) -> str:
    """Why nothing is published: a line for each model and reason."""
    lines = ["the gate was not passed, nothing was published:"]
    for judged in (verdict.float_model, *verdict.variants):
        lines += [f"{judged.variant}: {reason}" for reason in judged.reasons]
    if verdict.missing and verdict.passed:
        lines.append(f"required and not passed: {', '.join(verdict.missing)}")
    if not blessed and verdict.float_model.passed:
        lines.append("float: the Evaluator did not bless the model; see its validation result")
    return "\n  ".join(lines)


def _check_identity(variants: list[VariantFiles], verdict: Verdict) -> None:
    judged = {variant.variant: variant.sha256 for variant in verdict.variants}
    for variant in variants:
        found = sha256_of(variant.model)
        if found != judged[variant.name]:
            raise ValueError(
                f"{variant.model} has SHA-256 {found}, but the verdict is about "
                f"{judged[variant.name]}: it was changed after it was measured"
            )
