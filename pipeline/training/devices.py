"""The devices that train together: one, or all of this machine.

Every device has a copy of the model and works on its part of each batch; what the parts say is
added up, so that all copies stay the same. `Devices` hides how many there are: where it is one,
nothing is split.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import tensorflow as tf

from pipeline.errors import UserError
from pipeline.training.hardware import limit_threads

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class Devices:
    """Where a training runs.

    Attributes:
        strategy: of TensorFlow; None for one device.
    """

    strategy: tf.distribute.Strategy | None = None

    @property
    def replicas(self) -> int:
        """How many devices there are."""
        return self.strategy.num_replicas_in_sync if self.strategy else 1

    @property
    def local(self) -> list[str]:
        """Names of the devices."""
        return list(self.strategy.extended.worker_devices) if self.strategy else [""]

    def scope(self) -> AbstractContextManager[Any]:
        """Where variables are made that every device has a copy of."""
        return self.strategy.scope() if self.strategy else nullcontext()

    def cut(self, batches: tf.data.Dataset) -> tf.data.Dataset:
        """Cuts each batch into a part for every device.

        Device `i` of `n` has the elements `i`, `i + n`, and so on; `part_size` says how many. Where
        there are none for it, it has the last one: TensorFlow's convolutions fail on nothing.

        Args:
            batches: of tensors, or of structures of tensors, whose first axis is the batch.
        """
        if self.strategy is None:
            return batches

        def part(batch: Any, device: int) -> tf.data.Dataset:
            size = tf.shape(tf.nest.flatten(batch)[0])[0]
            rows = tf.range(tf.minimum(device, size - 1), size, self.replicas)
            gathered = tf.nest.map_structure(lambda tensor: tf.gather(tensor, rows), batch)
            return tf.data.Dataset.from_tensors(gathered)

        def parts(*batch: Any) -> tf.data.Dataset:
            structure = batch[0] if len(batch) == 1 else batch
            found = map(functools.partial(part, structure), range(self.replicas))
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

    That must come before anything that TensorFlow computes.
    """
    if strategy == "none":
        return ONE_DEVICE
    limit_threads()
    devices = Devices(tf.distribute.MirroredStrategy())
    if devices.replicas == 1:
        _LOG.info('trainer.strategy = "mirrored": there is one device only, which trains alone')
    else:
        _LOG.info("training on %d devices: %s", devices.replicas, ", ".join(devices.local))
    return devices
