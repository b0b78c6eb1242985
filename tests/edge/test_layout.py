"""Reading a directory that anybody may have filled: it is refused, whatever was done to it."""

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edgeline.errors import IntegrityError, NotFoundError, RegistryError
from edgeline.publish.layout import LayoutWriter
from edgeline.registry.format import TAG_ANNOTATION, Descriptor
from edgeline.registry.layout import LayoutStore

CONTENT = b"0123456789"


def digest_of(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


BLOB = Descriptor("text/plain", digest_of(CONTENT), len(CONTENT))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A layout with one blob, which has a tag."""
    writer = LayoutWriter(tmp_path / "layout")
    with writer.exclusive():
        writer.commit([("v1", writer.put_blob(CONTENT, "text/plain", limit=10))], expected={})
    return tmp_path / "layout"


@pytest.fixture
def blob(path: Path) -> Path:
    return path / "blobs" / "sha256" / BLOB.digest.removeprefix("sha256:")


def test_a_blob_is_read_by_tag_and_by_descriptor(path: Path) -> None:
    store = LayoutStore(path)
    assert store.location == str(path)
    assert store.tags() == ["v1"]
    assert store.read_tag("v1", limit=10) == (BLOB, CONTENT)
    assert store.read_manifest(BLOB, limit=10) == CONTENT
    assert store.read_blob(BLOB, limit=10) == CONTENT


def test_a_blob_is_streamed_from_any_offset(path: Path) -> None:
    store = LayoutStore(path)
    for offset in (0, 3, 9, 10):
        assert b"".join(store.stream_blob(BLOB, offset=offset)) == CONTENT[offset:]


def test_a_reader_sees_what_was_published_since(path: Path) -> None:
    store = LayoutStore(path)
    assert store.tags() == ["v1"]
    LayoutWriter(path).commit([("v2", BLOB)], expected={})
    assert store.tags() == ["v1", "v2"]
    LayoutWriter(path).remove(["v1"])
    assert store.tags() == ["v2"]


def test_a_tag_that_is_not_there_is_named(path: Path) -> None:
    with pytest.raises(NotFoundError, match="no tag 'v9'"):
        LayoutStore(path).read_tag("v9", limit=10)


def test_a_path_that_is_no_layout_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").touch()
    for path in (tmp_path / "empty", tmp_path / "missing"):
        with pytest.raises(NotFoundError, match="is not a model registry"):
            LayoutStore(path)
        with pytest.raises(NotFoundError, match="is not a model registry"):
            LayoutWriter(path).tags()
    with pytest.raises(RegistryError):
        LayoutStore(tmp_path / "file")


def test_more_than_the_limit_is_not_read(path: Path) -> None:
    for read in (LayoutStore(path).read_blob, LayoutStore(path).read_manifest):
        with pytest.raises(IntegrityError, match="at most 9 are allowed"):
            read(BLOB, limit=9)
    with pytest.raises(IntegrityError, match="at most 9 are allowed"):
        LayoutStore(path).read_tag("v1", limit=9)


def flip(blob: Path) -> None:
    blob.write_bytes(b"X" + CONTENT[1:])


def truncate(blob: Path) -> None:
    blob.write_bytes(CONTENT[:-1])


def grow(blob: Path) -> None:
    with blob.open("ab") as file:
        file.truncate(1 << 40)  # sparse: it would not fit into memory


def link(blob: Path) -> None:
    blob.symlink_to(blob.rename(blob.parents[3] / "moved"))


def link_folder(blob: Path) -> None:
    folder = blob.parent
    folder.symlink_to(folder.rename(folder.parents[2] / "moved"))


def pipe(blob: Path) -> None:
    blob.unlink()
    os.mkfifo(blob)


def folder(blob: Path) -> None:
    blob.unlink()
    blob.mkdir()


DAMAGES = [
    pytest.param(truncate, id="truncated"),
    pytest.param(grow, id="grown to a terabyte"),
    pytest.param(Path.unlink, id="missing"),
    pytest.param(link, id="a symbolic link"),
    pytest.param(link_folder, id="in a linked folder"),
    pytest.param(pipe, id="a pipe that nobody writes to"),
    pytest.param(folder, id="a folder"),
]


@pytest.mark.parametrize("damage", [*DAMAGES, pytest.param(flip, id="tampered with")])
def test_refuses_a_blob_that_is(damage: Callable[[Path], None], path: Path, blob: Path) -> None:
    damage(blob)
    with pytest.raises((IntegrityError, NotFoundError)):
        LayoutStore(path).read_blob(BLOB, limit=10)
    with pytest.raises((IntegrityError, NotFoundError)):
        LayoutStore(path).read_tag("v1", limit=10)
    assert not LayoutWriter(path).has_blob(BLOB)


@pytest.mark.parametrize("damage", DAMAGES)
def test_refuses_to_stream_a_blob_that_is(
    damage: Callable[[Path], None], path: Path, blob: Path
) -> None:
    damage(blob)
    with pytest.raises((IntegrityError, NotFoundError)):
        b"".join(LayoutStore(path).stream_blob(BLOB))


def tagged(**fields: Any) -> bytes:
    entry = {**BLOB.to_json(), "annotations": {TAG_ANNOTATION: "v1"}, **fields}
    return json.dumps({"manifests": [entry]}).encode()


@pytest.mark.parametrize(
    "index",
    [
        pytest.param(b"", id="nothing in it"),
        pytest.param(b"{", id="half of JSON"),
        pytest.param(b"{}", id="no manifests"),
        pytest.param(b'{"manifests": {}}', id="manifests that are no list"),
        pytest.param(b'{"manifests": [1]}', id="a number in place of a descriptor"),
        pytest.param(b'{"manifests": ' + b"[" * 100_000, id="deep nesting"),
        pytest.param(b'{"manifests": [], "manifests": []}', id="a key twice"),
        pytest.param(b'{"manifests": [{"annotations": []}]}', id="annotations in a list"),
        pytest.param(b'{"manifests": [{"annotations": {"a": 1}}]}', id="a numeric annotation"),
        pytest.param(
            json.dumps({"manifests": [{"annotations": {TAG_ANNOTATION: "v1"}}]}).encode(),
            id="a tag and nothing else",
        ),
        pytest.param(tagged(digest="sha256:../../../../etc/passwd"), id="a path for a digest"),
        pytest.param(tagged(digest=f"sha256:{'A' * 64}"), id="capitals in a digest"),
        pytest.param(tagged(digest=f"{BLOB.digest}\n"), id="a line break in a digest"),
        pytest.param(tagged(digest=f"sha512:{'a' * 128}"), id="another algorithm"),
        pytest.param(tagged(digest="a" * 100_000), id="an overlong digest"),
        pytest.param(tagged(digest=None), id="no digest"),
        pytest.param(tagged(size=-1), id="a negative size"),
        pytest.param(tagged(size=True), id="a size that is a boolean"),
        pytest.param(tagged(size=9), id="a size that is too small"),
        pytest.param(tagged(size=11), id="a size that is too large"),
        pytest.param(tagged(size=1 << 40), id="a size of a terabyte"),
        pytest.param(tagged(mediaType=1), id="a media type that is a number"),
    ],
)
def test_refuses_a_store_index_with(index: bytes, path: Path) -> None:
    (path / "index.json").write_bytes(index)
    with pytest.raises(IntegrityError):
        LayoutStore(path).read_tag("v1", limit=1 << 20)


def test_a_tag_that_is_there_twice_is_refused(path: Path) -> None:
    document = json.loads((path / "index.json").read_bytes())
    document["manifests"] *= 2
    (path / "index.json").write_text(json.dumps(document))
    with pytest.raises(IntegrityError, match="is there twice"):
        LayoutStore(path).tags()


@pytest.mark.parametrize("tag", ["", "../v1", "/v1", "v1\n", "-v1", "v" * 129, "ü"])
def test_a_hostile_tag_is_passed_over(tag: str, path: Path) -> None:
    (path / "index.json").write_bytes(tagged(annotations={TAG_ANNOTATION: tag}))
    assert LayoutStore(path).tags() == []


def test_an_oversized_store_index_is_not_read(path: Path) -> None:
    with (path / "index.json").open("ab") as file:
        file.truncate(1 << 40)
    with pytest.raises(IntegrityError, match="at most 16777216"):
        LayoutStore(path).tags()


@pytest.mark.parametrize("name", ["index.json", "oci-layout"])
def test_a_file_of_the_layout_that_is_a_link_is_refused(name: str, path: Path) -> None:
    (path / name).symlink_to((path / name).rename(path.parent / "moved"))
    with pytest.raises(IntegrityError, match="cannot be opened"):
        LayoutStore(path).tags()


def test_a_store_without_its_index_is_refused(path: Path) -> None:
    (path / "index.json").unlink()
    with pytest.raises(NotFoundError, match=r"index\.json does not exist"):
        LayoutStore(path).tags()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read_is_named(path: Path, blob: Path) -> None:
    blob.chmod(0)
    with pytest.raises(RegistryError, match="Permission denied"):
        LayoutStore(path).read_blob(BLOB, limit=10)
