"""The registry's format: what a publisher writes and a device accepts.

A store is an OCI image-layout directory or a repository of a registry server, and may hold several
models. A release is an OCI image index with one CNCF ModelPack manifest per variant of the model:

    v7                       index           dev.edgeline.model: solar-cells
      v7-float32             manifest        dev.edgeline.variant: float32
        config               application/vnd.cncf.model.config.v1+json
        model.tflite         application/vnd.cncf.model.weight.v1.raw
        preprocessing.json   application/vnd.edgeline.preprocessing.v1+json
        verdict.json         application/vnd.edgeline.verdict.v1+json
        report.html          application/vnd.edgeline.report.v1+html (optional)
        provenance.json      application/vnd.dsse.envelope.v1+json (optional)
        golden.json          application/vnd.edgeline.golden.v1+json (optional)
        sketch.json          application/vnd.edgeline.sketch.v1+json (optional)
      v7-int8                manifest
        ...
    tuf                      manifest        the newest signed metadata, one layer a file
    tuf-12                   the same, by the version of its timestamp

Versions are counted per store, so `v7` names one release. Neither index nor manifest holds a
version or a time: the same content has the same digest whenever it is published. The children have
tags of their own because some registries collect untagged manifests as garbage.

Which release a channel serves is no tag's business: TUF's target `solar-cells/production` says it,
by the length and the SHA-256 of the release's index, and signatures vouch for it.
"""

import hashlib
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, TypeAlias

from edgeline import contract
from edgeline._json import parse_object
from edgeline._text import quoted
from edgeline.errors import IntegrityError, RegistryError

OCI_INDEX = "application/vnd.oci.image.index.v1+json"
OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
MODEL_MANIFEST = "application/vnd.cncf.model.manifest.v1+json"
MODEL_CONFIG = "application/vnd.cncf.model.config.v1+json"
WEIGHTS = "application/vnd.cncf.model.weight.v1.raw"
PREPROCESSING = "application/vnd.edgeline.preprocessing.v1+json"
VERDICT = "application/vnd.edgeline.verdict.v1+json"
REPORT = "application/vnd.edgeline.report.v1+html"
GOLDEN = "application/vnd.edgeline.golden.v1+json"
SKETCH = "application/vnd.edgeline.sketch.v1+json"
PROVENANCE = "application/vnd.dsse.envelope.v1+json"  # an in-toto statement
TUF_METADATA = "application/vnd.tuf.metadata+json"
TUF_BUNDLE = "application/vnd.edgeline.tuf.v1+json"  # artifactType of the manifest of all metadata
EMPTY_CONFIG = "application/vnd.oci.empty.v1+json"

MODEL_ANNOTATION = "dev.edgeline.model"
VARIANT_ANNOTATION = "dev.edgeline.variant"
FILEPATH_ANNOTATION = "org.cncf.model.filepath"
TITLE_ANNOTATION = "org.opencontainers.image.title"
TAG_ANNOTATION = "org.opencontainers.image.ref.name"

TUF_TAG = "tuf"  # of the newest bundle of metadata; "tuf-<n>" names the one with timestamp n
CHANNELS = ("candidate", "canary", "production")

LAYOUT_FILE = "oci-layout"
LAYOUT_VERSION = "1.0.0"
INDEX_FILE = "index.json"

MAX_VARIANTS = 64  # of a release
MAX_HISTORY = 10  # releases that a channel served before
MAX_EXPIRY_DAYS = 3650  # that a signature may last

# Largest sizes in bytes that a reader accepts, and so a writer produces.
MAX_STORE_INDEX = 16 << 20
MAX_MANIFEST = 1 << 20
MAX_CONTRACT = contract.MAX_BYTES
MAX_VERDICT = 16 << 20
MAX_REPORT = 16 << 20
MAX_GOLDEN = 16 << 20
MAX_SKETCH = 1 << 20
MAX_PROVENANCE = 1 << 20
MAX_TUF_METADATA = 512 << 10
MAX_MODEL = 2 << 30

