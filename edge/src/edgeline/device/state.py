"""The state folder: the models that this device holds, and which of them it serves.

    <state>/trusted.json                   the registry's signed metadata; see `registry.trust`
    <state>/<model>.<channel>/state.json   what is active, and what the last check found
                              models/<id>/     release.json, model.tflite, preprocessing.json, ...
                              current          a link to the folder of what is active, in which
                                               contract.json is another name of preprocessing.json
                              downloads/       blobs on their way, by digest
                              counts.json      what the next report tells; see `reporting`
                              drift.json       what was seen lately; see `drift`
                              shadow.json      how far a comparison has come; see `shadow`
                              examples/        images that are kept for the owner; see `examples`

Power may fail at any moment. A model's folder is written aside, synced, and renamed; then
state.json, which names it, is replaced whole; only then older folders go. So state.json names whole
models at all times, and whatever it does not name is a leftover that the next update sweeps away.

A model's id is the SHA-256 of its release.json, which holds the SHA-256 of the other files: what is
loaded is what was verified and tried when it came, or an error. Nothing here imports more than
reading needs, since a device may start a process per image.
"""

import errno
import hashlib
import logging
import re
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from edgeline._files import locked, read_bounded, sync_folder, write_whole
from edgeline._json import dump_canonical, parse_object
from edgeline._records import read
from edgeline.errors import DeviceError, EdgelineError, IntegrityError, NotFoundError, TrustError
from edgeline.registry.format import (
    MAX_GOLDEN,
    MAX_MODEL,
    Digest,
    ModelName,
    VariantName,
    check_channel,
    check_model,
    digest_of,
    version_tag,
)

MODEL_FILE = "model.tflite"
CONTRACT_FILE = "preprocessing.json"
GOLDEN_FILE = "golden.json"
SKETCH_FILE = "sketch.json"
DRIFT_FILE = "drift.json"
SHADOW_FILE = "shadow.json"

_CONTRACT_LINK = "contract.json"
_RELEASE_FILE = "release.json"
_STATE_FILE = "state.json"
_FILES = (MODEL_FILE, CONTRACT_FILE, GOLDEN_FILE, SKETCH_FILE)
_FORMAT = 1
_MAX_STATE = 1 << 20  # bytes
_ID = re.compile(r"[0-9a-f]{64}")
_READS = 3  # of a model that another process may be replacing

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class StoredFile:
    """What a file of an installed model must be."""

    digest: Digest
    size: int  # bytes


@dataclass(frozen=True)
class InstalledModel:
    """One variant of a release, as it lies on the device."""

    model: ModelName
    version: int
    digest: Digest  # of the release's index
    variant: VariantName
    files: Mapping[str, StoredFile]

    @property
    def tag(self) -> str:
        """The release's tag, such as "v7"."""
        return version_tag(self.version)

    @property
    def name(self) -> str:
        """What people know it by: model, tag and variant."""
        return f"{self.model} {self.tag} {self.variant}"

    @property
    def id(self) -> str:
        """The name of its folder."""
        return hashlib.sha256(self.to_json()).hexdigest()

    def to_json(self) -> bytes:
        """Return what release.json holds."""
        return dump_canonical({"format": _FORMAT, **asdict(self)})

    @classmethod
    def from_json(cls, data: bytes) -> "InstalledModel":
        """Read release.json.

        Raises:
            ValueError: it is not one.
            EdgelineError: a name or a digest in it is malformed.
        """
        document = parse_object(data)
        if document.pop("format", None) != _FORMAT:
            raise ValueError("it is of another format")
        found = read(cls, document)
        if not {MODEL_FILE, CONTRACT_FILE} <= found.files.keys():
            raise ValueError("it names no files")
        known = {name: file for name, file in found.files.items() if name in _FILES}
        return replace(found, files=known)


@dataclass(frozen=True)
class LoadedModel:
    """An installed model's verified content."""

    installed: InstalledModel
    content: bytes
    contract: bytes
    sketch: bytes | None = None  # of the test split, where the release has one


