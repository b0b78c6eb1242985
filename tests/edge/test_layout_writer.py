"""Writing to a directory: all or nothing, one writer at a time, and no link is followed."""

import contextlib
import fcntl
import json
import os
import resource
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from edgeline.errors import ConflictError, IntegrityError, RegistryError
from edgeline.publish import layout as layout_module
from edgeline.publish import spool
from edgeline.publish.garbage import Collected
from edgeline.publish.layout import LayoutWriter
from edgeline.registry.format import OCI_INDEX, OCI_MANIFEST, TAG_ANNOTATION, Descriptor
from edgeline.registry.layout import LayoutStore

NOW = timedelta()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "layout"


@pytest.fixture
def writer(path: Path) -> LayoutWriter:
    return LayoutWriter(path)


def put(writer: LayoutWriter, content: bytes) -> Descriptor:
    return writer.put_blob(content, "text/plain", limit=1 << 20)


def file_of(path: Path, blob: Descriptor) -> Path:
    return path / "blobs" / "sha256" / blob.digest.removeprefix("sha256:")


def identity(file: Path) -> tuple[int, int]:
    """What changes when a file is replaced or written to."""
    status = file.stat()
    return status.st_ino, status.st_mtime_ns


def everything(path: Path) -> dict[str, bytes]:
    """Every file in a layout but the lock."""
    files = (file for file in path.rglob("*") if file.is_file() and file.name != "lock")
    return {str(file.relative_to(path)): file.read_bytes() for file in files}


def test_a_store_is_made_when_it_is_first_written_to(path: Path, writer: LayoutWriter) -> None:
    assert not path.exists()
    with writer.exclusive():
        pass
    assert json.loads((path / "oci-layout").read_bytes()) == {"imageLayoutVersion": "1.0.0"}
    assert json.loads((path / "index.json").read_bytes())["manifests"] == []
    assert LayoutStore(path).tags() == []


def test_a_blob_is_stored_from_memory_or_from_a_file(path: Path, writer: LayoutWriter) -> None:
    source = path.with_name("source")
    source.write_bytes(b"content")
    from_file = writer.put_blob(source, "text/plain", limit=7, name="a.txt")
    from_memory = writer.put_blob(b"content", "text/plain", limit=7, name="a.txt")
    assert from_file == from_memory
    assert from_file.annotations == {"org.opencontainers.image.title": "a.txt"}
    assert writer.read_blob(from_file, limit=7) == b"content"
    assert writer.has_blob(from_file)


def test_a_blob_that_is_there_is_not_written_again(path: Path, writer: LayoutWriter) -> None:
    source = path.with_name("source")
    source.write_bytes(b"content")
    first = identity(file_of(path, put(writer, b"content")))
    assert identity(file_of(path, writer.put_blob(source, "x", limit=7))) == first
    assert identity(file_of(path, put(writer, b"content"))) == first


def test_a_blob_can_be_read_before_it_is_on_the_disk(writer: LayoutWriter) -> None:
    with writer.exclusive():
        blobs = [put(writer, f"blob {number}".encode()) for number in range(20)]
        assert all(writer.has_blob(blob) for blob in blobs)
        for number, blob in enumerate(blobs):
            assert writer.read_blob(blob, limit=10) == f"blob {number}".encode()
            assert b"".join(writer.stream_blob(blob, offset=5)) == str(number).encode()


@pytest.mark.parametrize("damaged", [b"CONTENT", b"cont", b""])
def test_a_damaged_blob_is_repaired(damaged: bytes, path: Path, writer: LayoutWriter) -> None:
    source = path.with_name("source")
    source.write_bytes(b"content")
    for content in (b"content", source):
        blob = writer.put_blob(content, "text/plain", limit=7)
        file_of(path, blob).write_bytes(damaged)
        assert writer.put_blob(content, "text/plain", limit=7) == blob
        assert writer.read_blob(blob, limit=7) == b"content"


