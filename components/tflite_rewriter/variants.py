"""The TFLite variants that exist, by name: plain data, quick to import.

A record says what a variant is; how it is made (`recipes`) and checked (`check`) follows from it.
Adding a variant is adding a record here, its name in `pipeline.config` and its row in README.md.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Variant:
    """What a variant is.

    Attributes:
        quantization: in words, as it goes on record.
        weights: what they are stored as.
        activations: what is computed with: "FLOAT32", "DYNAMIC" (quantized as they come), or
            integers, whose ranges come from calibration.
        io: type of input and output.
        searched: whether layers that cost accuracy stay float.
    """

    quantization: str
    weights: Literal["FLOAT32", "FLOAT16", "INT8", "INT4"]
    activations: Literal["FLOAT32", "DYNAMIC", "INT8", "INT16"] = "FLOAT32"
    io: Literal["FLOAT32", "UINT8"] = "FLOAT32"
    searched: bool = False

    @property
    def integer(self) -> bool:
        """Whether it computes in integers throughout, and so needs calibration."""
        return self.activations in ("INT8", "INT16")


VARIANTS = {
    "float32": Variant("none: float32 weights", "FLOAT32"),
    "float16": Variant("float16 weights, computed in float32", "FLOAT16"),
    "weight_int8": Variant("int8 weights, computed in float32", "INT8"),
    "weight_int4": Variant("int4 weights, computed in float32", "INT4"),
    "dynamic": Variant("int8 weights, activations quantized as they come", "INT8", "DYNAMIC"),
    "dynamic_int4": Variant("int4 weights, activations quantized as they come", "INT4", "DYNAMIC"),
    "int8": Variant("int8 throughout, float32 input and output", "INT8", "INT8"),
    "int8_io": Variant("int8 throughout, uint8 input and output", "INT8", "INT8", io="UINT8"),
    "int16x8": Variant(
        "int8 weights, int16 activations, float32 input and output", "INT8", "INT16"
    ),
    "int8_selective": Variant(
        "int8, except the layers that cost the most accuracy, which stay float32",
        "INT8",
        "INT8",
        searched=True,
    ),
}

# Which variants serve which aim.
PRESETS = {
    "default": ("float32", "float16"),
    "storage": ("float16", "dynamic", "int8"),
    "speed": ("float16", "int8"),
}
