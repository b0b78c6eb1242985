"""The release that the fleet runs now, to compare a new one with on the same images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from components.predictions import DeployedRelease
from components.tflite_predictor.settings import ReleaseReference
from edgeline.contract import PreprocessingContract
from edgeline.registry.reader import RegistryReader
from edgeline.registry.store import open_store


class BaselineError(Exception):
    """The deployed release can't be compared with."""


@dataclass(frozen=True)
class Baseline:
    """A release read from the registry, verified.

    Attributes:
        release: which it is.
        contract: by which it preprocesses.
        models: the file of each of its variants.
    """

    release: DeployedRelease
    contract: PreprocessingContract
    models: Mapping[str, bytes]

    def columns(self, labels: Sequence[str]) -> list[int]:
        """Where its output has each of the labels."""
        return [self.contract.labels.index(label) for label in labels]


def load_baseline(deployed: ReleaseReference, labels: Sequence[str]) -> Baseline:
    """Reads a release.

    Args:
        deployed: which.
        labels: the new model's classes.

    Raises:
        BaselineError: it has other classes than the new model.
        edgeline.errors.RegistryError: the release is missing or damaged.
    """
    reader = RegistryReader(open_store(deployed.location, deployed.connection))
    release = reader.open_digest(deployed.digest)
    if set(release.contract.labels) != set(labels):
        raise BaselineError(
            f"the deployed release {release.tag} has the classes "
            f"{', '.join(release.contract.labels)}, the new model {', '.join(labels)}: they can't "
            "be compared; give the new model another name or push it to another channel"
        )
    return Baseline(
        release=DeployedRelease(
            tag=release.tag,
            digest=release.digest,
            variants=tuple(variant.name for variant in release.variants),
            default=min(release.variants, key=lambda variant: variant.model.size).name,
        ),
        contract=release.contract,
        models={variant.name: reader.read_model(variant) for variant in release.variants},
    )