def test_a_blob_that_is_empty_or_too_large_is_refused(path: Path, writer: LayoutWriter) -> None:
    source = path.with_name("source")
    for content in (b"", b"12345"):
        source.write_bytes(content)
        for what in (content, source):
            with pytest.raises(RegistryError, match=f"has {len(content)} bytes"):
                writer.put_blob(what, "text/plain", limit=4)
    with pytest.raises(RegistryError, match=r"missing cannot be read: No such file"):
        writer.put_blob(path.with_name("missing"), "text/plain", limit=4)
    assert everything(path).keys() == {"oci-layout", "index.json"}


def test_tags_are_set_all_at_once_or_not_at_all(path: Path, writer: LayoutWriter) -> None:
    one, two = put(writer, b"one"), put(writer, b"two")
    writer.commit([("a", one), ("b", one)], expected={"a": None, "b": None})
    before = everything(path)
    for expected in ({"a": None}, {"a": two.digest}, {"a": one.digest, "c": two.digest}):
        with pytest.raises(ConflictError, match="was changed meanwhile"):
            writer.commit([("a", two), ("c", two)], expected=expected)
    assert everything(path) == before
    writer.commit([("a", two), ("c", two)], expected={"a": one.digest, "c": None})
    tags = {tag: writer.read_tag(tag, limit=3)[1] for tag in writer.tags()}
    assert tags == {"a": b"two", "b": b"one", "c": b"two"}


def test_setting_tags_to_what_they_are_writes_nothing(path: Path, writer: LayoutWriter) -> None:
    blob = put(writer, b"one")
    writer.commit([("a", blob)], expected={})
    before = identity(path / "index.json")
    writer.commit([("a", blob)], expected={"a": blob.digest})
    assert identity(path / "index.json") == before


def test_something_that_cannot_be_a_tag_is_refused(writer: LayoutWriter) -> None:
    blob = put(writer, b"one")
    for tag in ("", "../a", "a" * 129, "a\n"):
        with pytest.raises(RegistryError, match="cannot be a tag"):
            writer.commit([("good", blob), (tag, blob)], expected={})
    assert writer.tags() == []


def test_tags_are_removed(writer: LayoutWriter) -> None:
    blob = put(writer, b"one")
    writer.commit([("a", blob), ("b", blob), ("c", blob)], expected={})
    writer.remove(["a", "c", "never there"])
    assert writer.tags() == ["b"]


FOREIGN = [
    {"mediaType": "text/plain", "digest": f"sha256:{'0' * 64}", "size": 1, "urls": ["x:y"]},
    {"mediaType": "x", "digest": "y", "annotations": {TAG_ANNOTATION: "/"}},
]


def test_entries_of_other_tools_are_kept(path: Path, writer: LayoutWriter) -> None:
    blob = put(writer, b"one")
    document = {"manifests": FOREIGN}
    (path / "index.json").write_text(json.dumps(document))
    writer.commit([("a", blob)], expected={})
    writer.remove(["a"])
    assert json.loads((path / "index.json").read_bytes())["manifests"] == FOREIGN