# What a variant's manifest refers to: the name of each kind of file, and its bytes at most.
LAYERS = {
    WEIGHTS: ("model.tflite", MAX_MODEL),
    PREPROCESSING: ("preprocessing.json", MAX_CONTRACT),
    VERDICT: ("verdict.json", MAX_VERDICT),
    REPORT: ("report.html", MAX_REPORT),
    PROVENANCE: ("provenance.json", MAX_PROVENANCE),
    GOLDEN: ("golden.json", MAX_GOLDEN),
    SKETCH: ("sketch.json", MAX_SKETCH),
}

_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}")
_VERSION_TAG = re.compile(r"v([1-9][0-9]{0,8})")
_NAME = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")
_VARIANT = re.compile(r"[a-z0-9]+(_[a-z0-9]+)*")
_MAX_NAME = 63  # characters: "v<n>-<variant>" then fits the 128 of a tag


@dataclass(frozen=True)
class Descriptor:
    """A reference to a blob by digest and size."""

    media_type: str
    digest: str
    size: int  # bytes
    annotations: Mapping[str, str] = field(default_factory=dict)

    def check_size(self, limit: int) -> None:
        """Check that the blob has no more than `limit` bytes, by what is said of it.

        Raises:
            IntegrityError: it has more.
        """
        if self.size > limit:
            raise IntegrityError(
                f"Blob {self.digest} is said to have {self.size} bytes; at most {limit} are "
                f"allowed for {quoted(self.media_type)}"
            )

    def to_json(self) -> dict[str, Any]:
        """Return the descriptor as OCI spells it."""
        document: dict[str, Any] = {
            "mediaType": self.media_type,
            "digest": self.digest,
            "size": self.size,
        }
        if self.annotations:
            document["annotations"] = dict(self.annotations)
        return document

    @classmethod
    def from_json(cls, value: object) -> "Descriptor":
        """Read an untrusted descriptor; fields that edgeline does not use are ignored.

        Raises:
            IntegrityError: a required field is missing or malformed.
        """
        if not isinstance(value, dict):
            raise IntegrityError(f"Expected a descriptor, got {quoted(value)}")
        size = value.get("size")
        if type(size) is not int or size < 0:
            raise IntegrityError(f"Expected a descriptor's size in bytes, got {quoted(size)}")
        media_type = value.get("mediaType")
        if not isinstance(media_type, str):
            raise IntegrityError(f"Expected a descriptor's mediaType, got {quoted(media_type)}")
        return cls(
            media_type=media_type,
            digest=check_digest(value.get("digest")),
            size=size,
            annotations=parse_annotations(value.get("annotations", {})),
        )


@dataclass(frozen=True)
class ReleaseRef:
    """A release as signed metadata names it: by its index's digest and size, and by its number."""

    version: int
    index: Descriptor  # an OCI_INDEX

    @property
    def tag(self) -> str:
        """The release's tag, such as "v7"."""
        return version_tag(self.version)


def parse_annotations(value: object) -> dict[str, str]:
    """Return untrusted annotations.

    Raises:
        IntegrityError: `value` is not a map from string to string.
    """
    if isinstance(value, dict) and all(isinstance(entry, str) for entry in value.values()):
        return value
    raise IntegrityError(f"Expected annotations to map strings to strings, got {quoted(value)}")


def parse_document(data: bytes, media_type: str) -> dict[str, Any]:
    """Return the JSON of an index or a manifest that says it is a `media_type`.

    Raises:
        IntegrityError: it is not JSON, or calls itself something else.
    """
    try:
        document = parse_object(data)
    except ValueError as error:
        raise IntegrityError(f"Expected {media_type}, got broken JSON: {error}") from None
    if document.get("schemaVersion") != 2 or document.get("mediaType") != media_type:
        raise IntegrityError(
            f"Expected {media_type} with schemaVersion 2, got {quoted(document.get('mediaType'))} "
            f"with schemaVersion {quoted(document.get('schemaVersion'))}"
        )
    return document


def blobs_of(manifest: bytes) -> list[Descriptor]:
    """Return the blobs that an untrusted manifest names: its config, and then its layers.

    Raises:
        IntegrityError: it is malformed.
    """
    document = parse_document(manifest, OCI_MANIFEST)
    layers = document.get("layers")
    if not isinstance(layers, list):
        raise IntegrityError(f"Expected a manifest with layers, got {quoted(layers)}")
    return [Descriptor.from_json(entry) for entry in (document.get("config"), *layers)]


