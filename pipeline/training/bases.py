"""The networks that a head is put on, a record each; without Keras, for what is checked before it.

Names, addresses and digests are those of `keras.applications`, and so are the names of blocks. A
block's layers may pass their input on beside their output: only what follows a whole block is a
single tensor. So training can start at a block or, where blocks have them, a stage.

Adding a base is adding a record here, and its rows in docs/training.md (`benchmarks.bases`); then
`make test-bases`.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

WHOLE_BASE = "all"
ROOT = "https://storage.googleapis.com/tensorflow/keras-applications/"

Channels = tuple[float, float, float]


@dataclass(frozen=True)
class Scaling:
    """What a network's pixels have: RGB in [0, 1], less the mean, by the standard deviation."""

    mean: Channels
    deviation: Channels
    layer: str  # name of the layer that does it


IMAGENET = Scaling((0.485, 0.456, 0.406), (0.229, 0.224, 0.225), "imagenet_normalization")
# To [-1, 1].
SYMMETRIC = Scaling((0.5, 0.5, 0.5), (0.5, 0.5, 0.5), "symmetric_normalization")


@dataclass(frozen=True)
class Base:
    """A network without its top.

    Attributes:
        name: in settings, and of the Keras model.
        constructor: in `keras.applications`.
        scaling: of the pixels that it reads.
        weights: where its ImageNet weights are.
        digest: of that file, hex: MD5, or SHA-256 where it has 64 digits. Empty where Keras has
            none: such a file is not downloaded.
        blocks: where training can start, in order.
        stages: the same; each has several blocks, whose names begin with its own.
        options: further arguments of the constructor.
    """

    name: str
    constructor: str
    scaling: Scaling
    weights: str
    digest: str
    blocks: tuple[str, ...]
    stages: tuple[str, ...] = ()
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def file_name(self) -> str:
        """Of the ImageNet weights, as Keras caches them."""
        return self.weights.rpartition("/")[2]

    @property
    def algorithm(self) -> str:
        """Of the digest."""
        return "sha256" if len(self.digest) == 64 else "md5"

    @property
    def starts(self) -> tuple[str, ...]:
        """Where training can start."""
        return (WHOLE_BASE, *self.stages, *self.blocks)

    @property
    def tuned_starts(self) -> tuple[str, ...]:
        """Where a search lets training start: the last block, a few, and a few more."""
        return (self.blocks[-1], self.blocks[-4], (*self.stages, self.blocks[-7])[-1])

    def check_start(self, name: str) -> None:
        """Checks the name of a place where training is to start.

        Raises:
            ValueError: there is no such place, or it is inside a block.
        """
        if name in self.starts:
            return
        block = next((b for b in self.blocks if re.match(f"{re.escape(b)}_", name)), None)
        if block:
            raise ValueError(
                f"{name} is inside {block}, which can only be cut before and after; expected "
                f'"{block}", or fine_tune_layers to train a part of it'
            )
        close = difflib.get_close_matches(name, self.starts, n=1)
        hint = f'; did you mean "{close[0]}"?' if close else ""
        stages = f'a stage from "{self.stages[0]}" to "{self.stages[-1]}", ' if self.stages else ""
        raise ValueError(
            f'expected "all", {stages}or a block of {self.name} from "{self.blocks[0]}" to '
            f'"{self.blocks[-1]}"; received "{name}"{hint}'
        )

    def begins(self, start: str, layer: str) -> bool:
        """Whether a layer is of a block or a stage, by its name."""
        return re.match(rf"{re.escape(start)}(?![0-9])", layer) is not None


def _staged(name: str, constructor: str, blocks: Mapping[str, int], **others: Any) -> Base:
    """A base whose blocks are named `<stage>_block<number>`, by how many each stage has."""
    return Base(
        name,
        constructor,
        blocks=tuple(f"{s}_block{i + 1}" for s, count in blocks.items() for i in range(count)),
        stages=tuple(blocks),
        **others,
    )


def _densenet(layers: int, conv4: int, conv5: int, digest: str) -> Base:
    """Huang et al. 2017, table 1."""
    return _staged(
        f"densenet{layers}",
        f"DenseNet{layers}",
        {"conv2": 6, "conv3": 12, "conv4": conv4, "conv5": conv5},
        scaling=IMAGENET,
        weights=f"{ROOT}densenet/densenet{layers}_weights_tf_dim_ordering_tf_kernels_notop.h5",
        digest=digest,
    )


def _mobilenet_v3(size: str, blocks: int, digest: str) -> Base:
    """Howard et al. 2019."""
    return Base(
        f"mobilenetv3{size}",
        f"MobileNetV3{size.capitalize()}",
        scaling=SYMMETRIC,
        weights=f"{ROOT}mobilenet_v3/weights_mobilenet_v3_{size}_224_1.0_float_no_top_v2.h5",
        digest=digest,
        blocks=tuple(f"expanded_conv_{number}" for number in range(1, blocks)),
        options={"include_preprocessing": False},
    )


def _efficientnet_v2(number: int, blocks: Sequence[int], digest: str) -> Base:
    """Tan and Le 2021; `blocks` is how many each stage has."""
    name = f"efficientnetv2-b{number}"
    return Base(
        name,
        f"EfficientNetV2B{number}",
        scaling=IMAGENET,
        weights=f"{ROOT}efficientnet_v2/{name}_notop.h5",
        digest=digest,
        blocks=tuple(
            f"block{stage}{chr(ord('a') + block)}"
            for stage, count in enumerate(blocks, 1)
            for block in range(count)
        ),
        stages=tuple(f"block{stage}" for stage in range(1, len(blocks) + 1)),
        options={"include_preprocessing": False},
    )


_ALL = (
    _densenet(121, 24, 16, "30ee3e1110167f948a6b9946edeeb738"),
    _densenet(169, 32, 32, "b8c4d4c20dd625c148057b9ff1c1176b"),
    _densenet(201, 48, 32, "c13680b51ded0fb44dff2d8f86ac8bb1"),
    Base(
        "mobilenetv2",
        "MobileNetV2",
        scaling=SYMMETRIC,
        weights=(
            f"{ROOT}mobilenet_v2/mobilenet_v2_weights_tf_dim_ordering_tf_kernels_1.0_224_no_top.h5"
        ),
        digest="",
        blocks=tuple(f"block_{number}" for number in range(1, 17)),
    ),
    _mobilenet_v3("small", 11, "d3e8ec802a04aa4fc771ee12a9a9b836"),
    _mobilenet_v3("large", 15, "07fb09a5933dd0c8eaafa16978110389"),
    _efficientnet_v2(0, (1, 2, 2, 3, 5, 8), "893217f2bb855e2983157299931e43ff"),
    _efficientnet_v2(1, (2, 3, 3, 4, 6, 9), "0e80663031ca32d657f9caa404b6ec37"),
    _efficientnet_v2(2, (2, 3, 3, 4, 6, 10), "1dfe2e7a5d45b6632553a8961ea609eb"),
    _efficientnet_v2(3, (2, 3, 3, 5, 7, 12), "f6abf7b5849ac99a89b50dd3fd532856"),
    _staged(
        "resnet50v2",
        "ResNet50V2",
        {"conv2": 3, "conv3": 4, "conv4": 6, "conv5": 3},
        scaling=SYMMETRIC,
        weights=f"{ROOT}resnet/resnet50v2_weights_tf_dim_ordering_tf_kernels_notop.h5",
        digest="fac2f116257151a9d068a22e544a4917",
    ),
)
BASES: Mapping[str, Base] = {base.name: base for base in _ALL}