@dataclass(frozen=True)
class Rejection:
    """A release that was tried and failed, and what it was tried with."""

    digest: str
    version: int
    reason: str
    preference: tuple[str, ...]
    runtime: str  # versions of what ran it
    tries: int = 1
    until: float | None = None  # when it is tried again, since it may have been bad luck


@dataclass(frozen=True)
class State:
    """What is remembered between two runs. Times are seconds since 1970, UTC."""

    active: str | None = None  # id of the model that is served
    previous: str | None = None  # id of the one before
    preference: tuple[str, ...] = ()  # variants, best first; none: as the publisher prefers
    groups: tuple[str, ...] = ()  # that the device is in, for rollouts
    root: str | None = None  # SHA-256 of the root that led to what is active
    halted: str | None = None  # id of the last rollout that was seen to be halted
    held: str | None = None  # digest that the channel served when its user rolled back from it
    rejected: Rejection | None = None
    floor: float = 0.0  # a time that has passed, whatever the clock says; see `clock`
    floor_root: int = 0  # the version of root under which it was found
    expires: float = 0.0  # when the first of the signatures does
    checked: float = 0.0  # when the registry was last found genuine
    failed: float = 0.0  # when a check last failed, 0 if the last one did not
    error: str | None = None  # of that check
    error_kind: str | None = None  # its class
    told: str | None = None  # id of the model that `on_update` was last called with

    def is_stale(self) -> bool:
        """Tell whether the signatures that were seen last have expired."""
        return 0 < self.expires < max(time.time(), self.floor)


