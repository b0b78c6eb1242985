"""What is warned of, and that nothing is where nothing is wrong."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pytest
from pyarrow import parquet

from pipeline.data.advice import advise, wide
from pipeline.data.image_table import ImageTable
from tests.pipeline.data.finished import Photo, columns

PER_SPLIT = {"train": 120, "eval": 60, "test": 60}


def sound(labels: Sequence[str] = ("cat", "dog")) -> list[Photo]:
    """Photos of classes of which there is nothing to say."""
    return [
        Photo(f"{label}/{split}-{i}.jpg", label, split, 640 + i % 7, 480)
        for label in labels
        for split, number in PER_SPLIT.items()
        for i in range(number)
    ]


def table_of(folder: Path, photos: Sequence[Photo]) -> ImageTable:
    keys = sorted({key for photo in photos for key in photo.slices})
    rows = [
        {**vars(photo), **{f"slice.{key}": photo.slices.get(key, "") for key in keys}}
        for photo in photos
    ]
    parquet.write_table(pa.Table.from_pylist(rows, schema=columns(keys)), folder / "images.parquet")
    return ImageTable.read(folder, sorted({photo.label for photo in photos}))


def advice_on(folder: Path, photos: Sequence[Photo]) -> tuple[str, ...]:
    return advise(table_of(folder, photos))


def with_first(photos: list[Photo], number: int, **changes: object) -> list[Photo]:
    return [replace(photo, **changes) for photo in photos[:number]] + photos[number:]  # type: ignore[arg-type]


def test_nothing_is_said_of_a_sound_dataset(tmp_path: Path) -> None:
    assert advice_on(tmp_path, sound()) == ()


def test_a_class_with_three_test_images_is_named_with_the_points_of_one(tmp_path: Path) -> None:
    few = [Photo(f"{i}.jpg", "owl", split, 640 + i, 480) for split in PER_SPLIT for i in range(3)]
    assert advice_on(tmp_path, sound() + few) == (
        "3 test images of 'owl': one is 33 points of its recall",
    )


def test_a_class_without_test_images_is_said_not_to_be_measured(tmp_path: Path) -> None:
    new = [Photo(f"{i}.jpg", "owl", "train", 640 + i, 480) for i in range(50)]
    assert advice_on(tmp_path, sound() + new) == (
        "no test image of 'owl': its recall is not measured",
    )


def test_of_many_small_classes_three_are_named_and_the_others_counted(tmp_path: Path) -> None:
    labels = [f"class {i}" for i in range(6)]
    few = [
        Photo(f"{label}/{i}.jpg", label, "test", 640 + i, 480)
        for number, label in enumerate(labels)
        for i in range(3 + number % 2)
    ]
    (line,) = (line for line in advice_on(tmp_path, sound() + few) if "recall" in line)
    assert line.startswith("3 test images of 'class 0': one is 33 points of its recall; ")
    assert line.endswith("; 3 more classes have fewer than 10")


def test_a_small_test_split_is_told_by_the_points_of_one_image(tmp_path: Path) -> None:
    photos = [photo for i, photo in enumerate(sound()) if photo.split != "test" or i % 2]
    photos = [photo for photo in photos if photo.split != "test" or photo.width != 645]
    images = sum(photo.split == "test" for photo in photos)
    assert advice_on(tmp_path, photos) == (
        f"the test split has {images} images: one is {100 / images:.1f} points of accuracy",
    )


def test_no_test_image_at_all_is_one_line(tmp_path: Path) -> None:
    photos = [replace(p, split="train", slices={"site": "a"}) for p in sound()]
    assert advice_on(tmp_path, photos) == ("there are no test images: no model can be measured",)


def test_slices_with_few_test_images_are_counted_by_key(tmp_path: Path) -> None:
    photos = [
        replace(photo, slices={"site": "rare" if i < 2 else "usual", "line": "a"})
        for i, photo in enumerate(sound())
    ]
    assert advice_on(tmp_path, photos) == (
        "slices with fewer than 10 test images, which say little: 1 of the 2 values of 'site'",
    )


def test_images_without_content_are_counted(tmp_path: Path) -> None:
    photos = with_first(with_first(sound(), 3, width=7, height=9), 1, width=1, height=1)
    assert advice_on(tmp_path, photos) == (
        "3 images have a side of fewer than 8 pixels, and 1 of them is a single pixel",
    )


def test_aspect_ratios_beyond_two_to_one_are_told_if_they_are_many(tmp_path: Path) -> None:
    photos = sound()
    few = with_first(photos, 20, width=300, height=100)
    assert advice_on(tmp_path, few) == ()
    many = with_first(with_first(photos, 60, width=300, height=100), 30, width=100, height=201)
    assert advice_on(tmp_path, many) == (
        "60 of 480 images (12.5%) have an aspect ratio beyond 2:1: resizing to a square "
        "distorts them",
    )
    assert len(wide(table_of(tmp_path, many))) == 60


def test_exactly_two_to_one_is_not_beyond_it(tmp_path: Path) -> None:
    photos = [replace(photo, width=photo.width * 2, height=photo.width) for photo in sound()]
    assert advice_on(tmp_path, photos) == ()


def test_extreme_imbalance_is_told_with_what_it_does_to_accuracy(tmp_path: Path) -> None:
    more = [Photo(f"more/{i}.jpg", "cat", "train", 640 + i % 9, 480) for i in range(2_000)]
    assert advice_on(tmp_path, sound() + more) == (
        "the classes are far from balanced: 2,240 images of 'cat', 240 of 'dog'; a model that "
        "always says 'cat' has an accuracy of 90.3%",
    )


def test_a_cluster_across_splits_and_one_across_labels_are_told(tmp_path: Path) -> None:
    photos = sound()
    photos[0] = replace(photos[0], cluster=1)
    photos[150] = replace(photos[150], cluster=1)
    # Eval and test may have the same image.
    photos[130], photos[190] = (replace(photos[i], cluster=2) for i in (130, 190))
    photos[1] = replace(photos[1], cluster=7)
    photos[241] = replace(photos[241], cluster=7)
    # Of this one, only one image was kept.
    photos[2] = replace(photos[2], cluster=8)
    photos.append(Photo("gone.jpg", "dog", None, cluster=8, duplicate_of="cat/train-2.jpg"))
    assert advice_on(tmp_path, photos) == (
        "1 group of near-duplicates lies both in train and in another split: there, a model is "
        "measured on almost what it was trained on",
        "1 group of near-duplicates has more than one label: look whether these are right",
    )


def test_many_near_duplicates_are_told_as_images_that_repeat_another(tmp_path: Path) -> None:
    photos = [
        replace(photo, cluster=i // 5) if i < 60 else photo for i, photo in enumerate(sound())
    ]
    assert advice_on(tmp_path, photos) == (
        "48 of 480 images (10.0%) are near-duplicates of another one: figures are less certain "
        "than the number of images suggests",
    )


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"format": "PNG"}, "the format gives classes away: 'cat' is PNG (100.0%), 'dog' is JPEG"),
        ({"format": "MPO"}, ""),  # a JPEG with another one behind it
        ({"width": 64, "height": 48}, ""),  # the other class has many sizes
    ],
)
def test_a_property_that_tells_the_class_is_told(
    tmp_path: Path, change: dict[str, object], told: str
) -> None:
    photos = with_first(sound(), sum(PER_SPLIT.values()), **change)
    said = advice_on(tmp_path, photos)
    assert len(said) == bool(told)
    assert "".join(said).startswith(told)


def test_one_size_for_each_class_gives_it_away(tmp_path: Path) -> None:
    photos = [
        replace(photo, width=64 if photo.label == "cat" else 96, height=64) for photo in sound()
    ]
    assert advice_on(tmp_path, photos) == (
        "the size gives classes away: 'cat' is 64x64 (100.0%), 'dog' is 96x64 (100.0%): a model "
        "may learn what comes with the size instead of what is shown",
    )


def test_one_format_and_one_size_for_all_give_nothing_away(tmp_path: Path) -> None:
    photos = [replace(photo, width=64, height=64) for photo in sound()]
    assert advice_on(tmp_path, photos) == ()


def test_a_few_images_of_one_format_are_no_pattern(tmp_path: Path) -> None:
    few = [
        Photo(f"{split}-{i}.png", "owl", split, 640 + i, 480, "PNG")
        for split in PER_SPLIT
        for i in range(5)
    ]
    assert not any("gives classes away" in line for line in advice_on(tmp_path, sound() + few))


def test_an_empty_dataset_is_no_reason_to_fail(tmp_path: Path) -> None:
    photos = [Photo("bad.jpg", "cat", None, reason="cannot be decoded: damaged")]
    assert advice_on(tmp_path, photos) == ("there are no test images: no model can be measured",)
