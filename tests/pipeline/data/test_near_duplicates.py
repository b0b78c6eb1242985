import importlib.util
import io
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageEnhance, ImageFilter, ImageOps

from pipeline.data import perceptual_hash as hashing
from pipeline.data.near_duplicates import (
    ALIKE_DISTANCE,
    COPY_DISTANCE,
    COPY_LIMITS,
    NEAR_DISTANCE,
    find,
)
from pipeline.data.perceptual_hash import HASH_BYTES, perceptual_hash


def picture(seed: int, size: tuple[int, int] = (320, 240)) -> Image.Image:
    """Shapes of all sizes and colours."""
    random = np.random.default_rng(seed)
    image = Image.new("RGB", size, (90, 120, 150))
    draw = ImageDraw.Draw(image)
    for reach in np.geomspace(150, 10, 60):
        x, y = random.uniform(0, size[0]), random.uniform(0, size[1])
        colour = tuple(int(level) for level in random.integers(0, 256, 3))
        draw.ellipse((x - reach, y - reach * 0.6, x + reach, y + reach * 0.6), fill=colour)
    return image


def compressed(image: Image.Image, quality: int) -> Image.Image:
    file = io.BytesIO()
    image.save(file, "JPEG", quality=quality)
    return Image.open(io.BytesIO(file.getvalue())).convert(image.mode)


def thumbnail(image: Image.Image) -> Image.Image:
    small = image.copy()
    small.thumbnail((160, 160))
    return small


def noisy(image: Image.Image, deviation: float, seed: int = 0) -> Image.Image:
    pixels = np.asarray(image, np.float64)
    pixels = pixels + np.random.default_rng(seed).normal(0, deviation, pixels.shape)
    return Image.fromarray(np.clip(np.rint(pixels), 0, 255).astype(np.uint8))


def page(seed: int) -> Image.Image:
    """A white page with three short lines of text."""
    random = np.random.default_rng(seed)
    image = Image.new("L", (800, 1100), 255)
    for line in range(3):
        letters = random.integers(ord("a"), ord("z") + 1, random.integers(10, 60))
        ImageDraw.Draw(image).text((60, 60 + 24 * line), bytes(letters.tolist()).decode(), fill=0)
    return image


def hashes_of(images: Sequence[Image.Image]) -> NDArray[np.uint8]:
    joined = b"".join(perceptual_hash(image) for image in images)
    return np.frombuffer(joined, np.uint8).reshape(-1, HASH_BYTES)


def distance(one: Image.Image, other: Image.Image) -> int:
    bits = np.unpackbits(hashes_of([one, other]), axis=1)
    return int((bits[0] != bits[1]).sum())


def made(number: int, seed: int = 0) -> NDArray[np.uint8]:
    """Hashes of unlike pictures."""
    hashes = np.random.default_rng(seed).integers(0, 256, (number, HASH_BYTES), np.uint8)
    hashes[:, 0] |= 0x80
    return hashes


def flipped(hash_: NDArray[np.uint8], signs: Iterable[int]) -> NDArray[np.uint8]:
    """The hash with some signs, from 1 to 255, the other way round."""
    bits = np.unpackbits(hash_)
    bits[list(signs)] ^= 1
    return np.packbits(bits)