def digest_of(data: bytes) -> str:
    """Return the digest of bytes: "sha256:" and 64 hexadecimal digits."""
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def damaged(blob: Descriptor, where: str, size: int, digest: str) -> IntegrityError:
    """Return the error that a blob somewhere has another size or digest than it should."""
    return IntegrityError(
        f"Blob {blob.digest} {where} was changed or damaged: expected {blob.size} bytes with this "
        f"digest, got {size} bytes with {digest}. Publish the release again to restore it"
    )


def hashed(chunks: Iterable[bytes | memoryview]) -> tuple[str, int]:
    """Return the digest and the size of what comes in chunks."""
    sha256, size = hashlib.sha256(), 0
    for chunk in chunks:
        size += len(chunk)
        sha256.update(chunk)
    return f"sha256:{sha256.hexdigest()}", size


def signing_roles(model: str) -> tuple[str, str]:
    """Return the role that signs a model's candidate and canary, and the one of its production."""
    return f"{model}-ci", f"{model}-release"


def fleet_role(model: str) -> str:
    """Return the role whose keys sign which devices' reports on a model count."""
    return f"{model}-fleet"


def halt_role(model: str) -> str:
    """Return the role that may halt rollouts of a model, and no more."""
    return f"{model}-halt"


def fleet_path(model: str) -> str:
    """Return the target in which the fleet role says which devices count no more."""
    return f"{model}/fleet.json"


def halt_path(model: str) -> str:
    """Return the target in which the halt role says which rollouts it halted."""
    return f"{model}/halted.json"


def check_digest(value: object) -> str:
    """Return `value` when it is a SHA-256 digest, and therefore safe as a file name.

    Raises:
        IntegrityError: it is anything else.
    """
    if isinstance(value, str) and _DIGEST.fullmatch(value):
        return value
    raise IntegrityError(f"Expected a digest, sha256: and 64 hex digits, got {quoted(value)}")


def is_tag(value: object) -> bool:
    """Tell whether `value` is a tag that any OCI registry accepts."""
    return isinstance(value, str) and _TAG.fullmatch(value) is not None


def version_tag(version: int) -> str:
    """Return the tag of a release: 7 -> "v7"."""
    return f"v{version}"


def parse_version_tag(tag: str) -> int | None:
    """Return the version that a tag names, or None when it is not the tag of a release."""
    match = _VERSION_TAG.fullmatch(tag)
    return int(match[1]) if match else None


def variant_tag(version: int, variant: str) -> str:
    """Return the tag of one variant of a release: (7, "int8") -> "v7-int8"."""
    return f"{version_tag(version)}-{variant}"


def parse_variant_tag(tag: str) -> int | None:
    """Return the version of which a tag names one variant, or None when it names none."""
    version, _, variant = tag.partition("-")
    return parse_version_tag(version) if variant else None


def metadata_tag(version: int) -> str:
    """Return the tag of the signed metadata with this version of timestamp: 12 -> "tuf-12"."""
    return f"{TUF_TAG}-{version}"


def parse_metadata_tag(tag: str) -> int | None:
    """Return the version of timestamp in the metadata that a tag names, or None for another tag."""
    prefix, _, version = tag.rpartition("-")
    return parse_version_tag(f"v{version}") if prefix == TUF_TAG else None


def _checked_name(kind: str, syntax: re.Pattern[str], separator: str) -> Callable[[object], str]:
    """Return what checks names of a kind: it returns a good one, and raises RegistryError else."""

    def check(name: object) -> str:
        if isinstance(name, str) and len(name) <= _MAX_NAME and syntax.fullmatch(name):
            return name
        raise RegistryError(
            f"A {kind} is named by at most {_MAX_NAME} of a-z and 0-9, in parts joined by "
            f"{separator!r}; got {quoted(name)}"
        )

    return check


check_model = _checked_name("model", _NAME, "-")
check_channel = _checked_name("channel", _NAME, "-")
check_group = _checked_name("group", _NAME, "-")
check_variant = _checked_name("variant", _VARIANT, "_")

# Fields of records: see `edgeline._records`.
Digest: TypeAlias = Annotated[str, check_digest]
ModelName: TypeAlias = Annotated[str, check_model]
ChannelName: TypeAlias = Annotated[str, check_channel]
VariantName: TypeAlias = Annotated[str, check_variant]
