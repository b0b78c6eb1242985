"""The page of a dataset, made from small finished folders and read back with an HTML parser."""

from __future__ import annotations

import base64
import io
import re
import subprocess
import sys
import tracemalloc
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image
from pyarrow import parquet

from components.tf_example import RecordError
from pipeline.data import page, thumbnails
from pipeline.data.advice import advise
from pipeline.data.dataset import PAGE_FILE
from pipeline.data.image_table import MAX_VALUES, ImageTable, dominant
from tests.pipeline.data.finished import Photo, columns, encoded, finish, labels_of

HOSTILE = "<script>alert('x')</script>&\""
MEGABYTE = 1e6


class Page(HTMLParser):
    """What a browser would see of the page."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.html = html
        self.tags: list[str] = []
        self.by_tag: dict[str, list[dict[str, str]]] = defaultdict(list)
        self.text = ""
        self.feed(html)
        self.text = " ".join(self.text.split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.text += "" if tag in ("b", "bdi") else " "
        self.by_tag[tag].append({name: value or "" for name, value in attrs})

    def handle_data(self, data: str) -> None:
        self.text += data


def rendered(
    folder: Path, photos: Sequence[Photo], *, source: str = "photos", warnings: Sequence[str] = ()
) -> Page:
    finish(folder, photos)
    table = ImageTable.read(folder, labels_of(folder))
    return Page(page.render(folder, table, source=source, warnings=warnings))


def some_photos(number: int = 30) -> list[Photo]:
    return [
        Photo(
            f"{'cat' if i % 3 else 'dog'}/{i}.jpg",
            "cat" if i % 3 else "dog",
            ("train", "train", "eval", "test")[i % 4],
            width=40 + i,
            slices={"site": f"site {i % 2}"},
        )
        for i in range(number)
    ]


def test_the_page_says_how_many_images_of_what_are_where(tmp_path: Path) -> None:
    seen = rendered(tmp_path, some_photos())
    assert "30 images of 2 classes" in seen.text
    assert "16 for train (53.3%), 7 for eval (23.3%), 7 for test (23.3%)." in seen.text
    assert "class train eval test all cat 11 5 4 20 dog 5 2 3 10" in seen.text
    assert "Images by 'site' and split: 2 values" in seen.text


def test_what_was_changed_is_told_with_numbers_and_what_was_done(tmp_path: Path) -> None:
    photos = some_photos()
    photos[0] = replace(photos[0], changes=("EXIF orientation", "CMYK"))
    photos[1] = replace(photos[1], changes=("EXIF orientation",), format="WEBP")
    photos.append(Photo("gone.jpg", "cat", None, changes=("palette",), reason="too small"))
    seen = rendered(tmp_path, photos)
    assert "EXIF orientation turned upright 2 6.7%" in seen.text
    assert "CMYK converted to RGB 1 3.3%" in seen.text
    assert "28 images are kept byte for byte, 2 were encoded anew" in seen.text
    assert "JPEG 29 96.7% WEBP 1 3.3%" in seen.text
    assert "palette" not in seen.text


def test_what_was_left_out_is_told_by_kind_of_reason_with_examples(tmp_path: Path) -> None:
    left_out = [
        Photo(f"bad/{i}.jpg", "cat", None, reason=f"image bomb: {i}000x9 pixels") for i in range(7)
    ]
    odd = Photo("odd.jpg", "cat", None, format=None, reason="cannot be read: no permission")
    copy = Photo("copy.jpg", "cat", None, duplicate_of="cat/1.jpg")
    seen = rendered(tmp_path, [*some_photos(), *left_out, odd, copy])
    assert "Of 39 found, 1 image is an exact copy of another and 8 were left out" in seen.text
    assert "image bomb: 7 images" in seen.text
    assert "bad/4.jpg: image bomb: 4000x9 pixels" in seen.text
    assert "bad/5.jpg" not in seen.text
    assert "and 2 more, in images.parquet" in seen.text
    assert "odd.jpg: cannot be read: no permission" in seen.text
    assert "copy.jpg, a copy of cat/1.jpg" in seen.text


def test_near_duplicates_are_shown_side_by_side(tmp_path: Path) -> None:
    photos = some_photos()
    for i in (0, 3, 4):
        photos[i] = replace(photos[i], split="train", cluster=5)
    photos[8] = replace(photos[8], cluster=9)  # alone: the other one was left out
    seen = rendered(tmp_path, photos)
    assert "3 images in 1 group, the largest of 3." in seen.text
    assert "None has images both in train and in another split." in seen.text
    assert "3 images, more than one label dog train, 40 x 30 0.jpg dog train, 43 x 30" in seen.text


def test_every_class_has_a_sample_sheet_the_smallest_first(tmp_path: Path) -> None:
    seen = rendered(tmp_path, some_photos(90))
    samples = seen.html[seen.html.index('id="samples"') :]
    assert samples.index("<bdi>dog</bdi>") < samples.index("<bdi>cat</bdi>")
    assert samples.count("<img") == 2 * page.SAMPLES_OF_A_CLASS[1]
    for image in seen.by_tag["img"]:
        assert image["alt"]
        data = base64.b64decode(image["src"].removeprefix("data:image/jpeg;base64,"))
        assert len(data) <= thumbnails.MAX_BYTES
        assert max(Image.open(io.BytesIO(data)).size) <= thumbnails.SIDE


def test_the_same_dataset_gives_the_same_bytes(tmp_path: Path) -> None:
    first, second = (rendered(tmp_path / name, some_photos()).html for name in ("one", "two"))
    assert first == second
    assert str(tmp_path) not in first


def test_what_is_hostile_is_shown_as_text(tmp_path: Path) -> None:
    photos = [
        replace(
            photo,
            label=photo.label + HOSTILE,
            source=HOSTILE + photo.source,
            slices={"site" + HOSTILE: HOSTILE},
            changes=(HOSTILE,),
            format=HOSTILE,
            cluster=1,
        )
        for photo in some_photos()
    ]
    photos.append(Photo(HOSTILE, "cat" + HOSTILE, None, reason=HOSTILE + ": " + HOSTILE))
    photos.append(Photo(HOSTILE, "cat" + HOSTILE, None, duplicate_of=HOSTILE))
    seen = rendered(tmp_path, photos, source=HOSTILE, warnings=(HOSTILE,))
    assert "script" not in seen.tags
    assert HOSTILE in seen.text
    assert not any(
        name.startswith("on") for tags in seen.by_tag.values() for t in tags for name in t
    )


def test_the_page_needs_nothing_beside_itself_and_runs_nothing(tmp_path: Path) -> None:
    seen = rendered(tmp_path, some_photos())
    (policy,) = (meta for meta in seen.by_tag["meta"] if "http-equiv" in meta)
    assert policy["content"].startswith("default-src 'none'")
    assert not {"script", "link", "iframe"} & set(seen.tags)
    assert not re.search(r"https?://", seen.html)


def test_whatever_scrolls_or_folds_is_reached_by_keyboard_and_named(tmp_path: Path) -> None:
    photos = [replace(p, slices={"site": f"{i}"}) for i, p in enumerate(some_photos(60))]
    seen = rendered(tmp_path, photos)
    regions = [tag for tag in seen.by_tag["div"] if "scroll" in tag.get("class", "")]
    assert regions
    assert all(tag["tabindex"] == "0" and tag["aria-label"] for tag in regions)
    assert seen.tags.count("details") == seen.tags.count("summary") > 0
    charts = [tag for tag in seen.by_tag["svg"] if tag.get("role") == "img"]
    assert len(charts) == seen.tags.count("desc") == 4


def test_of_many_values_both_ends_are_shown_and_the_rest_is_folded(tmp_path: Path) -> None:
    photos = [replace(p, slices={"site": f"site {i}"}) for i, p in enumerate(some_photos(60))]
    seen = rendered(tmp_path, photos)
    assert "Images by 'site' and split: the largest of 60" in seen.text
    assert "The 36 in between" in seen.text


def test_a_dataset_without_an_image_has_a_page_too(tmp_path: Path) -> None:
    seen = rendered(tmp_path, [Photo("bad.jpg", "cat", None, reason="cannot be decoded: damaged")])
    assert "0 images of 0 classes" in seen.text
    assert "bad.jpg: cannot be decoded: damaged" in seen.text


def test_one_image_of_one_pixel_has_a_page_too(tmp_path: Path) -> None:
    seen = rendered(tmp_path, [Photo("dot.jpg", "cat", "train", 1, 1)])
    assert "1 image of 1 class" in seen.text
    assert "1 to 1, half of them up to 1" in seen.text


def test_a_shard_outside_the_dataset_is_not_read(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="expected a shard"):
        thumbnails.data_uri(tmp_path, "../secret.tfrecord", 0)


def test_a_record_that_is_not_where_the_table_says_is_an_error(tmp_path: Path) -> None:
    finish(tmp_path, some_photos())
    with pytest.raises(RecordError):
        thumbnails.data_uri(tmp_path, "train/examples-00000-of-00001.tfrecord", 5)


@pytest.mark.parametrize("size", [(1, 1), (900, 3), (2000, 1500)])
def test_a_thumbnail_of_noise_stays_within_its_bytes(size: tuple[int, int]) -> None:
    small = thumbnails.thumbnail(encoded(*size, seed=1))
    assert len(small) <= thumbnails.MAX_BYTES
    assert max(Image.open(io.BytesIO(small)).size) <= thumbnails.SIDE


@pytest.mark.parametrize("mode", ["L", "RGB", "P", "1", "RGBA", "I;16"])
def test_a_png_of_any_mode_has_a_thumbnail(mode: str) -> None:
    buffer = io.BytesIO()
    Image.new(mode, (300, 20)).save(buffer, "PNG")
    assert Image.open(io.BytesIO(thumbnails.thumbnail(buffer.getvalue()))).size == (128, 9)


def large_folder(folder: Path, *, rows: int, classes: int, keys: int, values: int) -> Path:
    """A dataset whose `images.parquet` has many rows, all of them in a few shards' records."""
    photos = [Photo(f"{i}.jpg", "any", "train", 300, 300) for i in range(40)]
    finish(folder, photos)
    told = parquet.read_table(folder / "images.parquet", columns=["shard", "offset"]).to_pydict()
    names = [f"class {i:04d} of some length" for i in range(classes)]
    (folder / "labels.txt").write_text("".join(f"{name}\n" for name in names))
    random, at = np.random.default_rng(0), np.arange(rows)
    text = pa.string()

    def picked(choices: Sequence[str | None], weights: Sequence[float] | None = None) -> pa.Array:
        codes = random.choice(len(choices), rows, p=weights).astype(np.int32)
        return pa.DictionaryArray.from_arrays(codes, pa.array(choices, text)).cast(text)

    split = picked(["train", "eval", "test", None], [0.8, 0.08, 0.08, 0.04])
    content = {
        "source": pa.array([f"some folder/of a camera/IMG_{i:08d}.jpg" for i in at]),
        "label": picked(names),
        "split": split,
        "shard": pa.array(told["shard"]).take(pa.array(at % 40)),
        "offset": pa.array(told["offset"]).take(pa.array(at % 40)),
        "image_id": pa.array([f"{i:064x}" for i in at]),
        "cluster": pa.array(at // 3, mask=at % 30 > 2),
        "format": picked(["JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "HEIF"]),
        "width": pa.array(random.integers(1, 5_000, rows, np.int32)),
        "height": pa.array(random.integers(1, 5_000, rows, np.int32)),
        "bytes": pa.array(random.integers(100, 10_000_000, rows)),
        "changes": pa.array([["downscaled"] if i % 2 else [] for i in at]),
        "reason": picked([f"cannot be decoded {i}" for i in range(50)]),
        **{
            f"slice.key {k:02d}": picked([f"value {v:04d}" for v in range(values)])
            for k in range(keys)
        },
    }
    schema = columns(f"key {k:02d}" for k in range(keys))
    missing = {name: pa.nulls(rows, schema.field(name).type) for name in schema.names}
    table = pa.table({name: content.get(name, missing[name]) for name in schema.names}, schema)
    parquet.write_table(table, folder / "images.parquet", row_group_size=rows)
    return folder


def test_a_large_dataset_has_a_page_of_bounded_size_in_bounded_memory(tmp_path: Path) -> None:
    rows = 200_000
    folder = large_folder(tmp_path, rows=rows, classes=1_000, keys=20, values=500)
    labels = labels_of(folder)
    tracemalloc.start()
    allocated = pa.total_allocated_bytes()
    table = ImageTable.read(folder, labels)
    warnings = advise(table)
    page.write_page(folder, table, source="photos", warnings=warnings)
    # What Python and NumPy hold; rows as Python objects would be some 2 kB each.
    assert tracemalloc.get_traced_memory()[1] < 200 * rows
    tracemalloc.stop()
    assert pa.total_allocated_bytes() - allocated < MEGABYTE
    assert (folder / PAGE_FILE).stat().st_size < 5 * MEGABYTE
    assert max(map(len, warnings)) < 500
    assert f"{len(table.kept):,} images of 1,000 classes" in (folder / PAGE_FILE).read_text()


def test_a_key_with_a_value_for_each_image_is_counted_only_so_far(tmp_path: Path) -> None:
    number = MAX_VALUES + 10
    rows = [
        {"source": f"{i}", "label": "cat", "split": "train", "slice.serial": f"{i}"}
        for i in range(number)
    ]
    parquet.write_table(
        pa.Table.from_pylist(rows, schema=columns(["serial"])), tmp_path / "images.parquet"
    )
    (counts,) = ImageTable.read(tmp_path, ["cat"]).slices
    assert (len(counts.values), counts.counts.sum(), counts.further) == (
        MAX_VALUES,
        MAX_VALUES,
        True,
    )


def test_slice_keys_that_begin_alike_are_told_apart(tmp_path: Path) -> None:
    photos = [replace(p, slices={"a": "1", "a.b": "2", "a b": "3"}) for p in some_photos()]
    finish(tmp_path, photos)
    slices = ImageTable.read(tmp_path, labels_of(tmp_path)).slices
    assert {counts.key: counts.values for counts in slices} == {
        "a": ("1",),
        "a.b": ("2",),
        "a b": ("3",),
    }


def test_a_table_without_a_column_is_refused(tmp_path: Path) -> None:
    parquet.write_table(pa.table({"label": ["cat"]}), tmp_path / "images.parquet")
    with pytest.raises(KeyError, match="has no column 'split'"):
        ImageTable.read(tmp_path, ["cat"])


def test_the_dominant_value_of_each_owner_is_found_with_its_share() -> None:
    owners, values = np.array([0, 0, 0, 2, 2, 2, 2]), np.array([5, 5, 1, 0, 0, 7, 0])
    value, share = dominant(owners, values, 3)
    assert value.tolist() == [5, -1, 0]
    assert share.tolist() == pytest.approx([2 / 3, 0, 3 / 4])


def test_the_page_loads_neither_tensorflow_nor_beam_nor_tfx() -> None:
    heavy = ("tensorflow", "apache_beam", "tfx", "sklearn")
    code = f"import sys, pipeline.data.page; print([m for m in {heavy!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
