"""Ingest, with real photos in real folders and Beam's local runner."""

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
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from google.protobuf import text_format
from PIL import Image
from tensorflow_metadata.proto.v0 import schema_pb2

from pipeline.config import IngestConfig
from pipeline.data.dataset import Dataset, IngestReport
from pipeline.data.ingest import ingest
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


def examples(dataset: Path, split: str = "*") -> Iterator[dict[str, bytes]]:
    """Yields the features of every example, each a single value."""
    for shard in sorted(dataset.glob(f"{split}/*.tfrecord.gz")):
        for record in tf.data.TFRecordDataset(str(shard), "GZIP").as_numpy_iterator():
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
    save(photos / "çéw/one.png", 200)
    save(photos / "çéw/two.png", 201)
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
    assert odd.report.duplicates == ({"source": "cat/zz copy of 01.jpg", "of": "cat/01.jpg"},)


def test_re_encoded_images_are_counted_by_reason(odd: Ingested) -> None:
    assert odd.report.re_encoded == {"CMYK": 1, "EXIF orientation": 1, "downscaled": 1}


def test_counts_match_the_examples_in_each_split(odd: Ingested) -> None:
    for split in SPLITS:
        labels = [example["label"].decode() for example in examples(odd.out, split)]
        counts = {label: labels.count(label) for label in odd.report.labels}
        assert odd.report.counts[split] == counts
    assert odd.report.images == 22 + 21 + 2


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


def test_a_split_without_a_class_is_a_warning(odd: Ingested) -> None:
    for split in ("eval", "test"):
        missing = [repr(label) for label, count in odd.report.counts[split].items() if not count]
        assert (f"{split} has no image of {', '.join(missing)}" in odd.report.warnings) == bool(
            missing
        )
    assert odd.report.warnings, "two images cannot be in three splits"


def test_progress_is_told_from_finding_to_writing(odd: Ingested) -> None:
    assert odd.said[0] == "55 images found in 3 classes"
    assert "read 54 of 54" in odd.said
    assert odd.said[-1] == "decoded 49 of 49"


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
    args = ["--direct_running_mode=in_memory", "--direct_num_workers=1"]
    ingest(odd.photos, tmp_path / "dataset", IngestConfig(max_file_bytes=250_000), beam_args=args)
    assert contents(tmp_path / "dataset") == contents(odd.out)


def test_a_grown_folder_moves_no_image(tmp_path: Path) -> None:
    photos, out = tmp_path / "photos", tmp_path / "dataset"
    for index in range(120):
        save(photos / f"{'dog' if index % 2 else 'cat'}.{index}.png", index)
    small = ingest(photos, out)
    before = splits_by_source(out)
    assert {split: sum(small.counts[split].values()) for split in SPLITS} == pytest.approx(
        {"train": 96, "eval": 12, "test": 12}, abs=12
    )
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
    shards = [shard.name for shard in sorted((out / "train").iterdir())]
    assert shards == [f"examples-{index:05}-of-00003.tfrecord.gz" for index in range(3)]


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
    # The absolute path comes first in order, and is the one that is kept.
    assert found[str(tmp_path / "elsewhere.png")] == (b"bad", b"mono")
    assert found["images/4.png"] == (b"good", b"poly")
    assert found["images/5.png"] == (b"bad", b""), "an empty cell is an empty slice value"
    assert report.duplicates == ({"source": "images/1.png", "of": str(tmp_path / "elsewhere.png")},)
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


def link_loop(photos: Path) -> None:
    two_classes(photos)
    (photos / "cat/again").symlink_to(photos / "cat")


