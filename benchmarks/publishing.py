"""What publishing costs beside copying the files, and how a registry of 1,000 releases behaves.

Promised: a release of three variants (28, 14 and 7 MB) is published to a directory in less than 1.5
times what copying and syncing the same files takes. With 1,000 releases in a registry, listing,
showing and promoting take less than 1 s each as commands, Python's start included, and so does a
device's look for a new release, for which it downloads less than 100 KB of metadata.

The first promise leaves least room on a disk that is as fast as SHA-256 is, 2 GB/s on one core,
since publishing also hashes what it copies: 20 runs on a quiet machine with two cores gave 1.34 to
1.49, half of them at most 1.37. With a slower disk, 0.4 GB/s, publishing took as long as copying.
It also flushes the disk 17 times, for the manifests and signatures of a release, where copying does
so 3 times. Where flushes are slow and all else is fast, as on that machine for some minutes after
other heavy writing, it took 1.9 to 3.7 times as long.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, cast

from tabulate import tabulate

from components.verdict import Check, VariantVerdict, Verdict
from edgeline._json import dump_canonical
from edgeline.contract import PreprocessingContract
from edgeline.key_files import generate_key
from edgeline.publish.keys import Signers
from edgeline.publish.layout import LayoutWriter
from edgeline.publish.release import VariantFiles, publish
from edgeline.publish.repository import Keys, ModelKeys, Repository, initialize
from edgeline.registry.format import (
    MAX_MANIFEST,
    MAX_VERDICT,
    OCI_INDEX,
    OCI_MANIFEST,
    TUF_TAG,
    VARIANT_ANNOTATION,
    VERDICT,
    Descriptor,
    ReleaseRef,
    metadata_tag,
    variant_tag,
    version_tag,
)
from edgeline.registry.layout import LayoutStore
from edgeline.registry.store import ReadStore
from edgeline.registry.trust import TrustedChannels

MODEL = "cells"
MODELS = (MODEL, *(f"model-{number}" for number in range(1, 10)))
VARIANTS = {"float32": 28, "float16": 14, "int8": 7}  # MB
CONTRACT = PreprocessingContract(height=150, width=150, max_side=512, labels=("intact", "broken"))
ROUNDS = 20
RELEASES = 1000
RUNS = 5  # of each command

# A device's look for a new release, in a process of its own.
CHECK = """
import sys
from pathlib import Path
from edgeline.registry.store import open_store
from edgeline.registry.trust import TrustedChannels
registry, root, state = sys.argv[1:]
channels = TrustedChannels(open_store(registry), root=Path(root).read_bytes(), state=Path(state))
assert channels.channel("cells", "candidate") is not None
"""


def main() -> None:
    """Prints what publishing takes, and what a large registry does."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        registry, repository = make_registry(folder)
        rows = against_copying(folder, registry, repository)
        fill(registry, repository)
        rows += commands(folder, repository)
        rows += downloads(folder, repository)
    header = ["", "edgeline", "compared with", "ratio", "promised"]
    print(tabulate(rows, headers=header, tablefmt="plain", disable_numparse=True))


def make_registry(folder: Path) -> tuple[LayoutWriter, Repository]:
    """Makes a registry for ten models, with throwaway keys."""
    names = ("root", "targets", "online", "ci", "release")
    keys = {name: generate_key(folder / "keys" / f"{name}.pem", None) for name in names}
    signers = Signers.load([str(folder / "keys")])
    registry = LayoutWriter(folder / "registry")
    root = initialize(
        registry,
        Keys(
            root=(keys["root"],),
            root_threshold=1,
            targets=keys["targets"],
            online=keys["online"],
            models={name: ModelKeys(ci=keys["ci"], release=keys["release"]) for name in MODELS},
        ),
        signers,
    )
    (folder / "root.json").write_bytes(root)
    return registry, Repository(registry, root=root, signers=signers)


def against_copying(
    folder: Path, registry: LayoutWriter, repository: Repository
) -> list[list[str]]:
    """Publishes releases of ever new files, and copies the same files, in turn."""
    files = {name: folder / f"{name}.tflite" for name in VARIANTS}
    ours: list[float] = []
    copying: list[float] = []
    hashing: list[float] = []
    for turn in range(ROUNDS):
        for name, megabytes in VARIANTS.items():
            files[name].write_bytes(os.urandom(megabytes * 1_000_000))
        started = time.perf_counter()
        digests = {name: sha256(file.read_bytes()) for name, file in files.items()}
        hashing.append(time.perf_counter() - started)
        judged = verdict(digests, turn)

        def publish_files(judged: bytes = judged) -> None:
            publish(
                repository,
                model=MODEL,
                channel="candidate",
                variants=[VariantFiles(name, file) for name, file in files.items()],
                preprocessing=CONTRACT,
                verdict=judged,
                report=b"report" * 50_000,
            )

        def copy_files() -> None:
            for file in files.values():
                copy_synced(file, folder / "copies" / file.name)

        (folder / "copies").mkdir()
        os.sync()  # or others' files would be waited for too
        work = ((publish_files, ours), (copy_files, copying))
        for do, times in work if turn % 2 else work[::-1]:
            times.append(seconds(do))
        shutil.rmtree(folder / "copies")
    published, copied, hashed = map(statistics.median, (ours, copying, hashing))
    speed = sum(VARIANTS.values()) / copied
    return [
        against("publish 49 MB, against copying", published, copied, "< 1.5"),
        against("... against copying and hashing", published, copied + hashed, ""),
        [f"(the disk took {speed:,.0f} MB/s)", "", "", "", ""],
    ]


def against(what: str, ours: float, theirs: float, promised: str) -> list[str]:
    return [what, milliseconds(ours), milliseconds(theirs), f"{ours / theirs:.2f}", promised]


