"""Attacks: whatever is done to a registry, a device reads what was signed for it, or nothing.

First on the metadata that is signed, then on the store that carries it. Whatever was tried, the
device goes on with what it trusted before once the honest registry is back.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from edgeline.errors import EdgelineError, IntegrityError, NotFoundError
from edgeline.registry.bundle import bundle_document, read_bundle
from edgeline.registry.format import (
    EMPTY_CONFIG,
    MAX_MANIFEST,
    MAX_STORE_INDEX,
    MODEL_MANIFEST,
    OCI_INDEX,
    OCI_MANIFEST,
    TITLE_ANNOTATION,
    TUF_TAG,
    Descriptor,
)
from edgeline.registry.reader import RegistryReader
from tests.edge.attack_cases import CASES, Case
from tests.edge.attacks import Document, World

Attack = Callable[[World], None]


@pytest.fixture(scope="session")
def usual(tmp_path_factory: pytest.TempPathFactory) -> World:
    """The world that most attacks start from."""
    return World(tmp_path_factory.mktemp("world"))


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_metadata(case: Case, usual: World, tmp_path: Path) -> None:
    """The registry's metadata is attacked, or changed honestly."""
    world = case.world(usual, tmp_path)
    device = world.device(tmp_path / "state")
    case.prepare(world)
    if not case.first_contact:
        device.visit()
        device.visit("production")
    case.attack(world)
    if case.error is None:
        assert device.visit(case.channel) == world.releases[case.serves].index.digest
    else:
        _refused(lambda: device.visit(case.channel), case.error)
        case.recover(world)
    device.visit()
    assert device.visit("production") == world.releases[1].index.digest


def _refused(act: Callable[[], object], error: type[EdgelineError]) -> None:
    with pytest.raises(error) as raised:
        act()
    message = str(raised.value)
    assert message.isprintable()  # one line, and nothing that steers a terminal
    assert len(message) < 1000


# Files of the store.


def _blob(world: World, digest: str) -> Path:
    return world.path / "blobs" / "sha256" / digest.removeprefix("sha256:")


def _parts(world: World) -> dict[str, Path]:
    """Return the files that a device reads for the channel candidate."""
    bundle = read_bundle(world.store)
    release = RegistryReader(world.store).open(world.releases[3])
    variant = release.variants[0]
    return {
        "the bundle": _blob(world, bundle.digest),
        "timestamp": _blob(world, bundle.files["timestamp.json"].digest),
        "the index": _blob(world, release.digest),
        "the manifest": _blob(world, variant.manifest.digest),
        "the model": _blob(world, variant.model.digest),
        "the verdict": _blob(world, release.verdict.digest),
        "index.json": world.path / "index.json",
        "oci-layout": world.path / "oci-layout",
        "the blobs": world.path / "blobs" / "sha256",
        "the folder of blobs": world.path / "blobs",
    }


def _flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def _grow(path: Path) -> None:
    with path.open("ab") as file:
        file.truncate(1 << 40)  # sparse: it would fit no memory


def _append(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b" ")


def _link(path: Path) -> None:
    """The same content, where the attacker can change it after it was checked."""
    path.symlink_to(path.rename(path.with_name("elsewhere")))


def _link_away(path: Path) -> None:
    path.unlink()
    path.symlink_to("/etc/passwd")


def _link_to_device(path: Path) -> None:
    path.unlink()
    path.symlink_to("/dev/zero")


def _pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def _folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


_BLOBS = ("the bundle", "timestamp", "the index", "the manifest", "the model", "the verdict")
_FILES = (*_BLOBS, "index.json", "oci-layout")
_FILES_AND_FOLDERS = (*_FILES, "the blobs", "the folder of blobs")
_DAMAGES: tuple[tuple[str, Callable[[Path], None], tuple[str, ...], type[EdgelineError]], ...] = (
    ("is changed in one bit", _flip, _BLOBS, IntegrityError),
    ("is cut short", _cut, _BLOBS, IntegrityError),
    ("is longer than its descriptor", _append, _BLOBS, IntegrityError),
    ("grows to a terabyte", _grow, _FILES, IntegrityError),
    ("is gone", Path.unlink, ("the bundle", "timestamp"), IntegrityError),
    ("is gone", Path.unlink, _FILES[2:], NotFoundError),
    ("is a link to itself elsewhere", _link, _FILES_AND_FOLDERS, IntegrityError),
    ("is a link to a file of the system", _link_away, _FILES, IntegrityError),
    ("is a link to an endless device", _link_to_device, _FILES, IntegrityError),
    ("is a pipe that nobody writes to", _pipe, _FILES, IntegrityError),
    ("is a folder", _folder, _FILES, IntegrityError),
)