class StateFolder:
    """The state of one channel of one model.

    Args:
        base: The state folder of the registry.
        model: Name of the model.
        channel: Name of the channel.
        root: The root that the registry is trusted by.

    Raises:
        RegistryError: a name is malformed.
    """

    def __init__(self, base: Path, model: str, channel: str, root: bytes) -> None:
        self.base = base
        self.root = hashlib.sha256(root).hexdigest()
        self.path = base / f"{check_model(model)}.{check_channel(channel)}"
        self.downloads = self.path / "downloads"
        self.current = self.path / "current"  # for consumers other than edgeline
        self._models = self.path / "models"
        self._file = self.path / _STATE_FILE

    def read(self) -> State:
        """Return the state, which is empty the first time, and made of what is there if damaged.

        Raises:
            DeviceError: it cannot be read.
        """
        try:
            with self.translated():
                try:
                    data = read_bounded(self._file, _MAX_STATE)
                except FileNotFoundError:
                    return State()
            return _parse_state(data)
        except (ValueError, TypeError, KeyError) as error:
            _log.warning(
                "%s is damaged (%s), so the card or disk may be failing. The model that was "
                "installed last is served, until the next check finds which one should be",
                self._file, error,
            )  # fmt: skip
            return self._rebuilt()

    def write(self, state: State) -> None:
        """Replace the state. Only who holds the lock may.

        Raises:
            DeviceError: it cannot be written.
        """
        document = {"format": _FORMAT, **asdict(state)}
        body = dump_canonical(document)
        with self.translated():
            write_whole(
                self._file,
                dump_canonical({"sha256": hashlib.sha256(body).hexdigest(), "state": document}),
            )
            self._link_current(state.active)

    @contextmanager
    def locked(self, wait: float = 0.0) -> Iterator[None]:
        """Keep other processes and threads from changing the folder.

        Args:
            wait: For how many seconds to wait for another one to finish.

        Raises:
            DeviceError: another one has not finished, or the folder cannot be used.
        """
        with self.translated():
            self.downloads.mkdir(parents=True, exist_ok=True)
            self._models.mkdir(exist_ok=True)
        with ExitStack() as stack:
            try:
                with self.translated():
                    stack.enter_context(locked(self.path / "lock", wait))
            except BlockingIOError:
                raise DeviceError(
                    f"Another process is updating {self.path}. Try again when it is done"
                ) from None
            yield

    def load_active(self, *, fall_back: bool = True) -> LoadedModel:
        """Return the model to serve.

        Args:
            fall_back: Whether to return the previous one when the active one's files are damaged.

        Raises:
            NotFoundError: there is none yet.
            TrustError: it was installed by trust in another root.
            IntegrityError: every one is damaged.
            DeviceError: the folder cannot be read.
        """
        for remaining in reversed(range(_READS)):
            state = self.read()
            if state.active is None:
                raise NotFoundError(
                    f"There is no model in {self.path} yet. Get one with `edgeline pull`"
                )
            if state.root != self.root:
                raise TrustError(
                    f"The model in {self.path} was installed by trust in another root than the "
                    "given one. If it is a newer root of the same registry, `edgeline pull` makes "
                    "sure of that; else name another folder with --state"
                )
            try:
                return self.load(state.active)
            except IntegrityError as error:
                if remaining and self.read().active != state.active:
                    continue  # another process has replaced it in between
                if state.previous is None or not fall_back:
                    raise
                _log.warning("%s. The model before it is used", str(error))
                return self.load(state.previous)
        raise AssertionError("unreachable")

    def load(self, model_id: str) -> LoadedModel:
        """Return an installed model's content, every byte of it verified.

        Raises:
            IntegrityError: a part of it is missing or damaged.
        """
        installed = self.describe(model_id)
        contents = {name: self._read_file(model_id, name, installed) for name in installed.files}
        return LoadedModel(
            installed, contents[MODEL_FILE], contents[CONTRACT_FILE], contents.get(SKETCH_FILE)
        )

    def describe(self, model_id: str) -> InstalledModel:
        """Return what an installed model is, without reading its large files.

        Raises:
            IntegrityError: it is missing or damaged.
        """
        path = self._models / _checked_id(model_id) / _RELEASE_FILE
        try:
            data = read_bounded(path, _MAX_STATE)
            if hashlib.sha256(data).hexdigest() != model_id:
                raise ValueError("its digest does not fit")
            return InstalledModel.from_json(data)
        except (OSError, ValueError, EdgelineError) as error:
            raise _damaged(path, error) from None

    def file(self, model_id: str, name: str) -> Path:
        """Return the path of an installed model's file."""
        return self._models / _checked_id(model_id) / name

    def models(self, state: State) -> dict[str, InstalledModel]:
        """Return the models that the state names and that are there, active first, by id."""
        found = {}
        for model_id in (state.active, state.previous):
            if model_id is not None:
                with suppress(IntegrityError):
                    found[model_id] = self.describe(model_id)
        return found

    def install(self, installed: InstalledModel, files: Mapping[str, Path]) -> None:
        """Move verified files into a new model's folder, whole or not at all.

        Args:
            installed: What they are.
            files: Where each of them is now; they have been synced.

        Raises:
            DeviceError: the folder cannot be written.
        """
        new, final = self._models / "new", self._models / installed.id
        with self.translated():
            remove(new)
            remove(final)
            new.mkdir()
            for name, path in files.items():
                path.replace(new / name)
            write_whole(new / _RELEASE_FILE, installed.to_json())
            sync_folder(new)
            new.replace(final)
            sync_folder(self._models)

    def sweep(self, state: State) -> State:
        """Remove what the state does not name, and forget what it names and is not whole.

        Raises:
            DeviceError: the folder cannot be read or written.
        """
        whole = self.models(state)
        active = state.active if state.active in whole else None
        previous = state.previous if state.previous in whole else None
        swept = replace(
            state,
            active=active or previous,
            previous=previous if active else None,
        )
        if swept != state:
            _log.warning("An installed model in %s is damaged, and no longer used", self.path)
            self.write(swept)
        with self.translated():
            for entry in self._models.iterdir():
                if entry.name not in (swept.active, swept.previous):
                    remove(entry)
        return swept

    def forget_damaged(self, state: State) -> State:
        """Read every byte of the installed models, and remove those that are not whole.

        Returns:
            The state without them.

        Raises:
            DeviceError: the folder cannot be read or written.
        """
        for model_id in self.models(state):
            try:
                self.load(model_id)
            except IntegrityError as error:
                _log.warning("%s", str(error))
                with self.translated():
                    remove(self._models / model_id)
        return self.sweep(state)

    def clear_downloads(self, keep: frozenset[str] = frozenset()) -> None:
        """Remove downloads, but for those of the blobs to keep, by digests in hex.

        Raises:
            DeviceError: the folder cannot be written.
        """
        with self.translated():
            for entry in self.downloads.iterdir():
                if entry.name.partition(".")[0] not in keep:
                    remove(entry)

    def size(self) -> int:
        """Return how many bytes all of its files have."""
        total = 0
        for path in self.path.rglob("*"):
            with suppress(OSError):  # an update may remove it meanwhile
                total += path.stat().st_size if path.is_file() else 0
        return total

    @contextmanager
    def translated(self) -> Iterator[None]:
        """Turn the operating system's refusals into errors that say what to do."""
        try:
            yield
        except BlockingIOError:
            raise
        except OSError as error:
            raise DeviceError(
                f"The state folder {self.path} cannot be used: {error.strerror or error}. It has "
                "to be a folder with free space that this user can write; name another with --state"
            ) from error

    def _link_current(self, model_id: str | None) -> None:
        """Have `current` lead to a model's folder, from one moment to the next."""
        try:
            self._replace_link(model_id)
        except OSError as error:
            if error.errno not in (errno.EPERM, errno.ENOTSUP):
                raise
            _log.debug("%s is on a disk without links, so that it has no `current`", self.path)

    def _replace_link(self, model_id: str | None) -> None:
        if model_id is None:
            remove(self.current)
            return
        target = Path(self._models.name) / model_id
        contract = self.path / target / _CONTRACT_LINK
        if contract.parent.is_dir() and not contract.exists():
            contract.symlink_to(CONTRACT_FILE)
        if not self.current.is_symlink() or self.current.readlink() != target:
            new = self.path / "current.new"
            remove(new)
            new.symlink_to(target)
            if not self.current.is_symlink():
                remove(self.current)  # what a copy of the state that follows links makes of it
            new.replace(self.current)
            sync_folder(self.path)

    def _rebuilt(self) -> State:
        """Return a state of the models that are there, newest first.

        What was trusted of the registry is kept elsewhere, so that an older copy of it still shows.
        """
        with self.translated():
            folders = [path for path in self._models.glob("*") if _ID.fullmatch(path.name)]
            folders.sort(key=lambda path: path.stat().st_mtime, reverse=True)
        whole = []
        for folder in folders:
            with suppress(IntegrityError):
                self.load(folder.name)
                whole.append(folder.name)
        active, previous = (*whole[:2], None, None)[:2]
        return State(active=active, previous=previous, root=self.root if active else None)

    def _read_file(self, model_id: str, name: str, installed: InstalledModel) -> bytes:
        path, expected = self.file(model_id, name), installed.files[name]
        try:
            data = read_bounded(path, MAX_MODEL if name == MODEL_FILE else MAX_GOLDEN)
        except (OSError, ValueError) as error:
            raise _damaged(path, error) from None
        if digest_of(data) != expected.digest:
            raise _damaged(path, ValueError("its digest does not fit"))
        return data


def remove(path: Path) -> None:
    """Remove a file or a folder, if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _parse_state(data: bytes) -> State:
    document = parse_object(data)
    state = document["state"]
    if not isinstance(state, dict) or state.get("format") != _FORMAT:
        raise ValueError("it is of another format")
    if hashlib.sha256(dump_canonical(state)).hexdigest() != document["sha256"]:
        raise ValueError("its checksum does not fit")
    return read(State, state, strict=False)


def _checked_id(model_id: str) -> str:
    if not _ID.fullmatch(model_id):
        raise IntegrityError(f"Expected a model's id, 64 hex digits, got {model_id[:80]!r}")
    return model_id


def _damaged(path: Path, error: Exception) -> IntegrityError:
    reason = getattr(error, "strerror", None) or error
    return IntegrityError(
        f"{path} is missing or damaged ({reason}); the card or disk may be failing. "
        "`edgeline pull` restores it"
    )