def test_too_many_tags_are_refused(
    writer: LayoutWriter, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    blob = put(writer, b"one")
    writer.commit([("a", blob)], expected={})
    monkeypatch.setattr(layout_module, "MAX_STORE_INDEX", (path / "index.json").stat().st_size)
    with pytest.raises(RegistryError, match="edgeline registry gc"):
        writer.commit([("b", blob)], expected={})
    assert writer.tags() == ["a"]


def image(writer: LayoutWriter) -> list[Descriptor]:
    """An index with a manifest with a config and a layer; the index comes first."""
    config, layer = put(writer, b"config"), put(writer, b"layer")
    manifest = {
        "mediaType": OCI_MANIFEST,
        "config": config.to_json(),
        "layers": [layer.to_json()],
    }
    child = writer.put_manifest(json.dumps(manifest).encode(), OCI_MANIFEST)
    document = {"mediaType": OCI_INDEX, "manifests": [child.to_json()]}
    index = writer.put_manifest(json.dumps(document).encode(), OCI_INDEX)
    return [index, child, config, layer]


def test_what_no_tag_leads_to_is_collected(path: Path, writer: LayoutWriter) -> None:
    index, *others = image(writer)
    writer.commit([("a", index)], expected={})
    orphan = put(writer, b"orphan")
    kept = {blob.digest for blob in (index, *others)}
    assert writer.collect(grace=NOW) == Collected(manifests=0, blobs=1, size=orphan.size)
    assert {f"sha256:{file.name}" for file in (path / "blobs" / "sha256").iterdir()} == kept

    writer.remove(["a"])
    size = sum(blob.size for blob in (index, *others))
    assert writer.collect(grace=NOW) == Collected(manifests=2, blobs=2, size=size)
    assert writer.collect(grace=NOW) == Collected(manifests=0, blobs=0, size=0)


def test_what_is_younger_than_the_grace_period_is_kept(path: Path, writer: LayoutWriter) -> None:
    old, young = put(writer, b"old"), put(writer, b"young")
    hour_ago = time.time() - 3600
    os.utime(file_of(path, old), (hour_ago, hour_ago))
    writer.collect(grace=timedelta(minutes=30))
    assert (writer.has_blob(old), writer.has_blob(young)) == (False, True)


def test_what_is_no_blob_is_not_collected(path: Path, writer: LayoutWriter) -> None:
    put(writer, b"orphan")
    (path / "blobs" / "sha256" / "folder").mkdir()
    (path / "blobs" / "sha256" / "notes.txt").write_bytes(b"somebody's")
    (path / "readme.txt").write_bytes(b"somebody's")
    (path / ".edgeline" / "incoming" / "7").write_bytes(b"left by a crash")
    assert writer.collect(grace=NOW).blobs == 1
    assert (path / "blobs" / "sha256" / "folder").is_dir()
    assert everything(path).keys() == {
        "oci-layout", "index.json", "readme.txt", "blobs/sha256/notes.txt"
    }  # fmt: skip


def test_entries_without_a_tag_are_not_collected(path: Path, writer: LayoutWriter) -> None:
    index, *others = image(writer)
    document = {"manifests": [index.to_json()]}
    (path / "index.json").write_text(json.dumps(document))
    assert writer.collect(grace=NOW) == Collected(0, 0, 0)
    assert all(writer.has_blob(blob) for blob in (index, *others))


def test_what_is_said_to_be_of_another_type_is_not_collected(
    path: Path, writer: LayoutWriter
) -> None:
    index, *others = image(writer)
    odd = Descriptor("application/octet-stream", index.digest, index.size)
    writer.commit([("a", odd), ("b", others[-1])], expected={})
    assert writer.collect(grace=NOW) == Collected(0, 0, 0)


def test_a_manifest_that_is_a_layer_elsewhere_is_followed_all_the_same(
    writer: LayoutWriter,
) -> None:
    index, *others = image(writer)
    config = put(writer, b"{}")
    layered = {"config": config.to_json(), "layers": [index.to_json(), others[0].to_json()]}
    manifest = writer.put_manifest(json.dumps(layered).encode(), OCI_MANIFEST)
    for tags in (("a", "b"), ("b", "a")):
        writer.remove(["a", "b"])
        writer.commit([(tags[0], manifest), (tags[1], index)], expected={})
        assert writer.collect(grace=NOW) == Collected(0, 0, 0)


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(Path.unlink, id="missing"),
        pytest.param(lambda file: file.write_bytes(b"{}"), id="changed"),
    ],
)
def test_nothing_is_collected_when_a_manifest_is(
    damage: Callable[[Path], object], path: Path, writer: LayoutWriter
) -> None:
    """Its blobs would be taken for orphans."""
    index, child, *_ = image(writer)
    writer.commit([("a", index)], expected={})
    damage(file_of(path, child))
    before = everything(path)
    with pytest.raises(IntegrityError, match="No blobs were removed"):
        writer.collect(grace=NOW)
    assert everything(path) == before


@pytest.mark.parametrize(
    "fields",
    [
        pytest.param({"layers": 1}, id="layers that are a number"),
        pytest.param({"layers": ["x"]}, id="a layer that is a string"),
        pytest.param({"config": None}, id="a config that is null"),
    ],
)
def test_nothing_is_collected_when_a_manifest_has(
    fields: dict[str, object], writer: LayoutWriter
) -> None:
    manifest = writer.put_manifest(json.dumps(fields).encode(), OCI_MANIFEST)
    orphan = put(writer, b"orphan")
    writer.commit([("a", manifest)], expected={})
    with pytest.raises(IntegrityError, match="No blobs were removed"):
        writer.collect(grace=NOW)
    assert writer.has_blob(orphan)


