"""Ingest, with real photos in real folders."""

import fcntl
import hashlib
import io
import json
import os
import shutil
import signal
import struct
import subprocess
import sys
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import tensorflow as tf
from google.protobuf import text_format
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from tensorflow_metadata.proto.v0 import schema_pb2

from pipeline.config import IngestConfig
from pipeline.data.dataset import TABLE_FILE, Dataset, IngestReport
from pipeline.data.ingest import ingest
from pipeline.data.shards import CHANGED
from pipeline.data.tfrecords import read_record_at
from pipeline.data.work import Engine
from pipeline.errors import UserError

SPLITS = ("train", "eval", "test")
ALL_TRAIN = IngestConfig(train=1, eval=0, test=0)
BOMB = b"".join(
    struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk))
    for chunk in (
        b"IHDR" + struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0),
        b"IDAT" + zlib.compress(b"\0"),
        b"IEND",
    )
)


def photo(seed: int, size: tuple[int, int] = (16, 12)) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def save(path: Path, seed: int, **options: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    photo(seed).save(path, **options)


def save_large(path: Path, seed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    photo(seed, (250, 250)).save(path)


def examples(dataset: Path, split: str = "*") -> Iterator[dict[str, bytes]]:
    """Yields the features of every example, each a single value."""
    for shard in sorted(dataset.glob(f"{split}/*.tfrecord")):
        for record in tf.data.TFRecordDataset(str(shard)).as_numpy_iterator():
            features = tf.train.Example.FromString(record).features.feature
            for feature in features.values():
                assert len(feature.bytes_list.value) == 1
            yield {key: feature.bytes_list.value[0] for key, feature in features.items()}


def splits_by_source(dataset: Path) -> dict[str, str]:
    return {
        example["source"].decode(): split
        for split in SPLITS
        for example in examples(dataset, split)
    }


def table_of(dataset: Path) -> list[dict[str, Any]]:
    """The rows of the dataset's table of images."""
    rows: list[dict[str, Any]] = pq.read_table(dataset / TABLE_FILE).to_pylist()
    return rows


def contents(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


@dataclass(frozen=True)
class Ingested:
    photos: Path
    out: Path
    report: IngestReport
    said: Sequence[str]


@pytest.fixture(scope="module")
def odd(tmp_path_factory: pytest.TempPathFactory) -> Ingested:
    """A folder of class folders with everything in it that a folder from the field may hold."""
    photos = tmp_path_factory.mktemp("odd") / "photos"
    for index in range(20):
        save(photos / f"cat/{index:02}.jpg", index)
        save(photos / f"dog/deeper/still/{index:02}.png", 100 + index)
    for index, name in enumerate(("one", "two", "three")):
        save(photos / f"çéw/{name}.png", 200 + index)
    for hidden in (".hidden.jpg", ".DS_Store", "Thumbs.db", ".git/config"):
        (photos / "cat" / hidden).parent.mkdir(exist_ok=True)
        (photos / "cat" / hidden).write_bytes(b"x")

    (photos / "README.txt").write_text("about these photos")
    (photos / "cat/text.jpg").write_text("not a photo")
    (photos / "cat/empty.jpg").touch()
    whole = (photos / "cat/00.jpg").read_bytes()
    (photos / "cat/truncated.jpg").write_bytes(whole[: len(whole) // 2])
    (photos / "dog/bomb.png").write_bytes(b"\x89PNG\r\n\x1a\n" + BOMB)
    (photos / "dog/heavy.bmp").write_bytes(bytes(300_000))
    (photos / "dog/gone.jpg").symlink_to("nowhere.jpg")
    (photos / os.fsdecode(b"dog/\xff.png")).write_bytes(b"x")

    shutil.copy(photos / "cat/01.jpg", photos / "cat/zz copy of 01.jpg")
    save(photos / "cat/torn.png", 300)
    save(photos / "dog/torn.png", 300)

    rotated = Image.Exif()
    rotated[0x0112] = 6
    save(photos / "cat/rotated.jpg", 301, exif=rotated)
    photo(302).convert("CMYK").save(photos / "cat/cmyk.jpg")
    photo(303, size=(600, 100)).save(photos / "dog/wide.png")

    said: list[str] = []
    out = photos.parent / "dataset"
    options = IngestConfig(max_file_bytes=250_000)
    report = ingest(photos, out, options, progress=said.append)
    return Ingested(photos, out, report, said)


def test_bad_files_are_left_out_with_their_reasons(odd: Ingested) -> None:
    reasons = {item["source"]: item["reason"] for item in odd.report.quarantined}
    expected = {
        "README.txt": "not in a class folder",
        "cat/empty.jpg": "not an image",
        "cat/text.jpg": "not an image",
        "cat/torn.png": "same image under labels 'cat' and 'dog'",
        "cat/truncated.jpg": "cannot be decoded",
        "dog/\\xff.png": "its name is not UTF-8",
        "dog/bomb.png": "image bomb",
        "dog/gone.jpg": "cannot be read: No such file or directory",
        "dog/heavy.bmp": "300000 bytes, above the limit of 250000",
        "dog/torn.png": "same image under labels 'cat' and 'dog'",
    }
    assert list(reasons) == sorted(expected)
    for source, reason in expected.items():
        assert reason in reasons[source]


def test_a_duplicate_is_left_out_and_named(odd: Ingested) -> None:
    assert odd.report.duplicates == 1
    rows = {row["source"]: row for row in table_of(odd.out)}
    assert rows["cat/zz copy of 01.jpg"]["duplicate_of"] == "cat/01.jpg"
    assert rows["cat/zz copy of 01.jpg"]["split"] is None
    assert rows["cat/01.jpg"]["split"] in SPLITS


def test_re_encoded_images_are_counted_by_reason(odd: Ingested) -> None:
    assert odd.report.re_encoded == {"CMYK": 1, "EXIF orientation": 1, "downscaled": 1}


def test_counts_match_the_examples_in_each_split(odd: Ingested) -> None:
    for split in SPLITS:
        labels = [example["label"].decode() for example in examples(odd.out, split)]
        counts = {label: labels.count(label) for label in odd.report.labels}
        assert odd.report.counts[split] == counts
    assert odd.report.images == 22 + 21 + 3


def test_an_example_holds_the_file_and_where_it_came_from(odd: Ingested) -> None:
    by_source = {example["source"].decode(): example for example in examples(odd.out)}
    original = (odd.photos / "dog/deeper/still/03.png").read_bytes()
    example = by_source["dog/deeper/still/03.png"]
    assert set(example) == {"image", "label", "image_id", "source"}
    assert example["image"] == original
    assert example["label"] == b"dog"
    assert by_source["çéw/one.png"]["label"].decode() == "çéw"
    rotated = Image.open(io.BytesIO(by_source["cat/rotated.jpg"]["image"]))
    assert rotated.size == (12, 16)


def test_the_image_id_is_the_digest_of_the_original(odd: Ingested) -> None:
    for example in examples(odd.out):
        original = (odd.photos / example["source"].decode()).read_bytes()
        assert example["image_id"].decode() == hashlib.sha256(original).hexdigest()


def test_labels_are_listed_in_code_point_order(odd: Ingested) -> None:
    assert odd.report.labels == ("cat", "dog", "çéw")
    assert (odd.out / "labels.txt").read_bytes() == "cat\ndog\nçéw\n".encode()


def test_the_schema_states_the_contract_of_the_examples(odd: Ingested) -> None:
    content = (odd.out / odd.report.schema).read_bytes()
    assert odd.report.schema == f"schema-{hashlib.sha256(content).hexdigest()[:12]}.pbtxt"
    schema = text_format.Parse(content.decode(), schema_pb2.Schema())
    assert [feature.name for feature in schema.feature] == ["image", "label", "image_id", "source"]
    for feature in schema.feature:
        assert feature.type == schema_pb2.BYTES
        assert (feature.presence.min_fraction, feature.presence.min_count) == (1, 1)
        assert [dim.size for dim in feature.shape.dim] == [1]
    assert list(schema.feature[1].string_domain.value) == ["cat", "dog", "çéw"]


def test_every_class_is_in_every_split(odd: Ingested) -> None:
    for split in SPLITS:
        assert min(odd.report.counts[split].values()) >= 1


def test_the_table_has_every_image_and_where_its_example_is(odd: Ingested) -> None:
    rows = table_of(odd.out)
    assert len(rows) == odd.report.found
    for row in rows:
        if row["split"] is None:
            assert row["reason"]
            continue
        assert row["reason"] is None
        record = read_record_at(odd.out / row["shard"], row["offset"])
        features = tf.train.Example.FromString(record).features.feature
        assert features["source"].bytes_list.value[0].decode() == row["source"]
        assert features["image_id"].bytes_list.value[0].decode() == row["image_id"]
    by_source = {row["source"]: row for row in rows}
    assert by_source["cat/rotated.jpg"]["changes"] == ["EXIF orientation"]
    assert (by_source["cat/rotated.jpg"]["width"], by_source["cat/rotated.jpg"]["height"]) == (
        12,
        16,
    )
    assert by_source["dog/wide.png"]["width"] == 600


def test_progress_is_told_from_finding_to_writing(odd: Ingested) -> None:
    assert odd.said[0] == "56 images found in 3 classes"
    assert "read 56 of 56" in odd.said
    assert "written 46 of 46" in odd.said


def test_nothing_else_is_left_beside_the_dataset(odd: Ingested) -> None:
    assert {path.name for path in odd.out.parent.iterdir()} == {"photos", "dataset"}
    assert set(contents(odd.out)) == {*odd.report.files, "ingest_report.json"}


def test_a_finished_dataset_is_loaded(odd: Ingested) -> None:
    dataset = Dataset.load(odd.out)
    assert dataset.labels == odd.report.labels
    assert dataset.slice_keys == ()
    assert dataset.counts == odd.report.counts
    assert dataset.schema_path.is_file()


def test_a_rerun_reuses_the_dataset(odd: Ingested) -> None:
    before = contents(odd.out)
    again = ingest(odd.photos, odd.out, IngestConfig(max_file_bytes=250_000))
    assert again.reused
    assert not odd.report.reused
    assert again == odd.report
    assert contents(odd.out) == before


def test_equal_photos_make_equal_bytes(odd: Ingested, tmp_path: Path) -> None:
    engine = Engine(beam_args=("--direct_running_mode=in_memory",))
    ingest(odd.photos, tmp_path / "dataset", IngestConfig(max_file_bytes=250_000), engine)
    assert contents(tmp_path / "dataset") == contents(odd.out)


def test_a_grown_folder_moves_no_image(tmp_path: Path) -> None:
    photos, out = tmp_path / "photos", tmp_path / "dataset"
    for index in range(120):
        save(photos / f"{'dog' if index % 2 else 'cat'}.{index}.png", index)
    small = ingest(photos, out)
    before = splits_by_source(out)
    images = {split: sum(small.counts[split].values()) for split in SPLITS}
    assert images == {"train": 96, "eval": 12, "test": 12}
    for index in range(120, 300):
        save(photos / f"{'dog' if index % 2 else 'cat'}.{index}.png", index)
    (photos / "unnamed.png").write_bytes(b"x")
    grown = ingest(photos, out)
    assert not grown.reused
    after = splits_by_source(out)
    assert len(after) == 300
    assert before.items() <= after.items()
    assert grown.labels == ("cat", "dog")
    assert [item["source"] for item in grown.quarantined] == ["unnamed.png"]
    images = {split: sum(grown.counts[split].values()) for split in SPLITS}
    assert images == {"train": 240, "eval": 30, "test": 30}


def test_shards_are_cut_by_size(tmp_path: Path) -> None:
    photos, out = tmp_path / "photos", tmp_path / "dataset"
    for index in range(30):
        save_large(photos / f"{'dog' if index % 2 else 'cat'}.{index}.bmp", index)
    ingest(photos, out, IngestConfig(shard_mb=1))
    shards = sorted((out / "train").iterdir())
    names = [f"examples-{index:05}-of-{len(shards):05}.tfrecord" for index in range(len(shards))]
    assert [shard.name for shard in shards] == names
    assert len(shards) > 1
    assert max(shard.stat().st_size for shard in shards) < 2e6
    ids = [example["image_id"] for example in examples(out, "train")]
    assert ids == sorted(ids)


def test_an_image_that_comes_back_has_the_split_that_it_had(tmp_path: Path) -> None:
    photos, out = tmp_path / "photos", tmp_path / "dataset"
    for index in range(60):
        save(photos / f"{'dog' if index % 2 else 'cat'}.{index}.png", index)
    ingest(photos, out)
    before = splits_by_source(out)
    away = [photos / source for source, split in before.items() if split == "test"][:3]
    for photo in away:
        photo.rename(tmp_path / photo.name)
    ingest(photos, out)
    for photo in away:
        (tmp_path / photo.name).rename(photo)
    ingest(photos, out)
    after = splits_by_source(out)
    assert after == before


def test_a_photo_that_changed_after_it_was_read_is_left_out(tmp_path: Path) -> None:
    photos, out = tmp_path / "photos", tmp_path / "dataset"
    for index in range(30):
        save(photos / f"{'dog' if index % 2 else 'cat'}.{index}.png", index)

    def meddle(line: str) -> None:
        if line == "read 30 of 30":
            save(photos / "cat.0.png", 99)
            (photos / "dog.1.png").unlink(missing_ok=True)

    report = ingest(photos, out, progress=meddle)
    left_out = {item["source"]: item["reason"] for item in report.quarantined}
    assert left_out == dict.fromkeys(("cat.0.png", "dog.1.png"), CHANGED)
    assert len(splits_by_source(out)) == 28


def test_a_photo_that_was_touched_changes_neither_digest_nor_shards(tmp_path: Path) -> None:
    """So that a run makes no step anew: TFX tells files by size and time.

    Nor when the examples were written, which a report says.
    """
    photos, out = tmp_path / "photos", tmp_path / "out"
    for label in ("cat", "dog"):
        for index in range(12):
            save(photos / label / f"{index}.jpg", index + 50 * (label == "dog"))
    before = ingest(photos, out)
    os.utime(out / "ingest_report.json", ns=(1, 10**18))
    written = Dataset.load(out).written
    times = {file: file.stat().st_mtime_ns for file in out.glob("*/*.tfrecord")}
    os.utime(photos / "cat" / "0.jpg", ns=(1, 1))
    after = ingest(photos, out)
    assert (after.reused, after.digest) == (False, before.digest)
    assert {file: file.stat().st_mtime_ns for file in out.glob("*/*.tfrecord")} == times
    assert Dataset.load(out).written == written == datetime.fromtimestamp(10**9, timezone.utc)
    save(photos / "cat" / "more.jpg", 99)
    assert ingest(photos, out).digest != before.digest
    assert {file: file.stat().st_mtime_ns for file in out.glob("*/*.tfrecord")} != times
    assert Dataset.load(out).written != written


def test_an_image_saved_again_keeps_its_split(tmp_path: Path) -> None:
    photos, out = tmp_path / "photos", tmp_path / "dataset"
    for index in range(60):
        save(photos / f"{'dog' if index % 2 else 'cat'}.{index}.png", index)
    ingest(photos, out)
    before = splits_by_source(out)
    for index in range(60):
        name = f"{'dog' if index % 2 else 'cat'}.{index}.png"
        text = PngInfo()
        text.add_text("Comment", "saved again")
        Image.open(photos / name).save(photos / name, pnginfo=text)
    ingest(photos, out)
    assert splits_by_source(out) == before


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """A CSV file of 60 images in 12 patients, two kinds of cell, and a duplicate."""
    rows = ["\ufeffpath,label,cell_type,patient"]
    for index in range(60):
        save(tmp_path / f"photos/images/{index}.png", index)
        kind = ["mono", "poly", ""][index % 3]
        rows.append(f"images/{index}.png,{'bad' if index % 4 else 'good'},{kind},p{index % 12}")
    shutil.copy(tmp_path / "photos/images/1.png", tmp_path / "elsewhere.png")
    rows.append(f"{tmp_path / 'elsewhere.png'},bad,mono,p5")
    path = tmp_path / "photos/labels.csv"
    path.write_text("\r\n".join(rows) + "\r\n", encoding="utf-8")
    return path


def test_a_csv_gives_slices_and_keeps_groups_together(table: Path, tmp_path: Path) -> None:
    out = tmp_path / "dataset"
    report = ingest(table, out, IngestConfig(train=0.6, eval=0.2, test=0.2, group="patient"))
    assert report.slice_keys == ("cell_type",)
    found = {
        example["source"].decode(): (example["label"], example["cell_type"])
        for example in examples(out)
    }
    assert found["images/1.png"] == (b"bad", b"poly")
    assert found["images/4.png"] == (b"good", b"poly")
    assert found["images/5.png"] == (b"bad", b""), "an empty cell is an empty slice value"
    assert str(tmp_path / "elsewhere.png") not in found
    assert report.duplicates == 1
    splits: dict[int, set[str]] = {}
    for source, split in splits_by_source(out).items():
        if source.startswith("images/"):
            splits.setdefault(int(Path(source).stem) % 12, set()).add(split)
    assert all(len(of_patient) == 1 for of_patient in splits.values())
    assert len(set.union(*splits.values())) > 1
    schema = text_format.Parse((out / report.schema).read_text(), schema_pb2.Schema())
    assert schema.feature[-1].name == "cell_type"


def two_classes(photos: Path) -> None:
    for index in range(3):
        save(photos / f"cat/{index}.png", index)
        save(photos / f"dog/{index}.png", 10 + index)


def mixed(photos: Path) -> None:
    two_classes(photos)
    save(photos / "stray.jpg", 0)


def csv_file(*lines: str) -> Any:
    return lambda photos: photos.write_text("\n".join(lines), encoding="utf-8")


def files(*names: str) -> Any:
    def make(photos: Path) -> None:
        for index, name in enumerate(names):
            save(photos / name, index)

    return make


def empty_class(photos: Path) -> None:
    two_classes(photos)
    (photos / "owl").mkdir()


def unusable_class(photos: Path) -> None:
    two_classes(photos)
    (photos / "owl").mkdir()
    (photos / "owl/notes.txt").write_text("no owls seen")


def unnameable_class(photos: Path) -> None:
    two_classes(photos)
    save(photos / os.fsdecode(b"owl/\xff.png"), 0)


def few_images(photos: Path) -> None:
    two_classes(photos)
    for name in ("ant/1.png", "bee/1.png", "bee/2.png"):
        save(photos / name, 50)


def two_links(photos: Path) -> None:
    two_classes(photos)
    (photos / "cat/dogs").symlink_to(photos / "dog")
    (photos / "dog/cats").symlink_to(photos / "cat")


def link_loop(photos: Path) -> None:
    two_classes(photos)
    (photos / "cat/again").symlink_to(photos / "cat")


MISTAKES = {
    "nothing at that path": (lambda photos: None, "photos: no such file or folder"),
    "an empty folder": (lambda photos: photos.mkdir(), "holds no labelled image"),
    "images without a label": (files("IMG_1.jpg", "IMG_2.jpg"), "holds no labelled image"),
    "images and folders": (mixed, "holds both images (stray.jpg) and folders (cat)"),
    "one class": (files("cat/1.png", "cat/2.png"), "found 1 class: 'cat'"),
    "a class folder without files": (empty_class, "no image in "),
    "a class without images": (unusable_class, "photos/owl: add some to each class folder"),
    "classes of too few images": (
        few_images,
        "too few images of 'ant' (1), 'bee' (2): expected 3 or more of each class, for train, "
        "eval, test; add images, merge such classes",
    ),
    "labels that differ by what nobody sees": (
        files("cat/1.png", "c\u200bat/1.png"),
        "labels 'cat' and 'c\\u200bat' differ only in case, blanks, invisible characters",
    ),
    "two folders that link to each other": (two_links, "is a link to a folder that it lies in"),
    "a CSV with semicolons": (csv_file("path;label", "a.jpg;cat"), "it is separated by semicolons"),
    "a CSV with an unknown split": (
        csv_file("path,label,split", "a.jpg,cat,holdout"),
        "line 2: the split is 'holdout': expected train, eval (or val, validation), test",
    ),
    "a class of one file whose name is not UTF-8": (
        unnameable_class,
        "'owl' has no usable image: all 1 were refused (owl/\\xff.png: its name is not UTF-8)",
    ),
    "labels that differ in case": (
        files("Cat/1.png", "cat/1.png"),
        "labels 'Cat' and 'cat' differ",
    ),
    "labels that differ in Unicode form": (
        files("caf\u00e9/1.png", "cafe\u0301/1.png"),
        "labels 'cafe\\u0301' and 'caf\\xe9' differ",
    ),
    "a label with a line break": (files("a\nb/1.png", "c/1.png"), "the label 'a\\nb' holds"),
    "a label that is not UTF-8": (
        files(os.fsdecode(b"\xff/1.png"), "c/1.png"),
        "the label '\\udcff' holds",
    ),
    "a folder linked into itself": (link_loop, "cat/again is a link to a folder that it lies in"),
    "an empty CSV": (csv_file(), "is empty"),
    "a CSV without a header": (csv_file("a.jpg,cat", "b.jpg,dog"), "no column 'path'"),
    "a CSV without labels": (csv_file("path,name", "a.jpg,cat"), "no column 'label'"),
    "a CSV that repeats a column": (csv_file("path,label,path"), "uses a column twice"),
    "a slice key with a blank": (csv_file("path,label,cell type"), "'cell type' cannot be a slice"),
    "a slice key of ours": (csv_file("path,label,image_id"), "'image_id' cannot be a slice key"),
    "a short row": (csv_file("path,label", "a.jpg,cat", "b.jpg"), "line 3: 1 cells instead of 2"),
    "an empty path": (csv_file("path,label", ",cat"), "line 2: the path is empty"),
    "an empty label": (csv_file("path,label", "a.jpg,cat", "b.jpg, "), "a label is empty"),
    "a repeated path": (
        csv_file("path,label", "a.jpg,cat", "b.jpg,dog", "a.jpg,dog"),
        "line 4: a.jpg is listed already, on line 2",
    ),
    "a file that is no CSV": (lambda photos: save(photos, 0, format="PNG"), "cannot read"),
}


@pytest.mark.parametrize(("make", "message"), MISTAKES.values(), ids=MISTAKES)
def test_a_mistake_is_named_and_nothing_is_written(make: Any, message: str, tmp_path: Path) -> None:
    make(tmp_path / "photos")
    options = IngestConfig() if "too few" in message else ALL_TRAIN
    with pytest.raises(UserError) as caught:
        ingest(tmp_path / "photos", tmp_path / "dataset", options)
    assert message in str(caught.value)
    assert {path.name for path in tmp_path.iterdir()} <= {"photos"}


def test_a_class_whose_images_are_too_few_once_read_is_an_error(tmp_path: Path) -> None:
    for index in range(9):
        save(tmp_path / f"photos/cat/{index}.png", index)
        save(tmp_path / f"photos/dog/{index}.png", 10 + index % 2)  # two, and copies of them
    with pytest.raises(UserError, match=r"'dog' \(2 usable, none in eval\)"):
        ingest(tmp_path / "photos", tmp_path / "dataset")
    assert {path.name for path in tmp_path.iterdir()} == {"photos"}


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read any folder")
def test_an_unreadable_folder_is_named(tmp_path: Path) -> None:
    two_classes(tmp_path / "photos")
    (tmp_path / "photos/cat").chmod(0)
    with pytest.raises(UserError, match=r"cannot read the folder .*cat: Permission denied"):
        ingest(tmp_path / "photos", tmp_path / "dataset")


def test_a_group_needs_a_csv_with_that_column(tmp_path: Path, table: Path) -> None:
    two_classes(tmp_path / "folder")
    with pytest.raises(UserError, match="'patient' names a CSV column, but"):
        ingest(tmp_path / "folder", tmp_path / "dataset", IngestConfig(group="patient"))
    with pytest.raises(UserError, match="no column 'owner'"):
        ingest(table, tmp_path / "dataset", IngestConfig(group="owner"))


@pytest.mark.parametrize("place", ["/sys/dataset", "notes.txt/dataset"])
def test_a_place_that_takes_no_files_is_named(place: str, tmp_path: Path) -> None:
    two_classes(tmp_path / "photos")
    (tmp_path / "notes.txt").write_text("mine")
    out = tmp_path / place
    with pytest.raises(UserError, match=f"^{out}: can't write {out.parent}"):
        ingest(tmp_path / "photos", out)


def test_a_folder_that_is_no_dataset_is_never_touched(tmp_path: Path) -> None:
    two_classes(tmp_path / "photos")
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis/chapter.txt").write_text("years of work")
    with pytest.raises(UserError, match=r"holds what ingest did not write \(chapter.txt\)"):
        ingest(tmp_path / "photos", tmp_path / "thesis")
    assert contents(tmp_path / "thesis") == {"chapter.txt": b"years of work"}


def test_a_dataset_with_a_stranger_in_it_is_never_touched(odd: Ingested, tmp_path: Path) -> None:
    two_classes(tmp_path / "photos")
    shutil.copytree(odd.out, tmp_path / "dataset")
    (tmp_path / "dataset/train/notes.txt").write_text("mine")
    before = contents(tmp_path / "dataset")
    with pytest.raises(UserError, match=r"\(train/notes.txt\)"):
        ingest(tmp_path / "photos", tmp_path / "dataset")
    assert contents(tmp_path / "dataset") == before


@pytest.mark.parametrize("out", ["photos", "photos/dataset", "."])
def test_the_dataset_must_not_overlap_with_the_photos(out: str, tmp_path: Path) -> None:
    two_classes(tmp_path / "photos")
    with pytest.raises(UserError, match="must lie outside"):
        ingest(tmp_path / "photos", tmp_path / out)


def test_a_dataset_of_version_1_is_told_and_its_images_keep_their_splits(tmp_path: Path) -> None:
    photos, out = tmp_path / "photos", tmp_path / "dataset"
    for index in range(40):
        save(photos / f"{'dog' if index % 2 else 'cat'}.{index}.png", index)
    ingest(photos, out)
    before = splits_by_source(out)
    moved = as_version_1(out, before)
    with pytest.raises(UserError, match="was ingested by another version of edgeline"):
        Dataset.load(out)
    save(photos / "cat.40.png", 40)
    ingest(photos, out)
    after = splits_by_source(out)
    assert after.pop("cat.40.png") in SPLITS
    assert after == moved


def as_version_1(out: Path, splits: dict[str, str]) -> dict[str, str]:
    """Writes a dataset as version 1 had it, with splits of its own; returns them by source."""
    turned = {"train": "test", "eval": "train", "test": "eval"}
    by_split: dict[str, list[bytes]] = {split: [] for split in SPLITS}
    for example in examples(out):
        features = {
            key: tf.train.Feature(bytes_list=tf.train.BytesList(value=[value]))
            for key, value in example.items()
        }
        record = tf.train.Example(features=tf.train.Features(feature=features))
        split = turned[splits[example["source"].decode()]]
        by_split[split].append(record.SerializeToString())
    shutil.rmtree(out)
    for split, records in by_split.items():
        (out / split).mkdir(parents=True)
        file = str(out / split / "examples-00000-of-00001.tfrecord.gz")
        with tf.io.TFRecordWriter(file, "GZIP") as writer:
            for record in records:
                writer.write(record)
    files = {f"{split}/examples-00000-of-00001.tfrecord.gz": 0 for split in SPLITS}
    (out / "ingest_report.json").write_text(json.dumps({"version": 1, "files": files}))
    return {source: turned[split] for source, split in splits.items()}


def test_a_dataset_of_a_later_version_is_never_touched(tmp_path: Path) -> None:
    two_classes(tmp_path / "photos")
    (tmp_path / "dataset").mkdir()
    report = json.dumps({"version": 999, "files": {}})
    (tmp_path / "dataset/ingest_report.json").write_text(report)
    with pytest.raises(UserError, match="by a later version of edgeline"):
        ingest(tmp_path / "photos", tmp_path / "dataset", ALL_TRAIN)
    assert contents(tmp_path / "dataset") == {"ingest_report.json": report.encode()}


def test_a_damaged_dataset_is_told_and_made_anew(odd: Ingested, tmp_path: Path) -> None:
    out = tmp_path / "dataset"
    shutil.copytree(odd.out, out)
    shard = next((out / "train").iterdir())
    shard.write_bytes(b"")
    with pytest.raises(UserError, match=r"is damaged: train/.* has 0 bytes instead of"):
        Dataset.load(out)
    report = ingest(odd.photos, out, IngestConfig(max_file_bytes=250_000))
    assert not report.reused
    assert contents(out) == contents(odd.out)


def test_a_folder_without_report_is_no_dataset(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"is not an ingested dataset: no ingest_report.json; run"):
        Dataset.load(tmp_path)
    (tmp_path / "ingest_report.json").write_text(json.dumps({"version": 999}))
    with pytest.raises(UserError, match="not a report of version 2"):
        Dataset.load(tmp_path)


KILLED = """
import os, signal, sys
from pathlib import Path
from pipeline.data import assembly
from pipeline.data.ingest import ingest

verb, then = sys.argv[3], sys.argv[4]

def die(text):
    if text.startswith(verb):
        os.kill(os.getpid(), getattr(signal, then))

original = assembly.assign_splits
assembly.assign_splits = lambda *args: (die("assigned"), original(*args))[1]
ingest(Path(sys.argv[1]), Path(sys.argv[2]), progress=die)
"""


@pytest.mark.parametrize("when", ["read", "assigned", "written"])
def test_a_killed_run_leaves_no_dataset_and_the_next_run_goes_on(when: str, tmp_path: Path) -> None:
    photos, out = tmp_path / "photos", tmp_path / "dataset"
    for index in range(20):
        save(photos / f"cat/{index}.png", index)
        save(photos / f"dog/{index}.png", 100 + index)
    killed = subprocess.run(
        [sys.executable, "-c", KILLED, str(photos), str(out), when, "SIGKILL"],
        cwd=Path(__file__).parents[3],
        capture_output=True,
        check=False,
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()
    assert not out.exists()
    workshop = tmp_path / ".dataset.partial"
    assert list((workshop / "read").glob("*.jsonl")), "the run was killed in the middle"
    said: list[str] = []
    report = ingest(photos, out, progress=said.append)
    assert "going on with an ingest that was ended: 40 images are read" in said
    assert report.images == 40
    assert {path.name for path in tmp_path.iterdir()} == {"photos", "dataset"}
    ingest(photos, tmp_path / "whole")
    assert contents(tmp_path / "whole") == contents(out)


def test_what_a_killed_run_read_is_not_used_for_other_photos(tmp_path: Path) -> None:
    photos, out = tmp_path / "photos", tmp_path / "dataset"
    two_classes(photos)
    subprocess.run(
        [sys.executable, "-c", KILLED, str(photos), str(out), "read", "SIGKILL"],
        cwd=Path(__file__).parents[3],
        check=False,
    )
    save(photos / "cat/0.png", 77)
    said: list[str] = []
    ingest(photos, out, progress=said.append)
    assert not [text for text in said if text.startswith("going on")]
    found = {example["source"]: example["image_id"].decode() for example in examples(out)}
    original = (photos / "cat/0.png").read_bytes()
    assert found[b"cat/0.png"] == hashlib.sha256(original).hexdigest()


def test_a_dataset_whose_replacement_never_arrived_comes_back(
    odd: Ingested, tmp_path: Path
) -> None:
    shutil.copytree(odd.out, tmp_path / ".dataset.partial/replaced")
    for label in ("cat", "dog"):
        for number in range(3):
            (tmp_path / "photos" / label).mkdir(parents=True, exist_ok=True)
            (tmp_path / f"photos/{label}/bad{number}.jpg").write_bytes(b"x")
    with pytest.raises(UserError, match="no usable image"):
        ingest(tmp_path / "photos", tmp_path / "dataset")
    assert contents(tmp_path / "dataset") == contents(odd.out)
    assert {path.name for path in tmp_path.iterdir()} == {"photos", "dataset"}


def test_what_a_living_run_is_writing_is_left_alone(tmp_path: Path) -> None:
    two_classes(tmp_path / "photos")
    (tmp_path / ".dataset.partial/dataset").mkdir(parents=True)
    with (tmp_path / ".dataset.partial/lock").open("wb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(UserError, match="is being written by another ingest"):
            ingest(tmp_path / "photos", tmp_path / "dataset", ALL_TRAIN)
        assert (tmp_path / ".dataset.partial/dataset").is_dir()
