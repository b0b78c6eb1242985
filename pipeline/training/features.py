"""Activations of the frozen layers, computed once and kept: in memory, or in a file.

A file is read row by row as training asks for them. What the operating system has spare holds it
for the next epoch, so that a cache on disk costs little where memory is plenty, and the process
itself stays as small for a million images as for a thousand. A mapped file would count as the
process's own memory.
"""

from __future__ import annotations

import errno
import glob
import json
import logging
import math
import os
import shutil
import time
from collections import deque
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import cycle, islice
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import keras
import numpy as np
import psutil
import tensorflow as tf
from numpy.typing import NDArray

from components.examples import TransformedExamples
from components.feature_names import LABEL, UNKNOWN_LABEL
from edgeline._files import write_whole
from pipeline.data.preprocessing import PIXELS
from pipeline.errors import TrainingError
from pipeline.training.augmentation import Augmentation
from pipeline.training.devices import ONE_DEVICE, Devices
from pipeline.training.model import normalization

FLOAT32 = np.dtype(np.float32)
PREDICT_BATCH = 32  # images; larger batches are no faster on a CPU and take more memory
# Batches that are computed at once: DenseNet's many small layers leave cores idle in between.
AT_ONCE = 2
MEMORY_LIMIT = 128 * 2**20  # bytes; beyond, a file is as fast and outlives a killed run
MEMORY_SHARE = 0.25  # of what is available
DISK_SHARE = 0.9  # of what is free
SAY_SECONDS = 5.0
SAVE_SECONDS = 30.0  # between two notes of how far an extraction came

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class LabelledExamples:
    """A split, and what its labels are.

    Attributes:
        examples: the split.
        label_ids: int64 `[images]`, in the order of the files.
    """

    examples: TransformedExamples
    label_ids: NDArray[np.int64]

    @classmethod
    def read(cls, examples: TransformedExamples) -> LabelledExamples:
        """Reads the labels and no image."""
        ids = {label.encode(): index for index, label in enumerate(examples.labels)}
        found = (ids.get(raw[LABEL], UNKNOWN_LABEL) for raw in examples.skim(LABEL))
        return cls(examples, np.fromiter(found, np.int64))

    def __len__(self) -> int:
        return len(self.label_ids)


class Frozen:
    """A network that only computes, for however many splits, and a few batches at once.

    Batches that are computed at once each have a trace of their own: oneDNN's convolution with a
    fused addition keeps what it adds in the kernel (`fuse_add_src_` of TensorFlow's
    mkl_conv_ops.cc), so that two calls of one function read each other's, or what is freed.

    Attributes:
        shape: of what it gives for one input.
        at_once: batches that are computed at once.
    """

    def __init__(
        self,
        network: keras.Model,
        *,
        of_pixels: keras.Model | None = None,
        devices: Devices = ONE_DEVICE,
    ) -> None:
        """Traces a network.

        Args:
            network: of the base's layers, made in the devices' scope.
            of_pixels: the base whose normalized pixels it reads, where it is given pixels in
                [0, 1].
            devices: to compute on.
        """
        self.shape: tuple[int, ...] = tuple(network.output_shape[1:])
        self.at_once = max(AT_ONCE, len(devices.local))
        spec = tf.TensorSpec([None, *network.input_shape[1:]], tf.float32)

        def on(device: str) -> Any:
            first = normalization(of_pixels) if of_pixels else keras.layers.Identity()

            def compute(batch: tf.Tensor) -> tf.Tensor:
                with tf.device(device):  # which has a copy of the variables
                    return network(first(batch), training=False)

            return tf.function(
                compute, input_signature=[spec], autograph=False
            ).get_concrete_function()

        self._idle: SimpleQueue[Any] = SimpleQueue()
        for device in islice(cycle(devices.local), self.at_once):
            self._idle.put(on(device))

    def __call__(self, batch: tf.Tensor) -> NDArray[np.float32]:
        """Computes a batch: float32 `[batch, ...]` to float32 `[batch, *shape]`.

        Several threads may call it; those beyond `at_once` wait.
        """
        function = self._idle.get()
        try:
            values: NDArray[np.float32] = function(batch).numpy()
        finally:
            self._idle.put(function)
        return values


