"""What TFLitePredictor predicts, beside the models that the pipeline made."""

from __future__ import annotations

from dataclasses import dataclass

from edgeline.registry.store import Connection


@dataclass(frozen=True)
class ReleaseReference:
    """Where a release is, and which.

    Attributes:
        location: of the registry, a directory or "oci://host[:port]/repository".
        connection: how to reach it.
        digest: of the release's index, as the signed metadata had it: what it names is intact or
            is not read. A digest and not the channel's name, so that cached predictions can't hide
            that it moved.
    """

    location: str
    connection: Connection
    digest: str


@dataclass(frozen=True)
class Settings:
    """What is predicted.

    No threshold is among it: a run with other ones judges the same predictions anew.

    Attributes:
        split: of the examples, to predict.
        slice_keys: raw features to pass on.
        deployed: the release that the fleet runs now; None if there is none yet.
    """

    split: str
    slice_keys: tuple[str, ...]
    deployed: ReleaseReference | None
