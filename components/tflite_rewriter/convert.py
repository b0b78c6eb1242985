"""Converts one SavedModel to one TFLite variant; run as a process of its own by `rewrite`.

python -m components.tflite_rewriter.convert SAVED_MODEL CONTRACT VARIANT OUTPUT
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from edgeline.contract import PreprocessingContract

if TYPE_CHECKING:
    import tensorflow as tf

INPUT = "pixels"
OUTPUT = "probabilities"


@dataclass(frozen=True)
class Variant:
    """How one variant is asked of the converter."""

    description: str
    configure: Callable[[tf.lite.TFLiteConverter], None]


def _keep_float32(converter: tf.lite.TFLiteConverter) -> None:
    """The converter's own default."""


def _float16_weights(converter: tf.lite.TFLiteConverter) -> None:
    import tensorflow as tf

    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.target_spec.supported_types = [tf.float16]


VARIANTS = {
    "float32": Variant("none: float32 weights", _keep_float32),
    "float16": Variant("float16 weights, computed in float32", _float16_weights),
}


def convert(saved_model: Path, variant: str) -> bytes:
    """Converts a SavedModel's `pixels` signature.

    Args:
        saved_model: folder with a signature `pixels`, float32 `[batch, height, width, 3]`, to
            `probabilities`, float32 `[batch, classes]`.
        variant: a name in `VARIANTS`.

    Returns:
        A TFLite flatbuffer of batch size 1, whose signature keeps the two names.
    """
    import tensorflow as tf

    loaded = tf.saved_model.load(str(saved_model))
    signature = loaded.signatures[INPUT]
    shape = signature.structured_input_signature[1][INPUT].shape

    @tf.function(input_signature=[tf.TensorSpec([1, *shape[1:]], tf.float32, INPUT)])
    def single_image(pixels: tf.Tensor) -> dict[str, tf.Tensor]:
        return {OUTPUT: signature(**{INPUT: pixels})[OUTPUT]}

    # Not from_saved_model: in TensorFlow 2.16 it aborts on a SavedModel of a Keras 3 model.
    converter = tf.lite.TFLiteConverter.from_concrete_functions(
        [single_image.get_concrete_function()], loaded
    )
    VARIANTS[variant].configure(converter)
    return bytes(converter.convert())


def main(arguments: list[str]) -> None:
    """Converts and adds metadata; the output appears whole or not at all."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    from components.tflite_rewriter.metadata import add_metadata

    saved_model, contract_file, variant, output = arguments
    contract = PreprocessingContract.from_json(Path(contract_file).read_bytes())
    model = add_metadata(convert(Path(saved_model), variant), contract)
    partial = Path(output).with_suffix(".partial")
    partial.write_bytes(model)
    partial.replace(output)


if __name__ == "__main__":
    main(sys.argv[1:])