CHANGES: dict[str, Callable[[Image.Image], Image.Image]] = {
    "compressed": lambda image: compressed(image, 40),
    "grey": lambda image: image.convert("L"),
    "a thumbnail": thumbnail,
    "a compressed thumbnail": lambda image: compressed(thumbnail(image), 60),
    "twice the size": lambda image: image.resize((640, 480), Image.Resampling.LANCZOS),
    "squeezed": lambda image: image.resize((224, 224), Image.Resampling.BILINEAR),
    "darker": lambda image: ImageEnhance.Brightness(image).enhance(0.8),
    "more colourful": lambda image: ImageEnhance.Color(image).enhance(1.2),
    "noisy": lambda image: noisy(image, 8),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_picture_is_a_copy_of_itself_when(change: str) -> None:
    for seed in range(5):
        assert distance(picture(seed), CHANGES[change](picture(seed))) <= COPY_DISTANCE


@pytest.mark.parametrize(
    "shot",
    [
        lambda image: image.crop((5, 4, 320, 240)),  # the camera moved
        lambda image: image.crop((4, 3, 316, 237)),  # it went closer
        lambda image: noisy(image.crop((3, 0, 320, 240)), 8),
        lambda image: image.filter(ImageFilter.GaussianBlur(3)),
    ],
)
def test_another_shot_of_the_same_is_near(shot: Callable[[Image.Image], Image.Image]) -> None:
    for seed in range(5):
        assert distance(picture(seed), shot(picture(seed))) <= NEAR_DISTANCE


def test_other_pictures_are_far() -> None:
    hashes = np.unpackbits(hashes_of([picture(seed) for seed in range(60)]), axis=1)
    distances = (hashes[:, None] != hashes[None]).sum(axis=2)
    assert distances[~np.eye(60, dtype=bool)].min() > NEAR_DISTANCE + 20


def test_a_mirrored_picture_is_another() -> None:
    assert distance(picture(0), ImageOps.mirror(picture(0))) > 100


def test_a_hash_is_the_same_everywhere() -> None:
    rows, columns = np.mgrid[:333, :517]
    pixels = (rows * columns * 7 + rows**2 // 3 + columns**2 // 5) // 400 % 256
    image = Image.fromarray(pixels.astype(np.uint8))
    assert (
        perceptual_hash(image).hex()
        == "80001d8f87e2fc036012642c332db61df981a3320ce8067b799f3f03d81e7c07"
    )


def test_no_weight_is_so_near_a_half_that_another_sine_would_round_it_otherwise() -> None:
    for side in [*range(1, 300), 500, 640, 1024, 4000]:
        step = max(1, side // 64)
        edges = np.minimum(np.arange(0, side + step, step), side) / side
        frequency = np.arange(1, 16)[:, None]
        exact = np.diff(np.sin(np.pi * frequency * edges)) * np.sqrt(2) / (np.pi * frequency)
        assert np.abs(exact * 2**20 % 1 - 0.5).min() > 1e-8  # a sine is right to 1e-10 of this
        assert (hashing._basis(side, step)[1:] == np.rint(exact * 2**20)).all()


def test_a_picture_of_another_mode_is_refused() -> None:
    with pytest.raises(ValueError, match="expected a picture of mode L or RGB, got RGBA"):
        perceptual_hash(Image.new("RGBA", (20, 20)))


@pytest.mark.parametrize("shape", [(3, 31), (32,), (3, 256)])
def test_hashes_of_another_shape_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="expected uint8"):
        find(np.zeros(shape, np.uint8))


def test_more_hashes_than_pairs_can_be_coded_of_are_refused() -> None:
    hashes = np.broadcast_to(np.zeros((1, HASH_BYTES), np.uint8), (2**28, HASH_BYTES))
    with pytest.raises(ValueError, match="expected fewer than 268,435,456 hashes"):
        find(hashes)


def test_pictures_without_content_are_like_no_other() -> None:
    empty = [
        *(Image.new("L", (1, 1), level) for level in (0, 0, 255)),
        *(Image.new("RGB", (300, 200), "black") for _ in range(3)),
        *(compressed(noisy(Image.new("RGB", (300, 200), "white"), 3, seed), 60) for seed in (0, 1)),
        *(Image.linear_gradient("L").resize((300, side)) for side in (200, 220)),
        *(page(seed) for seed in range(4)),
        *(Image.new("L", (5000, 2), 7) for _ in range(2)),
        *(noisy(Image.new("L", (8, 8), 99), 30) for _ in range(2)),
    ]
    assert (find(hashes_of(empty)).of_image == -1).all()


def test_copies_and_shots_are_found_among_others() -> None:
    images = [picture(seed) for seed in range(40)]
    images[7] = compressed(picture(3), 50)
    images[30] = thumbnail(picture(3))
    images[9] = picture(25).crop((5, 4, 320, 240))
    hashes = hashes_of(images)

    copies = np.full(40, -1)
    copies[[3, 7, 30]] = 0
    assert find(hashes, COPY_LIMITS).of_image.tolist() == copies.tolist()

    near = copies.copy()
    near[[9, 25]] = 1
    assert find(hashes).of_image.tolist() == near.tolist()


@pytest.mark.parametrize("number", [0, 1, 2, 5])
def test_a_few_unlike_hashes_are_alone(number: int) -> None:
    assert find(made(number)).of_image.tolist() == [-1] * number


def test_a_hundred_thousand_equal_pictures_are_one_cluster() -> None:
    hashes = np.concatenate([made(100), np.repeat(made(1, seed=1), 100_000, axis=0)])
    found = find(hashes).of_image
    assert (found[:100] == -1).all()
    assert (found[100:] == 0).all()


def test_how_many_are_compared_at_a_time_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    hashes = made(60)
    hashes[50] = flipped(hashes[10], range(1, 255, 7))
    expected = find(hashes).of_image.tolist()
    assert expected[10] == expected[50] >= 0
    monkeypatch.setattr("pipeline.data.near_duplicates._CHUNK", 1)
    assert find(hashes).of_image.tolist() == expected


def test_a_hundred_thousand_flat_pictures_are_alone() -> None:
    hashes = np.repeat(hashes_of([Image.new("L", (64, 64))]), 100_000, axis=0)
    assert (find(hashes).of_image == -1).all()


def test_copies_are_found_among_many() -> None:
    others = made(50_000)
    random = np.random.default_rng(1)
    copies = [flipped(hash_, random.integers(1, 256, COPY_DISTANCE)) for hash_ in others[:1000]]
    grouped = find(np.concatenate([others, copies]), COPY_LIMITS).of_image
    assert (grouped[:1000] == np.arange(1000)).mean() > 0.99
    assert (grouped[50_000:] == grouped[:1000]).all()
    assert (grouped[1000:50_000] == -1).all()


def chain(length: int) -> NDArray[np.uint8]:
    """Hashes each near the one before it, and the farther from the others the longer the way."""
    random = np.random.default_rng(0)
    links = [made(1)[0]]
    while len(links) < length:
        links.append(flipped(links[-1], random.choice(np.arange(1, 256), 30, replace=False)))
    return np.stack(links)


def test_a_burst_that_moves_on_is_one_cluster() -> None:
    assert (find(np.concatenate([chain(8), made(1000, seed=1)])).of_image[:8] == 0).all()


def test_a_long_chain_is_no_cluster() -> None:
    others = made(10_000, seed=1)
    others[20] = flipped(others[10], range(1, 255, 7))
    found = find(np.concatenate([chain(60), others]))
    assert (found.of_image[:60] == -1).all()
    assert found.distance == NEAR_DISTANCE
    assert np.flatnonzero(found.of_image == 0).tolist() == [70, 80]


def test_many_shots_of_one_thing_are_one_cluster() -> None:
    random = np.random.default_rng(0)
    shots = [flipped(made(1)[0], random.integers(1, 256, 20)) for _ in range(500)]
    assert (find(np.stack(shots)).of_image == 0).all()


def test_where_all_pictures_are_alike_shots_are_not_told_from_others() -> None:
    others = made(100, seed=1)
    others[20] = flipped(others[10], range(1, 255, 7))
    others[40] = flipped(others[30], range(1, 255, 25))
    found = find(np.concatenate([chain(60), others]))
    assert found.distance == ALIKE_DISTANCE
    assert np.flatnonzero(found.of_image >= 0).tolist() == [90, 100]


def test_the_order_of_images_changes_no_cluster() -> None:
    hashes = np.concatenate([made(50), chain(60), made(50), made(30)])
    order = np.random.default_rng(0).permutation(len(hashes))
    straight, shuffled = find(hashes).of_image[order], find(hashes[order]).of_image
    assert ((straight == -1) == (shuffled == -1)).all()
    together = straight[:, None] == straight
    assert (together == (shuffled[:, None] == shuffled)).all()


def test_solar_cells_that_look_alike_are_not_grouped() -> None:
    spec = importlib.util.find_spec("elpv_dataset")
    assert spec is not None
    assert spec.origin is not None
    data = Path(spec.origin).parent / "data"
    rows = [line.split() for line in (data / "labels.csv").read_text().splitlines()]
    rows = [*rows[1350:1800], *rows[2270:2330]]
    numbers = np.array([int(Path(name).stem.removeprefix("cell")) for name, *_ in rows])
    hashes = hashes_of([Image.open(data / name) for name, *_ in rows])
    copies = find(hashes, COPY_LIMITS).of_image
    pairs = [numbers[copies == pair].tolist() for pair in range(copies.max() + 1)]
    assert [1738, 2280] in pairs  # shot twice, the second time out of focus
    assert {other - one for one, other in pairs} == {542}  # of one module, shot again

    found = find(hashes)
    assert found.distance == ALIKE_DISTANCE
    kinds = np.array([kind for *_, kind in rows])
    assert (kinds == "mono").sum() > 200
    assert not (found.of_image[kinds == "mono"] >= 0).any()
    assert np.bincount(found.of_image[found.of_image >= 0]).max() <= 5
