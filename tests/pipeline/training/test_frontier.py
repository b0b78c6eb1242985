"""Where the base is cut, what is trained beyond the cut, and that nothing is lost by cutting."""

from __future__ import annotations

import re

import keras
import numpy as np
import pytest

from pipeline.errors import UserError
from pipeline.training.bases import BASES, Base
from pipeline.training.frontier import clean_cuts, first_trained, split, unfreeze
from pipeline.training.model import build_base
from tests.pipeline.training.conftest import untrained


@pytest.fixture
def base() -> keras.Model:
    return untrained(0, "densenet121")


def test_every_block_ends_in_a_clean_cut_and_none_has_one_inside(base: keras.Model) -> None:
    cuts = clean_cuts(base)
    blocks = BASES["densenet121"].blocks
    assert len(blocks) == 58
    assert {name for name in cuts if "_block" in name} == {f"{block}_concat" for block in blocks}


# One of each kind is in `make test`: building all eleven takes a minute.
KINDS = ("mobilenetv2", "mobilenetv3small", "efficientnetv2-b0", "resnet50v2")
EVERY_BASE = [
    pytest.param(name, marks=() if name in KINDS else pytest.mark.bases) for name in BASES
]


@pytest.mark.parametrize("name", EVERY_BASE)
def test_every_base_can_be_cut_before_each_of_its_blocks(name: str) -> None:
    base, record = build_base(32, 32, "random", name), BASES[name]
    position = {layer.name: index for index, layer in enumerate(base.layers)}
    cuts = [position[split(base, first_trained(base, start, 0)).cut] for start in record.blocks]
    assert len(set(cuts)) == len(cuts), "no two blocks begin at the same cut"
    assert cuts == sorted(cuts)
    assert len(record.blocks) == len(set(blocks_of(base, record)))


def blocks_of(base: keras.Model, record: Base) -> list[str]:
    """The blocks that the layers' names tell of, without what is before the first."""
    kind = re.sub(
        r"\d+[a-z]?",
        lambda number: r"\d+[a-z]" if number[0][-1].isalpha() else r"\d+",
        record.blocks[-1],
    )
    found = (re.match(rf"{kind}(?=_)", layer.name) for layer in base.layers)
    return [match[0] for match in found if match]


@pytest.mark.parametrize("name", EVERY_BASE)
def test_the_parts_of_every_base_give_what_the_whole_gives(name: str) -> None:
    base = build_base(32, 32, "random", name)
    part = split(base, first_trained(base, BASES[name].blocks[-1], 0))
    assert part.prefix is not None
    pixels = np.random.default_rng(0).random((2, 32, 32, 3), np.float32)
    whole = base(pixels, training=True).numpy()  # as where a head is trained without a cache
    np.testing.assert_array_equal(part.suffix(part.prefix(pixels)).numpy(), whole)
    assert whole.shape[1:] == base.output_shape[1:]


@pytest.mark.parametrize(
    ("start", "last_layers", "cut"),
    [
        ("conv5_block16", 0, "conv5_block15_concat"),
        ("conv5", 0, "pool4_pool"),
        ("conv2", 0, "pool1"),
        (None, 5, "conv5_block15_concat"),  # the classic recipe, which begins inside the block
        (None, 7, "conv5_block15_concat"),
        (None, 9, "conv5_block15_concat"),
        (None, 10, "conv5_block14_concat"),
    ],
)
def test_the_cut_is_the_last_before_what_is_trained(
    base: keras.Model, start: str | None, last_layers: int, cut: str
) -> None:
    assert split(base, first_trained(base, start, last_layers)).cut == cut


@pytest.mark.parametrize("start", ["conv5_block16", "conv4", "conv2_block3"])
def test_the_two_parts_give_exactly_what_the_base_gives(base: keras.Model, start: str) -> None:
    part = split(base, first_trained(base, start, 0))
    assert part.prefix is not None
    pixels = np.random.default_rng(0).random((4, 32, 32, 3), np.float32)
    np.testing.assert_array_equal(part.suffix(part.prefix(pixels)).numpy(), base(pixels).numpy())


def test_the_whole_base_has_no_frozen_part(base: keras.Model) -> None:
    part = split(base, first_trained(base, "all", 0))
    assert part.prefix is None
    assert part.suffix is base


def test_what_is_trained_beyond_a_cut_is_exact(base: keras.Model) -> None:
    """The classic recipe's five layers, of a block of seven that follows the cut."""
    first = first_trained(base, None, 5)
    unfreeze(base, first)
    suffix = split(base, first).suffix
    trained = {weight.path for weight in suffix.trainable_weights}
    assert trained == {"conv5_block16_2_conv/kernel"}
    assert {weight.path for weight in base.trainable_weights} == trained


def test_batch_norms_are_trained_only_where_asked(base: keras.Model) -> None:
    first = first_trained(base, "conv5_block16", 0)
    unfreeze(base, first)
    assert len(base.trainable_weights) == 2
    unfreeze(base, first, batch_norms=True)
    assert len(base.trainable_weights) == 8


def test_layers_without_weights_cannot_be_fine_tuned(base: keras.Model) -> None:
    with pytest.raises(UserError, match=r"fine_tune_layers: the base's last 3 layers have no"):
        unfreeze(base, first_trained(base, None, 3))


def test_more_layers_than_there_are_cannot_be_fine_tuned(base: keras.Model) -> None:
    with pytest.raises(UserError, match=r"expected at most the base's 427 layers.*received 500"):
        first_trained(base, None, 500)
