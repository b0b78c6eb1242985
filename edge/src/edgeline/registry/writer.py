"""The publisher's side of the registry: turn models that passed into a release.

    published = publish(
        Path("registry"),
        model="solar-cells",
        channel="candidate",
        variants=[VariantFiles("int8", Path("int8/model.tflite"))],
        preprocessing=contract,
        verdict=verdict_json,
    )

Everything is written under an exclusive lock, blobs first and the store's index last, each file
complete and synced to the disk before it takes its name. A crash at any point therefore leaves at
most blobs that nothing refers to, and publishing again finishes the work.
"""

import fcntl
import hashlib
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from edgeline._json import dump_canonical
from edgeline.contract import PreprocessingContract
from edgeline.errors import RegistryError
from edgeline.registry import _layout
from edgeline.registry.format import (
    FILEPATH_ANNOTATION,
    GOLDEN,
    INDEX_FILE,
    LAYOUT_FILE,
    LAYOUT_VERSION,
    MAX_CONTRACT,
    MAX_GOLDEN,
    MAX_MANIFEST,
    MAX_MODEL,
    MAX_REPORT,
    MAX_STORE_INDEX,
    MAX_VERDICT,
    MODEL_ANNOTATION,
    MODEL_CONFIG,
    MODEL_MANIFEST,
    OCI_INDEX,
    OCI_MANIFEST,
    PREPROCESSING,
    REPORT,
    TAG_ANNOTATION,
    TITLE_ANNOTATION,
    VARIANT_ANNOTATION,
    VERDICT,
    WEIGHTS,
    Descriptor,
    channel_tag,
    check_variant,
    parse_annotations,
    parse_version_tag,
    variant_tag,
    version_tag,
)
from edgeline.registry.reader import LayoutReader, Release

_PRIVATE = ".edgeline"  # in the layout: the lock, and the file being written
_CHUNK = 1 << 20  # bytes


@dataclass(frozen=True)
class VariantFiles:
    """One variant to publish: its model file and, optionally, a golden input/output pair."""

    name: str
    model: Path
    golden: bytes | None = None


@dataclass(frozen=True)
class Published:
    """What `publish` did."""

    version: int
    digest: str  # of the release's index
    created: bool  # False when the same content was a release already

    @property
    def tag(self) -> str:
        """The release's tag, such as "v7"."""
        return version_tag(self.version)


def publish(
    layout: Path,
    *,
    model: str,
    channel: str,
    variants: Sequence[VariantFiles],
    preprocessing: PreprocessingContract,
    verdict: bytes,
    report: bytes | None = None,
) -> Published:
    """Publish `variants` as one release of `model`, and point `channel` at it.

    The layout is created when it does not exist. The same content again is the same release: only
    the channel moves, if it pointed elsewhere. And as long as the channel points at a release of
    the very same models and contract, that release stays, with the verdict it passed by: measuring
    a model again does not make it another one. Publishers may run at once on one machine, or on
    several that share a file system with working locks; each gets a version of its own.

    Raises:
        RegistryError: a name is malformed, there is no variant or one twice, a file cannot be read
            or is too large, or `layout` cannot be written or is something else than an OCI layout.
    """
    pointer = channel_tag(model, channel)
    names = [check_variant(variant.name) for variant in variants]
    if not names or len(set(names)) != len(names):
        raise RegistryError(f"A release needs variants with names of their own; got {names}")
    try:
        with _locked(layout):
            _initialize(layout)
            blobs = _BlobWriter(layout)
            weights = {variant.name: blobs.add_model(variant.model) for variant in variants}
            served = _served(layout, model, channel)
            if served and _is_release_of(served, weights, preprocessing):
                _sync_directory(blobs.directory)
                return Published(served.version, served.digest, created=False)
            shared = [
                blobs.add_layer(
                    preprocessing.to_json(), PREPROCESSING, "preprocessing.json", MAX_CONTRACT
                ),
                blobs.add_layer(verdict, VERDICT, "verdict.json", MAX_VERDICT),
            ]
            if report is not None:
                shared.append(blobs.add_layer(report, REPORT, "report.html", MAX_REPORT))
            children = _write_children(blobs, model, variants, weights, shared)
            index = blobs.add_json(_index(model, children), OCI_INDEX, MAX_MANIFEST)
            # The blobs must be on the disk before anything refers to them.
            _sync_directory(blobs.directory)
            return _tag(layout, pointer, index, children)
    except OSError as error:
        raise RegistryError(f"Publishing to {layout} failed: {error}") from error