def test_nothing_is_collected_when_an_entry_cannot_be_followed(
    path: Path, writer: LayoutWriter
) -> None:
    orphan = put(writer, b"orphan")
    (path / "index.json").write_text(json.dumps({"manifests": FOREIGN}))
    with pytest.raises(IntegrityError, match="No blobs were removed"):
        writer.collect(grace=NOW)
    assert writer.has_blob(orphan)


def test_a_folder_with_something_else_in_it_is_left_alone(path: Path, writer: LayoutWriter) -> None:
    path.mkdir()
    (path / "holiday.jpg").write_bytes(b"photo")
    with pytest.raises(RegistryError, match="is not a model registry"), writer.exclusive():
        pass
    assert [file.name for file in path.iterdir()] == ["holiday.jpg"]


def test_a_layout_of_another_version_is_left_alone(path: Path, writer: LayoutWriter) -> None:
    path.mkdir()
    (path / "oci-layout").write_text('{"imageLayoutVersion": "2.0.0"}')
    with pytest.raises(RegistryError, match=r"version '2\.0\.0'"), writer.exclusive():
        pass
    assert [file.name for file in path.iterdir()] == ["oci-layout"]


def test_a_store_that_lost_its_index_is_not_begun_anew(path: Path, writer: LayoutWriter) -> None:
    put(writer, b"one")
    (path / "index.json").unlink()
    with pytest.raises(RegistryError, match=r"Restore index\.json"):
        put(writer, b"two")


@pytest.mark.parametrize("left", [[], [".edgeline/"], [".edgeline/", "oci-layout"]])
def test_a_layout_that_was_begun_is_finished(
    left: list[str], path: Path, writer: LayoutWriter
) -> None:
    path.mkdir()
    for name in left:
        if name.endswith("/"):
            (path / name).mkdir()
        else:
            (path / name).write_text('{"imageLayoutVersion": "1.0.0"}')
    assert writer.has_blob(put(writer, b"one"))


@pytest.fixture
def outside(path: Path) -> Path:
    """A folder beside the layout, with a file that is nobody's business."""
    folder = path.with_name("outside")
    folder.mkdir()
    (folder / ("0" * 64)).write_bytes(b"precious")
    return folder


@pytest.mark.parametrize(
    ("planted", "target"),
    [
        (".edgeline/incoming", "."),
        (".edgeline/incoming/1", "0" * 64),
        (".edgeline/lock", "0" * 64),
        (".edgeline/lock", "new"),
        (".edgeline", "."),
        ("blobs", "."),
        ("blobs/sha256", "."),
        ("index.json", "0" * 64),
        ("oci-layout", "0" * 64),
    ],
)
def test_a_planted_link_does_not_lead_a_writer_outside(
    planted: str, target: str, path: Path, outside: Path
) -> None:
    put(LayoutWriter(path), b"one")
    where = path / planted
    if where.exists():
        where.rename(path.with_name("moved"))
    where.symlink_to(outside / target)
    before = everything(outside)
    for write in (lambda w: put(w, b"two"), lambda w: w.collect(grace=NOW)):
        with contextlib.suppress(RegistryError):
            write(LayoutWriter(path))
    assert everything(outside) == before


def test_a_linked_blob_is_replaced_and_its_target_left_alone(
    path: Path, writer: LayoutWriter, outside: Path
) -> None:
    blob = put(writer, b"one")
    file_of(path, blob).unlink()
    file_of(path, blob).symlink_to(outside / ("0" * 64))
    before = everything(outside)
    assert writer.read_blob(put(writer, b"one"), limit=3) == b"one"
    assert not file_of(path, blob).is_symlink()

    file_of(path, blob).unlink()
    file_of(path, blob).symlink_to(outside / ("0" * 64))
    writer.collect(grace=timedelta(hours=-1))
    assert not file_of(path, blob).is_symlink()
    assert everything(outside) == before