class FeatureStore:
    """Rows of activations, one for each image and view; float32.

    An image's views are neighbours: view `v` of image `i` is row `i * views + v`.
    """

    def __init__(self, rows: int, shape: Sequence[int], path: Path | None) -> None:
        """Makes an empty store, or opens what is left of an earlier run's file.

        Args:
            rows: how many there will be.
            shape: of a row.
            path: of the file; None keeps the rows in memory.
        """
        self.rows = rows
        self.shape = tuple(shape)
        self.written = 0
        self._row_bytes = math.prod(self.shape) * FLOAT32.itemsize
        self._path = path
        self._saved = time.monotonic()
        self._memory: NDArray[np.float32] | None = None
        self._file = -1
        if path is None:
            self._memory = np.empty((rows, *self.shape), FLOAT32)
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        self.written = min(self._rows_noted(), os.fstat(self._file).st_size // self._row_bytes)

    def append(self, values: NDArray[np.float32]) -> None:
        """Adds rows at the end: float32 `[rows, *shape]`.

        Raises:
            TrainingError: the disk is full.
        """
        end = self.written + len(values)
        if self._memory is not None:
            self._memory[self.written : end] = values
        else:
            self._write(np.ascontiguousarray(values, FLOAT32).data.cast("B"))
        self.written = end
        if time.monotonic() - self._saved >= SAVE_SECONDS or end == self.rows:
            self._note_rows()

    def read(self, indices: NDArray[np.int64]) -> NDArray[np.float32]:
        """Returns rows by their numbers, float32 `[len(indices), *shape]`."""
        if self._memory is not None:
            return self._memory[indices]
        values = np.empty((len(indices), *self.shape), FLOAT32)
        for value, index in zip(values, indices.tolist(), strict=True):
            os.preadv(self._file, [value.data.cast("B")], index * self._row_bytes)
        return values

    def close(self) -> None:
        """Lets go of the memory or the file; the file stays where it is."""
        if self._file >= 0:
            os.close(self._file)
        self._file, self._memory = -1, None

    def _write(self, data: memoryview) -> None:
        offset = self.written * self._row_bytes
        try:
            while data:
                count = os.pwrite(self._file, data, offset)
                data, offset = data[count:], offset + count
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            raise TrainingError(
                f"{self._path}: the disk is full: free some space, or set trainer.cache_max_gb "
                "lower to train without a cache"
            ) from error

    def _note_rows(self) -> None:
        """Notes how many rows are safe, for a run that goes on after this one was killed."""
        self._saved = time.monotonic()
        if self._path is not None:
            os.fsync(self._file)
            note = {"rows": self.written, "shape": self.shape}
            write_whole(_note_file(self._path), json.dumps(note).encode())

    def _rows_noted(self) -> int:
        assert self._path is not None
        try:
            note = json.loads(_note_file(self._path).read_bytes())
        except (OSError, ValueError):
            return 0
        return int(note["rows"]) if tuple(note["shape"]) == self.shape else 0


@dataclass(frozen=True)
class Storage:
    """Where features are kept: `folder`, or in memory where it is None."""

    folder: Path | None

    def store(self, name: str, rows: int, shape: Sequence[int]) -> FeatureStore:
        """Makes a store, or opens the one of that name which a killed run left."""
        path = self.folder / store_name(name, rows) if self.folder else None
        return FeatureStore(rows, shape, path)


def choose_storage(
    sizes: Mapping[str, int], folder: Path, max_bytes: float, *, in_memory: bool = True
) -> Storage | None:
    """Decides where features are kept; None, with the reason in the log, if they fit nowhere.

    Args:
        sizes: bytes of each store, by the name of its file.
        folder: for files. Those of the same names are gone on with; others, which trials with
            another frontier left, are removed where they would make it too many.
        max_bytes: that the files may take.
        in_memory: whether memory will do.
    """
    needed = sum(sizes.values())
    folder.mkdir(parents=True, exist_ok=True)
    _make_room(needed, folder, max_bytes, keep=sizes)
    left_over = sum(file.stat().st_size for file in folder.glob("*.f32") if file.name in sizes)
    available = psutil.virtual_memory().available
    if in_memory and not left_over and needed <= min(MEMORY_LIMIT, MEMORY_SHARE * available):
        return Storage(None)
    free = shutil.disk_usage(folder).free + left_over
    problem = None
    if needed > max_bytes:
        problem = f"more than trainer.cache_max_gb = {max_bytes / 1e9:g}"
    elif needed > DISK_SHARE * free:
        problem = f"and {folder} has {free / 1e9:.1f} GB free"
    if problem is None:
        _LOG.info("features: %.1f GB in %s", needed / 1e9, folder)
        return Storage(folder)
    _LOG.info(
        "features would take %.1f GB, %s: training without a cache, which takes longer",
        needed / 1e9,
        problem,
    )
    return None


def store_name(name: str, rows: int) -> str:
    """The name of a store's file."""
    return f"{name}-{rows}.f32"


def go_on_with(folder: Path, name: str, rows: int) -> None:
    """Has a store begin with what one of fewer rows has, of the same images and more: its name.

    Args:
        folder: of both files.
        name: of the store, without the number of its rows.
        rows: of the larger one.
    """
    for file in folder.glob(f"{glob.escape(name)}-*.f32"):
        fewer = int(file.stem.removeprefix(f"{name}-"))
        if fewer < rows:
            larger = folder / store_name(name, rows)
            if _note_file(file).exists():
                _note_file(file).replace(_note_file(larger))
            file.replace(larger)


def _make_room(needed: int, folder: Path, max_bytes: float, keep: Container[str]) -> None:
    """Removes what others left, the oldest first, until all of it is within the limit."""
    others = [file for file in folder.glob("*.f32") if file.name not in keep]
    others.sort(key=lambda file: file.stat().st_mtime)
    taken = sum(file.stat().st_size for file in others)
    while others and needed <= max_bytes < needed + taken:
        file = others.pop(0)
        taken -= file.stat().st_size
        _LOG.info("features: %s removed, to stay below trainer.cache_max_gb", file.name)
        _note_file(file).unlink(missing_ok=True)
        file.unlink()


def store_bytes(rows: int, shape: Sequence[int]) -> int:
    """The size of a store."""
    return rows * math.prod(shape) * FLOAT32.itemsize


def extract_from_pixels(
    network: Frozen, data: LabelledExamples, augmentation: Augmentation, store: FeatureStore
) -> None:
    """Runs a frozen network over every view of a split's images, into a store.

    Goes on where the store ends, if a run was killed before.

    Args:
        network: pixels in [0, 1] to what is stored.
        data: the split.
        augmentation: of its images.
        store: with a row for each image and view.
    """
    views = augmentation.rows
    images = max(1, PREDICT_BATCH // views)
    # A batch that was cut short is computed again, whole.
    store.written -= store.written % (images * views) if store.written < store.rows else 0
    if store.written == store.rows:
        return
    skip = store.written // views

    def augment(number: tf.Tensor, batch: dict[str, tf.Tensor]) -> tf.Tensor:
        pixels = batch[PIXELS]
        indices = skip + number * images + tf.range(tf.shape(pixels)[0], dtype=tf.int64)
        return augmentation.all_views(pixels, indices)

    count = math.ceil((len(data) - skip) / images)
    # Before they are decoded.
    wanted = data.examples.batches(images, skip=skip, cut=lambda batches: batches.take(count))
    batches = wanted.enumerate()
    batches = batches.map(augment, num_parallel_calls=tf.data.AUTOTUNE).prefetch(AT_ONCE)
    for rows in _computed(network, batches, _Pace(store)):
        # The last batch has more where the store is for the first images of a split only.
        store.append(rows[: store.rows - store.written])


def extract_from_store(network: Frozen, source: FeatureStore, store: FeatureStore) -> None:
    """Runs more of the frozen layers over stored activations, until another store is full."""

    def batches() -> Iterator[tf.Tensor]:
        for first in range(store.written, store.rows, PREDICT_BATCH):
            rows = np.arange(first, min(first + PREDICT_BATCH, store.rows))
            yield tf.constant(source.read(rows))

    for rows in _computed(network, batches(), _Pace(store)):
        store.append(rows)


def _computed(
    network: Frozen, batches: Iterable[tf.Tensor], pace: _Pace
) -> Iterator[NDArray[np.float32]]:
    """Computes batches, a few at a time, in order; says how far the store is."""
    with ThreadPoolExecutor(network.at_once) as pool:
        running: deque[Future[NDArray[np.float32]]] = deque()
        for batch in pace.timed(batches):
            running.append(pool.submit(network, batch))
            if len(running) > network.at_once:
                yield running.popleft().result()
                pace.say_now_and_then()
        while running:
            yield running.popleft().result()
    pace.say_the_end()


class _Pace:
    """Says how fast an extraction is, and for how much of the time it waits for images."""

    def __init__(self, store: FeatureStore) -> None:
        self._store = store
        self._first = store.written
        self._started = self._said = time.monotonic()
        self._waited = 0.0

    def timed(self, batches: Iterable[tf.Tensor]) -> Iterator[tf.Tensor]:
        """Passes batches on, adding up how long each was waited for."""
        iterator = iter(batches)
        while True:
            asked = time.monotonic()
            batch = next(iterator, None)
            self._waited += time.monotonic() - asked
            if batch is None:
                return
            yield batch

    def say_now_and_then(self) -> None:
        now = time.monotonic()
        if now - self._said < SAY_SECONDS:
            return
        self._said = now
        store = self._store
        rate = (store.written - self._first) / (now - self._started)
        left = (store.rows - store.written) / rate if rate else math.inf
        _LOG.info(
            "features: %d of %d views, %.0f a second, %.0f s left",
            store.written,
            store.rows,
            rate,
            left,
        )

    def say_the_end(self) -> None:
        seconds = max(1e-9, time.monotonic() - self._started)
        rows = self._store.written - self._first
        _LOG.info(
            "features: %d views in %.1f s, %.0f a second, %.0f%% of the time waiting for images",
            rows,
            seconds,
            rows / seconds,
            100 * self._waited / seconds,
        )


def _note_file(path: Path) -> Path:
    return path.with_suffix(".json")