def _served(layout: Path, model: str, channel: str) -> Release | None:
    """Return the release that the channel points at; None if there is none, or a damaged one."""
    try:
        return LayoutReader(layout).open_release(model, channel)
    except RegistryError:
        return None


def _is_release_of(
    release: Release, weights: Mapping[str, Descriptor], preprocessing: PreprocessingContract
) -> bool:
    published = {variant.name: variant.model.digest for variant in release.variants}
    return release.contract == preprocessing and published == {
        name: descriptor.digest for name, descriptor in weights.items()
    }


def _write_children(
    blobs: "_BlobWriter",
    model: str,
    variants: Sequence[VariantFiles],
    weights: Mapping[str, Descriptor],
    shared: Sequence[Descriptor],
) -> dict[str, Descriptor]:
    """Write every variant's other blobs; return the manifests by variant, sorted by name."""
    children = {}
    for variant in sorted(variants, key=lambda variant: variant.name):
        layers = [weights[variant.name], *shared]
        if variant.golden is not None:
            layers.append(blobs.add_layer(variant.golden, GOLDEN, "golden.json", MAX_GOLDEN))
        config = blobs.add_json(_config(model, variant.name, layers), MODEL_CONFIG, MAX_MANIFEST)
        child = blobs.add_json(_manifest(config, layers), OCI_MANIFEST, MAX_MANIFEST)
        children[variant.name] = child
    return children


def _config(model: str, variant: str, layers: Iterable[Descriptor]) -> dict[str, Any]:
    return {
        "descriptor": {"name": model, "title": f"{model}, {variant}"},
        "config": {
            "format": "tflite",
            "capabilities": {"inputTypes": ["image"], "outputTypes": ["other"]},
        },
        "modelfs": {"type": "layers", "diffIds": [layer.digest for layer in layers]},
    }


def _manifest(config: Descriptor, layers: Iterable[Descriptor]) -> dict[str, Any]:
    return {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "artifactType": MODEL_MANIFEST,
        "config": config.to_json(),
        "layers": [layer.to_json() for layer in layers],
    }


def _index(model: str, children: Mapping[str, Descriptor]) -> dict[str, Any]:
    return {
        "schemaVersion": 2,
        "mediaType": OCI_INDEX,
        "annotations": {MODEL_ANNOTATION: model, TITLE_ANNOTATION: model},
        "manifests": [
            replace(child, annotations={VARIANT_ANNOTATION: variant}).to_json()
            for variant, child in children.items()
        ],
    }


def _tag(
    layout: Path, channel: str, index: Descriptor, children: Mapping[str, Descriptor]
) -> Published:
    """Make `index` a release and point `channel` at it, in one replacement of index.json."""
    entries = _layout.read_index_entries(layout)
    versions = dict(_versions(entries))
    known = [version for version, digest in versions.items() if digest == index.digest]
    version = min(known) if known else max(versions, default=0) + 1
    tags = {version_tag(version): index, channel: index}
    tags |= {variant_tag(version, name): child for name, child in children.items()}
    kept = [entry for entry in entries if _tag_of(entry) not in tags]
    added = [
        replace(descriptor, annotations={TAG_ANNOTATION: tag}).to_json()
        for tag, descriptor in tags.items()
    ]
    _replace_index(layout, kept + added)
    return Published(version=version, digest=index.digest, created=not known)


def _versions(entries: Iterable[Mapping[str, Any]]) -> Iterator[tuple[int, str]]:
    for entry in entries:
        version = parse_version_tag(_tag_of(entry) or "")
        if version is not None:
            yield version, Descriptor.from_json(entry).digest


def _tag_of(entry: Mapping[str, Any]) -> str | None:
    return parse_annotations(entry.get("annotations", {})).get(TAG_ANNOTATION)


