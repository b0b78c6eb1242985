"""Publishes a release of the variants that passed, or refuses and says why.

It fails closed: without the Evaluator's blessing, and without a verdict under which at least one
variant passed, nothing is published.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from components.destination import Destination
from components.edge_pusher.origin import Origin, describe
from components.tflite_models import TFLiteModelsFolder
from components.verdict import Verdict
from edgeline._files import sha256_of
from edgeline.golden import make
from edgeline.publish import provenance
from edgeline.publish.release import Published, VariantFiles, publish


class GateNotPassed(Exception):  # noqa: N818 - an outcome, not a malfunction
    """The model did not earn its place; the message says which metric missed by how much."""

    exit_code = 3


def push(
    models: TFLiteModelsFolder,
    verdict: Verdict,
    report: bytes,
    sketches: Mapping[str, bytes],
    *,
    blessed: bool,
    run: str,
    origin: Origin,
    destination: Destination,
) -> Published:
    """Publishes the variants that passed as one signed release, and has its channel serve it.

    The release also holds where it comes from, and for each variant a golden pair, by which a
    device can tell that the variant computes there what it computes here.

    Args:
        models: the variants' files.
        verdict: on those files.
        report: for people, HTML; travels with the release.
        sketches: of the split that was judged on, by variant; devices tell drift by them.
        blessed: whether TFX's Evaluator blessed the float model.
        run: id of the run that judged them.
        origin: what else is known of where they come from.
        destination: the registry, the model's name and channel there, and the keys.

    Raises:
        GateNotPassed: there is nothing that may be published.
        ValueError: a file is not the one the verdict is about.
        edgeline.errors.ModelError: a variant can't be run, so that it has no golden pair.
        edgeline.errors.RegistryError: the registry can't be written, is no registry, or its keys
            are not at hand.
    """
    if not blessed or not verdict.publishable:
        raise GateNotPassed(refusal(verdict, blessed=blessed))
    made = {file.variant: models.path(file) for file in models.models}
    # Devices whose users choose none run the first that works there.
    files = {name: made[name] for name in verdict.fastest_first if name in made}
    if not files:
        raise GateNotPassed(f"none of the variants that passed is among {models.folder}")
    subjects = checked_digests(files, verdict)
    registry = destination.open()
    # First of all: what follows takes seconds, and is in vain without the keys.
    registry.repository.check_can_sign(destination.model, destination.channel)
    statement = provenance.build(subjects, describe(origin, run, verdict, report, subjects))
    return publish(
        registry.repository,
        model=destination.model,
        channel=destination.channel,
        variants=[
            VariantFiles(
                name,
                path,
                golden=make(path.read_bytes(), models.contract).to_json(),
                sketch=sketches[name],
            )
            for name, path in files.items()
        ],
        preprocessing=models.contract,
        verdict=verdict.to_json(),
        report=report,
        provenance=provenance.sign(statement, registry.model_signers(destination.model)[0]),
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


def checked_digests(files: Mapping[str, Path], verdict: Verdict) -> dict[str, str]:
    """The SHA-256 of each variant's file.

    Raises:
        ValueError: a file is not the one that was judged.
    """
    judged = {variant.variant: variant.sha256 for variant in verdict.variants}
    digests = {name: sha256_of(path) for name, path in files.items()}
    for name, found in digests.items():
        if found != judged[name]:
            raise ValueError(
                f"{files[name]} has SHA-256 {found}, but the verdict is about {judged[name]}: it "
                "was changed after it was measured"
            )
    return digests