@pytest.mark.parametrize(
    ("part", "damage", "error"),
    [
        pytest.param(part, damage, error, id=f"{part} {name}")
        for name, damage, parts, error in _DAMAGES
        for part in parts
    ],
)
def test_file(
    part: str,
    damage: Callable[[Path], None],
    error: type[EdgelineError],
    usual: World,
    tmp_path: Path,
) -> None:
    """A file in the directory is exchanged for something else."""
    world = usual.copied_to(tmp_path)
    device = world.device(tmp_path / "state")
    device.visit("production")
    world.publish(4)
    world.releases[3] = world.releases[4]
    damage(_parts(world)[part])
    _refused(device.visit, error)
    world.restore()
    assert device.visit() == world.releases[4].index.digest


# Documents of the store.


def _bundle(change: Callable[[Document], None]) -> Attack:
    """Change the manifest of the metadata; its digest and size are right."""

    def attack(world: World) -> None:
        bundle = read_bundle(world.store)
        config = world.store.put_blob(b"{}", EMPTY_CONFIG, limit=2)
        document = bundle_document(config, bundle.files)
        change(document)
        world.serve_manifest(document)

    return attack


def _plant(data: bytes) -> Attack:
    """Have the tag `tuf` name these bytes, without asking any writer of ours."""

    def attack(world: World) -> None:
        digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
        _blob(world, digest).write_bytes(data)
        _entry(world, {"mediaType": OCI_MANIFEST, "digest": digest, "size": len(data)})

    return attack


def _entry(world: World, changes: Document) -> None:
    """Change what index.json says of the tag `tuf`."""
    path = world.path / "index.json"
    document = json.loads(path.read_bytes())
    for entry in document["manifests"]:
        if entry["annotations"]["org.opencontainers.image.ref.name"] == TUF_TAG:
            entry |= changes
    path.write_text(json.dumps(document))


def _layer(**changes: Any) -> Attack:
    def change(document: Document) -> None:
        document["layers"][-1] |= changes

    return _bundle(change)


def _title(value: Any) -> Attack:
    return _layer(annotations={TITLE_ANNOTATION: value})


def _set(key: str, value: Any) -> Attack:
    def change(document: Document) -> None:
        document[key] = value

    return _bundle(change)


def _twice(document: Document) -> None:
    document["layers"].append(document["layers"][-1])


def _index(data: bytes) -> Attack:
    return lambda world: _write(world.path / "index.json", data)


def _write(path: Path, data: bytes) -> None:
    path.write_bytes(data)


def _tag(**changes: Any) -> Attack:
    return lambda world: _entry(world, changes)


def _tag_names_a_release(world: World) -> None:
    world.store.commit([(TUF_TAG, world.releases[3].index)], expected={})


def _another_models_release(world: World) -> None:
    """Whoever signs the channel made a mistake."""
    world.repository().point("cells", "candidate", world.releases[2])


def _a_manifest_for_a_release(world: World) -> None:
    variant = RegistryReader(world.store).open(world.releases[3]).variants[0]
    release = type(world.releases[3])(3, variant.manifest)
    world.repository().point("cells", "candidate", release)


def _timestamp_with_a_key_twice(world: World) -> None:
    """Readers could disagree on which of the two is signed. (Others than ours take the last.)"""
    files = world.files()
    timestamp = files["timestamp.json"].replace(b'{"', b'{"signed": {"version": 9}, "', 1)
    world.serve({**files, "timestamp.json": timestamp})


_DIGESTS = {
    "a path up": "sha256:../../../../etc/passwd",
    "an absolute path": "/etc/passwd",
    "a path that starts well": f"sha256:{'a' * 64}/../x",
    "another algorithm": f"sha512:{'a' * 128}",
    "no algorithm": "a" * 64,
    "capitals": f"sha256:{'A' * 64}",
    "a line break": f"sha256:{'a' * 64}\n",
    "a NUL": f"sha256:{'a' * 63}\0",
    "a million digits": f"sha256:{'a' * 1_000_000}",
    "a number": 7,
    "nothing": None,
}
_TITLES = {
    "a path up": "../timestamp.json",
    "a path down": "a/timestamp.json",
    "an absolute path": "/etc/passwd",
    "a hidden file": ".timestamp.json",
    "another ending": "timestamp.json.sh",
    "a line break": "timestamp.json\n",
    "a NUL": "timestamp.json\0",
    "an escape": "\x1b[2Jtimestamp.json",
    "version 0": "0.snapshot.json",
    "a version of many digits": f"{'9' * 300}.snapshot.json",
    "a name of many letters": f"1.{'a' * 100_000}.json",
    "no letters": "",
    "a number": 7,
    "a list": ["timestamp.json"],
    "nothing": None,
}


