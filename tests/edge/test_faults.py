"""Publishers that are killed, or run at once: no reader sees anything broken, and nothing is lost.

A publisher is forked from the test and kills itself at a step: at the first one, then in a fresh
registry at the second one, and so on until none is left. So every step is reached, on any machine.
"""

import contextlib
import errno
import itertools
import os
import resource
import shutil
import signal
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from edgeline.errors import NotFoundError, RegistryError, UnreachableError
from edgeline.publish import remote, spool
from edgeline.publish.store import open_for_writing
from edgeline.registry.format import INDEX_FILE, WEIGHTS
from edgeline.registry.reader import Release
from tests.edge.hooks import hooked

if TYPE_CHECKING:
    from tests.edge.conftest import Store

OLD = {"float32": b"old float32", "int8": b"old int8"}
NEW = {"float32": b"new float32", "int8": b"new int8"}
FINISHED, FAILED = 0, 1

Kill = Callable[[], None]  # called at each step; at the chosen one it does not return


def forked(work: Callable[[], object]) -> int:
    """Do some work in a process of its own; return its id."""
    child = os.fork()
    if child:
        return child
    code = FAILED
    try:
        work()
        code = FINISHED
    finally:
        os._exit(code)  # nothing of pytest's is for the child to finish


def outcome(child: int) -> int:
    """Wait for a process; return its exit code, or the negative number of the signal it died by."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def killed_at(number: int) -> Kill:
    """Return what kills the process when it is called for the `number`-th time."""
    calls = itertools.count(1)

    def kill() -> None:
        if next(calls) == number:
            os.kill(os.getpid(), signal.SIGKILL)
            signal.pause()  # until it takes effect, should this be another thread

    return kill


def kills(work: Callable[[Kill], object]) -> Iterator[int]:
    """Do some work over and over, each time killed one step later, until it is done in peace."""
    for number in itertools.count(1):
        code = outcome(forked(lambda number=number: work(killed_at(number))))  # type: ignore[misc]
        if code == FINISHED:
            return
        assert code == -signal.SIGKILL, f"the work failed before its step {number}"
        yield number


def contents(store: "Store", release: Release) -> dict[str, bytes]:
    reader = store.reader
    return {variant.name: reader.read_model(variant) for variant in release.variants}


def check_old_or_new(store: "Store") -> None:
    """What a device sees, and whether all of it is whole."""
    releases = store.read_everything()
    assert [release.version for release in releases] in ([1], [1, 2])
    served = store.serving()
    assert contents(store, served) == {1: OLD, 2: NEW}[served.version]
    channel = store.channels.channel("pets", "candidate")
    assert channel is not None
    assert [ref.version for ref in channel.history] == [*range(1, served.version)][::-1]


def check_converges(store: "Store") -> None:
    """What the next publisher makes of it."""
    assert store.publish(NEW).version == 2
    check_old_or_new(store)
    assert store.serving().version == 2
    tags = store.open().tags()
    assert {"v1-float32", "v1-int8", "v2-float32", "v2-int8"} <= set(tags)
    assert "v3" not in tags
    signed = [int(tag.removeprefix("tuf-")) for tag in tags if tag.startswith("tuf-")]
    assert sorted(signed) == [*range(1, max(signed) + 1)], "nothing signed is lost"
    assert store.publish(NEW).created is False


def fresh(store: "Store", number: int) -> "Store":
    """Return a registry with the old release, for the `number`-th publisher to be killed."""
    if store.location.startswith("oci://"):
        other = store.elsewhere()
        other.publish(OLD)
        return other
    files = store.files / str(number)
    files.mkdir()
    shutil.copytree(store.path, files / "registry")
    return replace(store, location=str(files / "registry"), files=files)


def test_a_publisher_killed_after_any_step_leaves_the_old_release_or_the_new_one(
    any_store: "Store",
) -> None:
    any_store.publish(OLD)
    places = (fresh(any_store, number) for number in itertools.count())
    place = next(places)

    def publish(kill: Kill) -> None:
        writer = hooked(open_for_writing(place.location), after=lambda *_: kill())
        place.publish(NEW, writer=writer)

    count = 0
    for count in kills(publish):  # noqa: B007 - the last one counts
        check_old_or_new(place)
        check_converges(place)
        place = next(places)
    assert count >= 15
    assert place.serving().version == 2


@contextlib.contextmanager
def killed_around(owner: object, name: str, kill: Kill) -> Iterator[None]:
    """Have the process killed before or after a call by which files get to the disk, or go."""
    original = getattr(owner, name)

    def call(*arguments: Any, **options: Any) -> Any:
        kill()
        result = original(*arguments, **options)
        kill()
        return result

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(owner, name, call)
        yield


@pytest.mark.parametrize(("owner", "name"), [(os, "fsync"), (Path, "replace")])
def test_a_publisher_killed_while_it_writes_leaves_the_old_release_or_the_new_one(
    owner: object, name: str, store: "Store", monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spool, "_WORKERS", 1)  # so that the order is the same each time
    store.publish(OLD)
    places = (fresh(store, number) for number in itertools.count())
    place = next(places)

    def publish(kill: Kill) -> None:
        with killed_around(owner, name, kill):
            place.publish(NEW)

    count = 0
    for count in kills(publish):
        check_old_or_new(place)
        if count % 4 == 0:
            # The rest is left to one publisher after the next.
            check_converges(place)
            open_for_writing(place.location).collect(grace=timedelta())
            assert not list((place.path / ".edgeline" / "incoming").iterdir())
            check_old_or_new(place)
        place = next(places)
    assert count >= 20
    assert place.serving().version == 2


def leave_orphans(store: "Store") -> None:
    """Publish all but the tags."""
    original = Path.replace

    def interrupted(path: Path, target: Path) -> Path:
        if target.name == INDEX_FILE:
            raise KeyboardInterrupt
        return original(path, target)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Path, "replace", interrupted)
        with pytest.raises(KeyboardInterrupt):
            store.publish(NEW)


def test_a_collector_killed_at_any_step_leaves_everything_that_is_needed(store: "Store") -> None:
    store.publish(OLD)
    leave_orphans(store)
    place = fresh(store, 0)

    def collect(kill: Kill) -> None:
        with killed_around(Path, "unlink", kill):
            open_for_writing(place.location).collect(grace=timedelta())

    count = 0
    for count in kills(collect):
        check_old_or_new(place)
        if count % 4 == 0:
            check_converges(place)
        place = fresh(store, count)
    assert count >= 5
    check_old_or_new(place)


def persistently(store: "Store", work: Callable[[], object]) -> None:
    """Do some work, again and again if docker-registry says no.

    It sets a tag in several steps. Whoever looks in between is told that there is no such tag, or
    gets an "unknown error", and the message's advice is to try again.
    """
    for _ in range(20):
        try:
            work()
        except (NotFoundError, UnreachableError):
            if not store.location.startswith("oci://"):
                raise
        else:
            return
    work()


@pytest.mark.parametrize("publishers", [("pets", "cats"), ("pets", "pets")])
def test_publishers_at_once_lose_nothing(
    publishers: tuple[str, str], any_store: "Store", monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote, "SETTLE_SECONDS", 1.0)

    def publish(number: int, model: str) -> None:
        files = any_store.files / str(number)
        files.mkdir()
        own = replace(any_store, files=files)
        for turn in range(2):
            content = {"float32": b"%d %d" % (number, turn)}
            persistently(own, partial(own.publish, content, model=model))

    children = [forked(partial(publish, *each)) for each in enumerate(publishers)]
    while children:
        persistently(any_store, any_store.read_everything)
        ended = [os.waitpid(child, os.WNOHANG) for child in children]
        assert all(status == 0 for _, status in ended)
        children = [child for child, (done, _) in zip(children, ended, strict=True) if not done]

    releases = any_store.read_everything()
    assert [release.version for release in releases] == [1, 2, 3, 4]
    found = sorted(contents(any_store, release)["float32"] for release in releases)
    assert found == [b"0 0", b"0 1", b"1 0", b"1 1"]
    served = {
        ref.version
        for channel in any_store.channels.channels()
        for ref in (channel.release, *channel.history)
    }
    assert served == {1, 2, 3, 4}, "each was served at some time"


def test_a_disk_that_is_full_at_any_step_leaves_the_old_release_or_the_new_one(
    store: "Store", monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spool, "_WORKERS", 1)  # so that the order is the same each time
    store.publish(OLD)
    place = fresh(store, 0)
    steps = count_calls(os, "fsync", partial(place.publish, NEW))
    assert steps >= 12
    for number in range(1, steps + 1):
        place = fresh(store, number)
        with full_at(number), pytest.raises(RegistryError, match="no space left"):
            place.publish(NEW)
        check_old_or_new(place)
        assert not list((place.path / ".edgeline" / "incoming").iterdir())
        if number % 4 == 0:
            check_converges(place)


def count_calls(owner: object, name: str, work: Callable[[], object]) -> int:
    original, calls = getattr(owner, name), itertools.count()

    def call(*arguments: Any) -> Any:
        next(calls)
        return original(*arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(owner, name, call)
        work()
    return next(calls)


@contextlib.contextmanager
def full_at(number: int) -> Iterator[None]:
    """Have the disk full when something is to be put on it for the `number`-th time."""
    original, calls = os.fsync, itertools.count(1)

    def fsync(file: int) -> None:
        if next(calls) == number:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        original(file)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", fsync)
        yield


def test_a_disk_without_room_for_a_model_keeps_the_old_release(store: "Store") -> None:
    store.publish(OLD)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    large = {"float32": b"float32" * 20_000, "int8": b"int8"}
    for name, content in large.items():
        (store.files / f"{name}.tflite").write_bytes(content)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        writer = open_for_writing(store.location)
        with pytest.raises(RegistryError, match="no space left"):
            writer.put_blob(store.files / "float32.tflite", WEIGHTS, limit=1 << 20)
        assert writer.collect(grace=timedelta()).blobs == 0
        check_old_or_new(store)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert store.publish(large).version == 2
