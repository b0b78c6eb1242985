"""The TFLite variants that exist, by name: plain data, quick to import.

A record says what a variant is; how it is made (`recipes`) and checked (`check`) follows from it.
Adding a variant is adding a record here, its name in `pipeline.config` and its row in README.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

Aim = Literal["smallest", "fastest", "most_accurate"]


@dataclass(frozen=True)
class Variant:
    """What a variant is.

    Attributes:
        quantization: in words, as it goes on record.
        weights: what they are stored as.
        activations: what is computed with: "FLOAT32", "DYNAMIC" (quantized as they come), or
            integers, whose ranges come from calibration.
        io: type of input and output.
        searched: whether each layer has a choice of its own, which is searched for.
        eight_bits: the variant that layers are made as which have no 4-bit kernel.
    """

    quantization: str
    weights: Literal["FLOAT32", "FLOAT16", "INT8", "INT4"]
    activations: Literal["FLOAT32", "DYNAMIC", "INT8", "INT16"] = "FLOAT32"
    io: Literal["FLOAT32", "UINT8"] = "FLOAT32"
    searched: bool = False
    eight_bits: str | None = None

    @property
    def integer(self) -> bool:
        """Whether it computes in integers throughout."""
        return self.activations in ("INT8", "INT16")

    @property
    def needs_ranges(self) -> bool:
        """Whether it waits for the calibration: a search may choose integers, too."""
        return self.integer or self.searched


VARIANTS = {
    "float32": Variant("none: float32 weights", "FLOAT32"),
    "float16": Variant("float16 weights, computed in float32", "FLOAT16"),
    "weight_int8": Variant("int8 weights, computed in float32", "INT8"),
    "weight_int4": Variant("int4 weights, computed in float32", "INT4", eight_bits="weight_int8"),
    "dynamic": Variant("int8 weights, activations quantized as they come", "INT8", "DYNAMIC"),
    "dynamic_int4": Variant(
        "int4 weights, activations quantized as they come", "INT4", "DYNAMIC", eight_bits="dynamic"
    ),
    "int8": Variant("int8 throughout, float32 input and output", "INT8", "INT8"),
    "int8_io": Variant("int8 throughout, uint8 input and output", "INT8", "INT8", io="UINT8"),
    "int16x8": Variant(
        "int8 weights, int16 activations, float32 input and output", "INT8", "INT16"
    ),
    "mixed": Variant("for each layer what a search chose", "INT8", "DYNAMIC", searched=True),
}

# Which variants serve which aim.
PRESETS = {
    "default": ("float32", "float16"),
    "storage": ("float16", "dynamic", "int8"),
    "speed": ("float16", "int8"),
}


@dataclass(frozen=True)
class Recipe:
    """How each layer is quantized; the same recipe makes the same file.

    Attributes:
        everywhere: the variant that all layers are made as.
        layers: the variants of those that are not, by the names of their output tensors.
    """

    everywhere: str
    layers: Mapping[str, str] = field(default_factory=dict)

    def variant_of(self, layer: str) -> Variant:
        """As what a layer is made."""
        return VARIANTS[self.layers.get(layer, self.everywhere)]

    @property
    def calibrated(self) -> bool:
        """Whether a layer computes in integers, and so needs calibration."""
        used = {self.everywhere, *self.layers.values()}
        return any(VARIANTS[name].integer for name in used)


@dataclass(frozen=True)
class SearchSettings:
    """What `mixed` is searched by.

    Attributes:
        aim: which of the three answers becomes the variant.
        max_drop: accuracy that the smallest and the fastest may lose against the float model.
        max_size_mb: MB (10^6 bytes) that the most accurate may have; None asks for no such answer.
        trials: recipes that are measured, at most.
        minutes: after which no other trial begins.
    """

    aim: Aim
    max_drop: float
    max_size_mb: float | None
    trials: int
    minutes: float
