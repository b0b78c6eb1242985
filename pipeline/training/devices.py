"""The devices that train together: one, all of this machine, or those of several processes.

Every device has a copy of the model and works on its part of each batch; what the parts say is
added up, so that all copies stay the same. `Devices` hides how many there are: where it is one
device in one process, nothing is split, gathered or sent.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray
from tensorflow.python.eager import context

from pipeline.errors import TrainingError, UserError
from pipeline.training.cluster import VARIABLE, Cluster
from pipeline.training.hardware import limit_threads

WORD = np.dtype(np.float32)  # the least that is sent between processes

SILENT_SECONDS = 60  # after which a process is taken for dead

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class Devices:
    """Where a training runs.

    Attributes:
        strategy: of TensorFlow; None for one device.
        processes: that train together.
        process: which of them this one is; 0 is the chief.
    """

    strategy: tf.distribute.Strategy | None = None
    processes: int = 1
    process: int = 0

    @property
    def replicas(self) -> int:
        """How many devices there are, in all processes."""
        return self.strategy.num_replicas_in_sync if self.strategy else 1

    @property
    def local(self) -> list[str]:
        """Names of this process's devices."""
        return list(self.strategy.extended.worker_devices) if self.strategy else [""]

    @property
    def is_chief(self) -> bool:
        """Whether this process keeps what comes of the training."""
        return self.process == 0

    def scope(self) -> AbstractContextManager[Any]:
        """Where variables are made that every device has a copy of."""
        return self.strategy.scope() if self.strategy else nullcontext()

    def cut(self, batches: tf.data.Dataset) -> tf.data.Dataset:
        """Cuts each batch into a part for every device, and yields those of this process.

        Device `i` of `n` has the elements `i`, `i + n`, and so on; `part_size` says how many. Where
        there are none for it, it has the last one: TensorFlow's convolutions fail on nothing.

        Args:
            batches: of tensors, or of structures of tensors, whose first axis is the batch.
        """
        if self.strategy is None:
            return batches
        first = self.process * len(self.local)
        own = range(first, first + len(self.local))

        def part(batch: Any, device: int) -> tf.data.Dataset:
            size = tf.shape(tf.nest.flatten(batch)[0])[0]
            rows = tf.range(tf.minimum(device, size - 1), size, self.replicas)
            gathered = tf.nest.map_structure(lambda tensor: tf.gather(tensor, rows), batch)
            return tf.data.Dataset.from_tensors(gathered)

        def parts(*batch: Any) -> tf.data.Dataset:
            structure = batch[0] if len(batch) == 1 else batch
            found = map(functools.partial(part, structure), own)
            return functools.reduce(tf.data.Dataset.concatenate, found)

        return batches.flat_map(parts)

    def part_size(self, images: tf.Tensor) -> tf.Tensor:
        """How many elements of a batch of so many this device has; to be asked on a device."""
        device = tf.distribute.get_replica_context().replica_id_in_sync_group
        return tf.maximum(0, (images - device + self.replicas - 1) // self.replicas)

    def feed(self, parts: tf.data.Dataset) -> Iterator[Any]:
        """Hands what `cut` gave to the devices, a part to each, over and over."""
        assert self.strategy is not None
        # What has no end needs no agreement, step by step, on whether it is there.
        endless = parts.repeat()
        return iter(self.strategy.distribute_datasets_from_function(lambda _: endless))

    def gather(self, rows: NDArray[Any]) -> NDArray[Any]:
        """Puts the rows of all processes one after the other, for each of them to have.

        Args:
            rows: `[any number, ...]`, of 4 or 8 bytes an element; the other axes are everywhere
                the same.
        """
        if self.processes == 1:
            return rows
        assert self.strategy is not None
        # All kinds of devices send these; they are copied, bit by bit, and not computed with.
        words = np.ascontiguousarray(rows).view(WORD)
        own, others = tf.constant(words), tf.constant(words[:0])

        def of_replica(replica: tf.distribute.InputReplicationContext) -> tf.Tensor:
            is_first = replica.replica_id_in_sync_group % len(self.local) == 0
            return own if is_first else others

        values = self.strategy.experimental_distribute_values_from_function(of_replica)
        gathered: NDArray[Any] = self.strategy.gather(values, axis=0).numpy().view(rows.dtype)
        return gathered

    def of_chief(self, rows: NDArray[Any]) -> NDArray[Any]:
        """The chief's rows, for each process to have; as `gather`."""
        return self.gather(rows if self.is_chief else rows[:0])

    def least(self, number: int) -> int:
        """The least of what the processes have, for each of them to know."""
        return int(self.gather(np.array([number], np.int64)).min())

    def bytes_of_chief(self, content: bytes) -> bytes:
        """What the chief has, for each process to know; what the others pass is ignored."""
        padded = content + bytes(-len(content) % WORD.itemsize)
        size = self.of_chief(np.array([len(content)], np.int64))[0]
        if size == 0:  # TensorFlow dies of gathering nothing from all
            return b""
        return self.of_chief(np.frombuffer(padded, WORD)).tobytes()[:size]

    def check(self, batch_size: int) -> None:
        """Checks that each device gets an equal part of a batch.

        Raises:
            UserError: it does not.
        """
        if batch_size % self.replicas:
            raise UserError(
                f"trainer.batch_size: expected a multiple of the {self.replicas} devices that "
                f"train together; received {batch_size}"
            )


ONE_DEVICE = Devices()


@functools.cache
def connect(strategy: str) -> Devices:
    """The devices of a strategy, as `trainer.strategy` has it; the same ones each time.

    Where there are several processes, waits until all are there. That must come before anything
    that TensorFlow computes in this one.

    Raises:
        UserError: TF_CONFIG is not right, or this process can't listen at its address.
    """
    if strategy == "none":
        return ONE_DEVICE
    limit_threads()
    if strategy == "multi_worker":
        return _connected(Cluster.of_environment())
    devices = Devices(tf.distribute.MirroredStrategy())
    if devices.replicas == 1:
        _LOG.info('trainer.strategy = "mirrored": there is one device only, which trains alone')
    else:
        _LOG.info("training on %d devices: %s", devices.replicas, ", ".join(devices.local))
    return devices


def _connected(cluster: Cluster) -> Devices:
    address = cluster.addresses[cluster.index]
    _LOG.info("%s: waiting for all of %s", address, ", ".join(cluster.addresses))
    _give_up_late()
    try:
        strategy = tf.distribute.MultiWorkerMirroredStrategy()
    except tf.errors.OpError as error:
        reason = str(error.message).strip().partition("\n")[0]
        raise UserError(
            f"{VARIABLE}: can't join the processes: {reason}; expected {address} to be a free port "
            "of this machine, and the others to be reached from here"
        ) from error
    devices = Devices(strategy, len(cluster.addresses), cluster.index)
    _LOG.info("training on %d devices of %d processes", devices.replicas, devices.processes)
    return devices


def _give_up_late() -> None:
    """Lets a process be silent for longer than TensorFlow's 10 s, which a busy machine takes."""
    spec = tf.distribute.cluster_resolver.TFConfigClusterResolver().cluster_spec()
    # TensorFlow has no public name for this, and its versions have the message in modules of
    # different names. Its strategy leaves alone what is set.
    context.context().configure_coordination_service(
        service_type="standalone",
        service_leader=f"/job:{'chief' if 'chief' in spec.jobs else 'worker'}/replica:0/task:0",
        heartbeat_timeout_in_ms=SILENT_SECONDS * 1000,
        coordinated_jobs=[
            context.coordination_config_pb2.CoordinatedJob(name=job, num_tasks=spec.num_tasks(job))
            for job in spec.jobs
        ],
    )


@contextmanager
def lost_process_explained(devices: Devices) -> Iterator[None]:
    """Says in one line that another process is gone, which TensorFlow takes a page for.

    Raises:
        TrainingError: another process does not answer any more.
    """
    try:
        yield
    except (tf.errors.UnavailableError, tf.errors.AbortedError, tf.errors.CancelledError) as error:
        if devices.processes == 1:
            raise
        raise TrainingError(
            "another process of the training is gone; its own output says why. Start all of them "
            "again: they go on where they were"
        ) from error