def test_writers_take_turns(path: Path, writer: LayoutWriter) -> None:
    order = path.with_name("order")
    go, trying = os.pipe(), os.pipe()
    child = os.fork()
    if child == 0:
        with contextlib.suppress(BaseException):
            os.read(go[0], 1)
            os.write(trying[1], b"x")
            with LayoutWriter(path).exclusive(), order.open("a") as file:
                file.write("child")
        os._exit(0)
    with writer.exclusive():
        with writer.exclusive():  # as often as one likes
            pass
        os.write(go[1], b"x")
        os.read(trying[0], 1)
        with order.open("a") as file:
            file.write("parent ")
    os.waitpid(child, 0)
    assert order.read_text() == "parent child"


def test_a_writer_that_does_not_come_to_an_end_is_not_waited_for_ever(
    path: Path, writer: LayoutWriter, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(writer, b"one")
    monkeypatch.setattr(layout_module, "_LOCK_TIMEOUT", 0.0)
    with (path / ".edgeline" / "lock").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(ConflictError, match="locked by another writer"):
            put(writer, b"two")
    put(writer, b"two")


def test_the_lock_is_free_after_an_error(path: Path, writer: LayoutWriter) -> None:
    with pytest.raises(ZeroDivisionError), writer.exclusive():
        1 / 0  # noqa: B018
    put(LayoutWriter(path), b"two")


def test_an_error_leaves_files_that_were_stored_and_nothing_else(
    path: Path, writer: LayoutWriter
) -> None:
    """So that copying a large registry again, once the network is back, goes on where it ended."""
    source = path.with_name("source")
    source.write_bytes(b"a file")
    with contextlib.suppress(KeyboardInterrupt), writer.exclusive():
        kept = writer.put_blob(source, "text/plain", limit=100)
        lost = put(writer, b"a manifest, say")
        raise KeyboardInterrupt
    assert writer.has_blob(kept)
    assert not writer.has_blob(lost)
    assert not list((path / ".edgeline" / "incoming").iterdir())


def test_small_blobs_wait_in_memory_only_up_to_a_limit(
    path: Path, writer: LayoutWriter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spool, "_HELD", 10)
    with writer.exclusive():
        first = put(writer, b"123456")
        assert not file_of(path, first).exists()
        second = put(writer, b"789012")
        assert file_of(path, first).read_bytes() == b"123456"
        third = put(writer, b"3")
        assert writer.has_blob(third)
    assert all(map(writer.has_blob, (first, second, third)))


@contextlib.contextmanager
def full_after(size: int) -> Iterator[None]:
    """Let no file grow beyond `size` bytes, as on a disk that is full."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_is_told_and_leaves_nothing_behind(path: Path, writer: LayoutWriter) -> None:
    source = path.with_name("source")
    source.write_bytes(b"content" * 1000)
    put(writer, b"one")
    before = everything(path)
    for content in (b"content" * 1000, source):
        with full_after(5000), pytest.raises(RegistryError, match="no space left"):
            writer.put_blob(content, "text/plain", limit=1 << 20)
        assert everything(path) == before
    writer.put_blob(source, "text/plain", limit=1 << 20)


def test_a_disk_too_full_for_the_tags_leaves_them_as_they_were(
    path: Path, writer: LayoutWriter
) -> None:
    blob = put(writer, b"one")
    writer.commit([("a", blob)], expected={})
    before = everything(path)
    many = [(f"tag-{number}", blob) for number in range(100)]
    with full_after(5000):
        with pytest.raises(RegistryError, match="no space left"):
            writer.commit(many, expected={})
        assert everything(path) == before
        put(writer, b"orphan")
        writer.collect(grace=NOW)  # which is how to make space
    assert everything(path) == before
    writer.commit(many, expected={})
    assert len(writer.tags()) == 101


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_directory_that_may_not_be_written_is_named(path: Path, writer: LayoutWriter) -> None:
    put(writer, b"one")
    (path / "blobs" / "sha256").chmod(0o500)
    with pytest.raises(RegistryError, match=r"could not be written: Permission denied .*sha256"):
        put(writer, b"two")
