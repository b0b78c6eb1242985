"""Splits the base where training starts: a frozen prefix that runs once, a suffix that is trained.

Both parts share the base's layers. What training does to the suffix is done to the base, so that
there is nothing to copy back: the joined model is the base with the head on it, as ever.
"""

from __future__ import annotations

from dataclasses import dataclass

import keras

from pipeline.errors import UserError
from pipeline.training.bases import BASES, WHOLE_BASE
from pipeline.training.keras_internals import layers_read_by

# Of the batch norms' running statistics. Keras' 0.99 needs hundreds of steps until they mean
# something; before, what is evaluated has little to do with what was trained.
MOMENTUM = 0.9


@dataclass(frozen=True)
class Split:
    """A base in two parts.

    Attributes:
        cut: name of the layer whose output is handed over; the input layer's when all is trained.
        prefix: normalized pixels to the cut's activations, float32; None when all is trained.
        suffix: the cut's activations to the base's features.
    """

    cut: str
    prefix: keras.Model | None
    suffix: keras.Model


def clean_cuts(base: keras.Model) -> list[str]:
    """Names of the layers, in order, whose output is all that the layers after them read."""
    position = {layer.name: index for index, layer in enumerate(base.layers)}
    read_by_last = [0] * len(base.layers)
    for index, layer in enumerate(base.layers):
        for source in layers_read_by(layer):
            if source in position:
                read_by_last[position[source]] = index
    cuts, furthest = [], 0
    for index, layer in enumerate(base.layers):
        if furthest <= index:
            cuts.append(layer.name)
        furthest = max(furthest, read_by_last[index])
    return cuts


def first_trained(base: keras.Model, start: str | None, last_layers: int) -> int:
    """The index of the first layer that fine-tuning may train.

    Args:
        base: whose record knows the start.
        start: one of the record's; None counts layers instead.
        last_layers: how many of the last layers, where there is no start.

    Raises:
        UserError: the base has no such layer, or fewer layers.
    """
    if start is None:
        if last_layers > len(base.layers):
            raise UserError(
                f"trainer.fine_tune_layers: expected at most the base's {len(base.layers)} "
                f'layers, or fine_tune_from = "all"; received {last_layers}'
            )
        return len(base.layers) - last_layers
    if start == WHOLE_BASE:
        return 0
    for index, layer in enumerate(base.layers):
        if BASES[base.name].begins(start, layer.name):
            return index
    raise UserError(f"trainer.fine_tune_from: the base has no layer of {start}")


def unfreeze(
    base: keras.Model, first: int, *, batch_norms: bool = False, synchronized: bool = False
) -> None:
    """Makes the layers from an index on trainable and freezes those before it.

    Args:
        base: the network.
        first: index of the first layer to train.
        batch_norms: train those, too, on the statistics of each batch; otherwise they stay in
            inference mode, as fits weights that were trained elsewhere.
        synchronized: take those statistics over all devices that share a batch.

    Raises:
        UserError: none of the chosen layers has weights to train.
    """
    base.trainable = True
    for index, layer in enumerate(base.layers):
        is_batch_norm = isinstance(layer, keras.layers.BatchNormalization)
        layer.trainable = index >= first and (batch_norms or not is_batch_norm)
        if is_batch_norm and batch_norms:
            layer.momentum = MOMENTUM
            layer.synchronized = synchronized
    if not base.trainable_weights:
        raise UserError(
            f"trainer.fine_tune_layers: the base's last {len(base.layers) - first} layers have no "
            "weights to train (batch norms stay frozen): choose at least 4"
        )


def split(base: keras.Model, first: int) -> Split:
    """Cuts the base before a layer, at the last single tensor that nothing after it bypasses.

    A layer inside a block has no cut right before it: the whole block then goes to the suffix, and
    which of its layers are trained stays as `unfreeze` has it.
    """
    position = {layer.name: index for index, layer in enumerate(base.layers)}
    cut = next(
        (name for name in reversed(clean_cuts(base)) if position[name] < first), base.layers[0].name
    )
    if position[cut] == 0:
        return Split(cut, None, base)
    tensor = base.get_layer(cut).output
    return Split(cut, keras.Model(base.input, tensor), keras.Model(tensor, base.output))