MISTAKES = {
    "nothing at that path": (lambda photos: None, "photos does not exist"),
    "an empty folder": (lambda photos: photos.mkdir(), "holds no labelled image"),
    "images without a label": (files("IMG_1.jpg", "IMG_2.jpg"), "holds no labelled image"),
    "images and folders": (mixed, "holds both images (stray.jpg) and folders (cat)"),
    "one class": (files("cat/1.png", "cat/2.png"), "found 1 class: 'cat'"),
    "a class folder without files": (empty_class, "photos/owl holds no file"),
    "a class without images": (
        unusable_class,
        "'owl' has no usable image: all 1 were refused (owl/notes.txt: not an image",
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
    with pytest.raises(UserError) as caught:
        ingest(tmp_path / "photos", tmp_path / "dataset", ALL_TRAIN)
    assert message in str(caught.value)
    assert {path.name for path in tmp_path.iterdir()} <= {"photos"}


def test_a_class_that_no_image_trains_is_an_error(tmp_path: Path) -> None:
    two_classes(tmp_path / "photos")
    options = IngestConfig(train=1e-6, eval=0.5, test=0.5 - 1e-6)
    with pytest.raises(UserError, match="'cat' has no image to train on"):
        ingest(tmp_path / "photos", tmp_path / "dataset", options)


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


def test_a_dataset_from_before_it_had_a_digest_is_told_and_made_anew(
    odd: Ingested, tmp_path: Path
) -> None:
    out = tmp_path / "dataset"
    shutil.copytree(odd.out, out)
    report = json.loads((out / "ingest_report.json").read_text())
    digest = report.pop("digest")
    (out / "ingest_report.json").write_text(json.dumps(report))
    with pytest.raises(UserError, match="was ingested before datasets had a digest; run"):
        Dataset.load(out)
    ingest(odd.photos, out, IngestConfig(max_file_bytes=250_000))
    assert Dataset.load(out).digest == digest, "equal input gives equal bytes"


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
    with pytest.raises(UserError, match="not a report of version 1"):
        Dataset.load(tmp_path)


KILLED = """
import os, signal, sys
from pathlib import Path
from pipeline.data.ingest import ingest

def die_once_all_is_decoded(text):
    if text.startswith("decoded"):
        os.kill(os.getpid(), signal.SIGKILL)

ingest(Path(sys.argv[1]), Path(sys.argv[2]), progress=die_once_all_is_decoded)
"""


def test_a_killed_run_leaves_no_dataset_and_the_next_run_recovers(tmp_path: Path) -> None:
    photos, out = tmp_path / "photos", tmp_path / "dataset"
    for index in range(20):
        save(photos / f"cat/{index}.png", index)
        save(photos / f"dog/{index}.png", 100 + index)
    killed = subprocess.run(
        [sys.executable, "-c", KILLED, str(photos), str(out)],
        cwd=Path(__file__).parents[3],
        capture_output=True,
        check=False,
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()
    assert not out.exists()
    assert list(tmp_path.glob(".dataset.partial-*")), "the run was killed in the middle"
    report = ingest(photos, out)
    assert report.images == 40
    assert {path.name for path in tmp_path.iterdir()} == {"photos", "dataset"}


def test_a_dataset_whose_replacement_never_arrived_comes_back(
    odd: Ingested, tmp_path: Path
) -> None:
    shutil.copytree(odd.out, tmp_path / ".dataset.partial-123/replaced")
    (tmp_path / "photos").mkdir()
    for label in ("cat", "dog"):
        (tmp_path / "photos" / label).mkdir()
        (tmp_path / "photos" / label / "bad.jpg").write_bytes(b"x")
    with pytest.raises(UserError, match="no usable image"):
        ingest(tmp_path / "photos", tmp_path / "dataset")
    assert contents(tmp_path / "dataset") == contents(odd.out)
    assert {path.name for path in tmp_path.iterdir()} == {"photos", "dataset"}


def test_what_a_living_run_is_writing_is_left_alone(tmp_path: Path) -> None:
    two_classes(tmp_path / "photos")
    (tmp_path / ".dataset.partial-1/dataset").mkdir(parents=True)
    with (tmp_path / ".dataset.partial-1/lock").open("wb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        ingest(tmp_path / "photos", tmp_path / "dataset", ALL_TRAIN)
        assert (tmp_path / ".dataset.partial-1/dataset").is_dir()


def test_classes_called_like_splits_are_a_warning(tmp_path: Path) -> None:
    for index in range(3):
        save(tmp_path / f"photos/train/cat/{index}.png", index)
        save(tmp_path / f"photos/test/cat/{index}.png", 10 + index)
    report = ingest(tmp_path / "photos", tmp_path / "dataset", ALL_TRAIN)
    assert report.warnings == (
        "eval has no image of 'test', 'train'",
        "test has no image of 'test', 'train'",
        "the classes are called test, train: are these splits of one dataset?",
    )
    assert list(examples(tmp_path / "dataset", "eval")) == [], "an empty shard can be read"