def _bombs(large: int) -> Iterator[tuple[str, bytes]]:
    yield "nothing", b""
    yield "half of JSON", b'{"schemaVersion": 2'
    yield "null", b"null"
    yield "a list", b"[]"
    yield "not UTF-8", b"\xff\xfe"
    yield "nested lists without end", b"[" * 500_000
    yield "nested objects without end", b'{"a":' * 100_000
    yield "a number without end", b'{"schemaVersion": ' + b"9" * 500_000 + b"}"
    yield "a float beyond floats", b'{"schemaVersion": 1e999999999}'
    yield "no number at all", b'{"schemaVersion": NaN}'
    yield "a key twice", b'{"schemaVersion": 2, "schemaVersion": 2}'
    yield "larger than anything of its kind", b'{"a": "' + b"a" * large + b'"}'


_DOCUMENTS: dict[str, Attack] = {
    **{f"a layer's digest is {name}": _layer(digest=value) for name, value in _DIGESTS.items()},
    **{f"a layer's title is {name}": _title(value) for name, value in _TITLES.items()},
    "a layer has no bytes": _layer(size=0),
    "a layer has fewer bytes than none": _layer(size=-1),
    "a layer has more bytes than a layer may": _layer(size=(512 << 10) + 1),
    "a layer has more bytes than there are": _layer(size=1 << 62),
    "a layer has as many bytes as it likes": _layer(size=1e3),
    "a layer is no metadata": _layer(mediaType="application/octet-stream"),
    "a layer's media type is a list": _layer(mediaType=[]),
    "a layer has no annotations": _layer(annotations=None),
    "a layer's annotations are a list": _layer(annotations=["a"]),
    "a layer is there twice": _bundle(_twice),
    "the bundle has no layers": _set("layers", None),
    "the bundle's layers are an object": _set("layers", {"0": {}}),
    "the bundle's layers are strings": _set("layers", ["timestamp.json"]),
    "the bundle's layers are no metadata": _set("layers", []),
    "the bundle is another artifact": _set("artifactType", MODEL_MANIFEST),
    "the bundle is of another schema": _set("schemaVersion", 1),
    "the bundle is another document": _set("mediaType", OCI_INDEX),
    "timestamp has a key twice": _timestamp_with_a_key_twice,
    **{f"the bundle is {name}": _plant(data) for name, data in _bombs(MAX_MANIFEST)},
    **{f"index.json is {name}": _index(data) for name, data in _bombs(MAX_STORE_INDEX)},
    **{f"the tag's digest is {name}": _tag(digest=value) for name, value in _DIGESTS.items()},
    "the tag's manifest is larger than a manifest may be": _tag(size=MAX_MANIFEST + 1),
    "the tag's manifest has fewer bytes than none": _tag(size=-1),
    "the tag's annotations are numbers": _tag(annotations={"org.opencontainers.image.ref.name": 7}),
    "the tag names a release": _tag_names_a_release,
    "the channel serves another model's release": _another_models_release,
    "the channel serves a manifest": _a_manifest_for_a_release,
}


@pytest.mark.parametrize("name", _DOCUMENTS)
def test_document(name: str, usual: World, tmp_path: Path) -> None:
    """A document of the store says something that it should not, under its right digest."""
    world = usual.copied_to(tmp_path)
    device = world.device(tmp_path / "state")
    device.visit()
    before = sorted(path.relative_to(tmp_path) for path in tmp_path.rglob("*"))
    _DOCUMENTS[name](world)
    _refused(device.visit, IntegrityError)
    after = {path.relative_to(tmp_path) for path in tmp_path.rglob("*")} - set(before)
    assert all(path.parts[0] == "registry" for path in after)  # nothing is written elsewhere
    if name.startswith("the channel"):
        # It was signed, if by mistake; then it is mended by signing.
        world.repository().point("cells", "candidate", world.releases[3])
    else:
        world.restore()
    assert device.visit() == world.releases[3].index.digest


def test_a_version_tag_that_was_moved_leads_nobody_astray(usual: World, tmp_path: Path) -> None:
    """Devices go by the digest that was signed, never by the tag."""
    world = usual.copied_to(tmp_path)
    world.store.commit([("v3", world.releases[1].index)], expected={})
    world.store.remove(["v1", "v1-int8"])
    assert world.device(tmp_path / "state").visit() == world.releases[3].index.digest


def test_hostile_tags_are_passed_over(usual: World, tmp_path: Path) -> None:
    world = usual.copied_to(tmp_path)
    path = world.path / "index.json"
    document = json.loads(path.read_bytes())
    for tag in ("../x", "/etc/passwd", "v1\n", "\x1b[2J", "a" * 1000, "", "v99999999999999999999"):
        descriptor = Descriptor(OCI_MANIFEST, f"sha256:{'0' * 64}", 2)
        annotations = {"org.opencontainers.image.ref.name": tag}
        document["manifests"].append({**descriptor.to_json(), "annotations": annotations})
    path.write_text(json.dumps(document))
    assert world.device(tmp_path / "state").visit() == world.releases[3].index.digest
    assert RegistryReader(world.store).versions() == [1, 2, 3]