@contextmanager
def _locked(layout: Path) -> Iterator[None]:
    """Hold the layout's lock, which the system releases however the process ends."""
    _check_ours(layout)
    private = layout / _PRIVATE
    private.mkdir(parents=True, exist_ok=True)
    with (private / "lock").open("ab") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _check_ours(layout: Path) -> None:
    """Check that `layout` is an OCI layout, or that nobody's files are in the way of one."""
    unclaimed = not layout.exists() or (
        layout.is_dir() and all(path.name == _PRIVATE for path in layout.iterdir())
    )
    if not unclaimed:
        _layout.check_layout(layout)


def _initialize(layout: Path) -> None:
    """Complete the layout, in an order that a crash cannot turn into something refused later."""
    if not (layout / LAYOUT_FILE).exists():
        _replace(layout, LAYOUT_FILE, dump_canonical({"imageLayoutVersion": LAYOUT_VERSION}))
    blobs = layout / "blobs" / "sha256"
    if not (layout / INDEX_FILE).exists():
        if blobs.exists():
            raise RegistryError(
                f"{layout} holds blobs and no {INDEX_FILE}, so its versions are unknown. "
                f"Restore {INDEX_FILE}, or publish to a new directory"
            )
        _replace_index(layout, [])
    blobs.mkdir(parents=True, exist_ok=True)
    _sync_directory(blobs.parent)


def _replace_index(layout: Path, entries: list[dict[str, Any]]) -> None:
    data = dump_canonical({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries})
    _check_size(f"{layout / INDEX_FILE}", len(data), MAX_STORE_INDEX)
    _replace(layout, INDEX_FILE, data)


def _replace(layout: Path, name: str, data: bytes) -> None:
    with _Incoming(layout) as incoming:
        incoming.write(data)
        incoming.move_to(layout / name)
    _sync_directory(layout)


class _Incoming:
    """The one file that the holder of the lock writes to, whatever a crash left in it."""

    def __init__(self, layout: Path) -> None:
        self._path = layout / _PRIVATE / "incoming"
        self._file = self._path.open("wb")
        self.write = self._file.write

    def __enter__(self) -> "_Incoming":
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def move_to(self, path: Path) -> None:
        """Give the file its name, complete and on the disk."""
        self._file.flush()
        os.fsync(self._file.fileno())
        self._path.replace(path)


class _BlobWriter:
    """Adds blobs to a locked layout, each read and written once.

    A blob that is there already is written anew: that is how publishing again repairs a damaged
    one, and a device that has the old file open keeps it.
    """

    def __init__(self, layout: Path) -> None:
        self.directory = layout / "blobs" / "sha256"
        self._layout = layout

    def add_model(self, path: Path) -> Descriptor:
        """Add a model file as the weights layer."""
        with path.open("rb") as file:
            chunks = iter(lambda: file.read(_CHUNK), b"")
            return self._add(chunks, WEIGHTS, MAX_MODEL, f"{path}", "model.tflite")

    def add_layer(self, data: bytes, media_type: str, name: str, limit: int) -> Descriptor:
        """Add a small layer, to be found under the file name `name`."""
        return self._add([data], media_type, limit, name, name)

    def add_json(self, document: dict[str, Any], media_type: str, limit: int) -> Descriptor:
        """Add a document that is no layer: a config, a manifest or an index."""
        return self._add([dump_canonical(document)], media_type, limit, media_type)

    def _add(
        self,
        chunks: Iterable[bytes],
        media_type: str,
        limit: int,
        source: str,
        filepath: str | None = None,
    ) -> Descriptor:
        sha256 = hashlib.sha256()
        size = 0
        with _Incoming(self._layout) as incoming:
            for chunk in chunks:
                size += len(chunk)
                _check_size(source, size, limit)
                sha256.update(chunk)
                incoming.write(chunk)
            _check_size(source, size, limit)
            encoded = sha256.hexdigest()
            incoming.move_to(self.directory / encoded)
        annotations = {FILEPATH_ANNOTATION: filepath} if filepath else {}
        return Descriptor(media_type, f"sha256:{encoded}", size, annotations)


def _check_size(source: str, size: int, limit: int) -> None:
    if not 0 < size <= limit:
        raise RegistryError(f"{source} has {size} bytes; a registry takes 1 to {limit}")


def _sync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