def copy_synced(source: Path, target: Path) -> None:
    """Copies a file, and waits until it is on the disk."""
    shutil.copyfile(source, target)
    with target.open("rb") as file:
        os.fsync(file.fileno())


def verdict(digests: Mapping[str, str], number: int) -> bytes:
    """Returns a verdict that these models passed by, different for each number."""
    checks = (Check("accuracy", "overall", 0.9 + number / 1e6, 0.8),)
    judged = tuple(VariantVerdict(name, checks, sha256=d) for name, d in digests.items())
    return Verdict("test", 394, VariantVerdict("float", checks), judged).to_json()


def fill(registry: LayoutWriter, repository: Repository) -> None:
    """Adds releases like the newest one but for their verdicts, until there are 1,000."""
    template, _ = registry.read_tag(version_tag(ROUNDS), limit=MAX_MANIFEST)
    index = json.loads(registry.read_manifest(template, limit=MAX_MANIFEST))
    manifests = {
        entry["annotations"][VARIANT_ANNOTATION]: json.loads(
            registry.read_manifest(Descriptor.from_json(entry), limit=MAX_MANIFEST)
        )
        for entry in index["manifests"]
    }
    bundle, _ = registry.read_tag(TUF_TAG, limit=MAX_MANIFEST)
    tags: list[tuple[str, Descriptor]] = []
    with registry.exclusive():
        for version in range(ROUNDS + 1, RELEASES + 1):
            children = put_variants(registry, manifests, version)
            for entry in index["manifests"]:
                child = children[entry["annotations"][VARIANT_ANNOTATION]]
                entry |= {"digest": child.digest, "size": child.size}
            newest = registry.put_manifest(dump_canonical(index), OCI_INDEX)
            tags.append((version_tag(version), newest))
            tags += [(variant_tag(version, name), child) for name, child in children.items()]
            # As many changes were signed.
            tags.append((metadata_tag(version + 1), bundle))
        registry.commit(tags, expected={})
    repository.point(MODEL, "production", ReleaseRef(ROUNDS, template))
    repository.point(MODEL, "candidate", ReleaseRef(RELEASES, newest))


def put_variants(
    registry: LayoutWriter, manifests: Mapping[str, dict[str, Any]], version: int
) -> dict[str, Descriptor]:
    """Stores the manifests of one more release."""
    weights = {name: document["layers"][0]["digest"] for name, document in manifests.items()}
    judged = verdict({name: d.removeprefix("sha256:") for name, d in weights.items()}, version)
    blob = registry.put_blob(judged, VERDICT, limit=MAX_VERDICT)
    children = {}
    for name, document in manifests.items():
        for layer in document["layers"]:
            if layer["mediaType"] == VERDICT:
                layer |= {"digest": blob.digest, "size": blob.size}
        children[name] = registry.put_manifest(dump_canonical(document), OCI_MANIFEST)
    return children


def commands(folder: Path, repository: Repository) -> list[list[str]]:
    """Times what people and devices do with a large registry, as they do it."""
    registry, root = str(folder / "registry"), str(folder / "root.json")
    edgeline = [sys.executable, "-m", "edgeline", "registry"]
    trusting = ["--root", root]
    signing = [*trusting, "--key", str(folder / "keys")]
    served = repository.channel(MODEL, "production")
    assert served is not None

    def take_back() -> None:
        repository.point(MODEL, "production", served.release)

    check = [sys.executable, "-c", CHECK, registry, root, str(folder / "state")]
    promote = ["promote", registry, MODEL, "--from", "candidate", "--to", "production", "--yes"]
    return [
        timed("list the newest 20 of 1,000", [*edgeline, "list", registry, *trusting]),
        timed("show one", [*edgeline, "show", registry, version_tag(RELEASES), *trusting]),
        timed("promote one", [*edgeline, *promote, *signing], after=take_back),
        timed("look for a new one", check),
        timed("start Python", [sys.executable, "-c", "pass"], promised=""),
    ]


def timed(
    what: str,
    command: list[str],
    *,
    after: Callable[[], object] = lambda: None,
    promised: str = "< 1 s",
) -> list[str]:
    taken = []
    for _ in range(RUNS):
        taken.append(seconds(lambda: run(command)))
        after()
    return [what, milliseconds(statistics.median(taken)), "", "", promised]


def run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def downloads(folder: Path, repository: Repository) -> list[list[str]]:
    """Counts what a look for a new release downloads, from a store that counts."""
    state = folder / "counted"
    rows = []
    for what in ("the first time", "when there is none", "when there is one"):
        if what == "when there is one":
            repository.rollback(MODEL, "candidate")
        store = Counting(LayoutStore(folder / "registry"))
        root = (folder / "root.json").read_bytes()
        channels = TrustedChannels(cast(ReadStore, store), root=root, state=state)
        assert channels.channel(MODEL, "candidate") is not None
        rows.append([f"download, {what}", f"{store.size / 1e3:.1f} KB", "", "", "< 100 KB"])
    return rows


class Counting:
    """A store that counts the bytes that are read from it."""

    def __init__(self, store: ReadStore) -> None:
        self._store = store
        self.size = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    def read_tag(self, tag: str, *, limit: int) -> tuple[Descriptor, bytes]:
        found = self._store.read_tag(tag, limit=limit)
        self.size += len(found[1])
        return found

    def read_blob(self, descriptor: Descriptor, *, limit: int) -> bytes:
        self.size += descriptor.size
        return self._store.read_blob(descriptor, limit=limit)


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def seconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def milliseconds(duration: float) -> str:
    return f"{duration * 1e3:.0f} ms"


if __name__ == "__main__":
    main()
