"""The layouts are those of TFDS 4.9, TF-slim's `dataset_utils.py`, TFX's CIFAR-10 example and the
library `datasets` 5.2; each is written by TensorFlow or pyarrow."""

import gzip
import io
import json
import pickle
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tensorflow as tf
from PIL import Image

from pipeline.data.record_sources import ImageRecord, RecordSource, find_records, read_images
from pipeline.errors import UserError

NAMES = ("airplane", "automobile", "bird")
Value = bytes | int | float | Sequence[Any]


def image(seed: int = 0, kind: str = "PNG") -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 255, (4, 5, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind)
    return file.getvalue()


def example(features: Mapping[str, Value]) -> bytes:
    def feature(value: Any) -> Any:
        values = value if isinstance(value, list) else [value]
        if isinstance(values[0], bytes):
            return tf.train.Feature(bytes_list=tf.train.BytesList(value=values))
        if isinstance(values[0], int):
            return tf.train.Feature(int64_list=tf.train.Int64List(value=values))
        return tf.train.Feature(float_list=tf.train.FloatList(value=values))

    by_name = {name: feature(value) for name, value in features.items()}
    return tf.train.Example(features=tf.train.Features(feature=by_name)).SerializeToString()


def write(path: Path, examples: Iterable[Mapping[str, Value]], compression: str = "") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tf.io.TFRecordWriter(str(path), compression) as writer:
        for features in examples:
            writer.write(example(features))
    return path


def tfds(folder: Path, splits: Sequence[str] = ("train", "test"), names: bool = True) -> Path:
    """Writes CIFAR-10 as TFDS does: features id, image and label."""
    for split in splits:
        write(
            folder / f"cifar10-{split}.tfrecord-00000-of-00001",
            (
                {"id": f"{split}_{label}".encode(), "image": image(label), "label": label}
                for label in (2, 0, 1)
            ),
        )
    tfds_features(folder, NAMES if names else ())
    return folder


def tfds_features(folder: Path, labels: Sequence[str]) -> None:
    """Writes what TFDS writes beside the records: what is in them, and the labels' names."""
    features = {"image": "image.Image", "label": "class_label.ClassLabel", "id": "text.Text"}
    content = {
        "pythonClassName": "tensorflow_datasets.core.features.features_dict.FeaturesDict",
        "featuresDict": {
            "features": {
                name: {"pythonClassName": f"tensorflow_datasets.core.features.{kind}"}
                for name, kind in features.items()
            }
        },
    }
    (folder / "features.json").write_text(json.dumps(content))
    if labels:
        (folder / "label.labels.txt").write_text("".join(f"{label}\n" for label in labels))


def slim(label: int, text: bytes | None = None) -> dict[str, Value]:
    """Returns the features that TF-slim and the Inception scripts write."""
    features: dict[str, Value] = {
        "image/encoded": image(label, "JPEG"),
        "image/format": b"jpg",
        "image/class/label": label,
        "image/height": 4,
        "image/width": 5,
    }
    return features if text is None else {**features, "image/class/text": text}


def found(
    path: Path, features: Mapping[str, str] | None = None, labels: Path | None = None
) -> RecordSource:
    source = find_records(path, features or {}, labels)
    assert source is not None
    # Files are read in other processes.
    same: RecordSource = pickle.loads(pickle.dumps(source))
    assert same == source
    return source


def read(source: RecordSource) -> list[ImageRecord]:
    return [record for file in source.files for record in read_images(file, source)]


def labels(source: RecordSource) -> list[str]:
    return [record.label for record in read(source) if not record.reason]


# TFRecords


def test_a_tfds_folder_is_read_with_its_names_and_splits(tmp_path: Path) -> None:
    tfds(tmp_path / "cifar10" / "3.0.2")

    source = found(tmp_path)

    assert source.kind == "TFRecord"
    assert source.labels == NAMES
    assert source.warnings == ()
    assert [(file.source, file.split, file.bytes) for file in source.files] == [
        (f"cifar10/3.0.2/{file.path.name}", split, file.path.stat().st_size)
        for file, split in zip(source.files, ("test", "train"), strict=True)
    ]
    assert read(source)[3:] == [
        ImageRecord(f"{source.files[1].source}#{number}", NAMES[label], image(label))
        for number, label in enumerate((2, 0, 1))
    ]


def test_tfx_records_without_names_are_called_by_their_numbers(tmp_path: Path) -> None:
    # tfx/examples/cifar10/data: TFDS' features, and one more in the files with "split_info".
    for split in ("train", "test"):
        write(
            tmp_path / split / f"cifar10_with_split_info_{split}.tfrecord",
            (
                {"id": b"", "image": image(n), "label": n, "is_train": int(split == "train")}
                for n in range(2)
            ),
        )

    source = found(tmp_path)

    assert [file.split for file in source.files] == ["test", "train"]
    assert labels(source) == ["0", "1", "0", "1"]
    assert source.labels is None
    (warning,) = source.warnings
    assert "called by their numbers" in warning


OF_PROTO = {"photo": {"pythonClassName": "x.Image"}, "kind": {"pythonClassName": "x.ClassLabel"}}
LEGACY = {"photo": {"type": "x.Image"}, "kind": {"type": "x.ClassLabel", "num_classes": 2}}


@pytest.mark.parametrize(
    "content",
    [
        {"pythonClassName": "x.FeaturesDict", "featuresDict": {"features": OF_PROTO}},
        {"type": "x", "content": {"features": OF_PROTO}, "proto_cls": "x.FeaturesDict"},
        {"type": "x", "content": json.dumps({"features": OF_PROTO}), "proto_cls": "x.FeaturesDict"},
        {"type": "x", "content": LEGACY},
    ],
)
def test_the_feature_that_tfds_declares_is_taken(tmp_path: Path, content: Any) -> None:
    write(tmp_path / "a-train.tfrecord", [{"photo": image(), "kind": 1, "size": 3}])
    (tmp_path / "features.json").write_text(json.dumps(content))
    (tmp_path / "kind.labels.txt").write_text("ape\nbee\n")

    assert labels(found(tmp_path)) == ["bee"]


@pytest.mark.parametrize(
    "content", ["[]", "{", '{"content": 1}', "[" * 100_000, '{"content": {"a": 1}}']
)
def test_a_damaged_description_of_features_is_refused(tmp_path: Path, content: str) -> None:
    tfds(tmp_path)
    (tmp_path / "features.json").write_text(content)

    with pytest.raises(UserError, match=r"features\.json"):
        find_records(tmp_path, {}, None)


def test_a_huge_description_of_features_is_refused(tmp_path: Path) -> None:
    tfds(tmp_path)
    with (tmp_path / "features.json").open("wb") as file:
        file.truncate(2**40)

    with pytest.raises(UserError, match="bytes"):
        find_records(tmp_path, {}, None)


def test_several_versions_of_a_tfds_dataset_are_refused(tmp_path: Path) -> None:
    tfds(tmp_path / "cifar10" / "3.0.1")
    tfds(tmp_path / "cifar10" / "3.0.2")
    tfds(tmp_path / "cifar10" / "3.0.3.incompleteA1B2")

    with pytest.raises(UserError, match=r"cifar10/3\.0\.1, cifar10/3\.0\.2\)"):
        find_records(tmp_path, {}, None)


def test_slim_records_are_read_with_their_numbered_names(tmp_path: Path) -> None:
    write(tmp_path / "flowers_train_00000-of-00002.tfrecord", [slim(0), slim(1)])
    write(tmp_path / "flowers_validation_00000-of-00002.tfrecord", [slim(2)])
    (tmp_path / "labels.txt").write_text("0:daisy\n1:dandelion: wild\n2:roses\n")

    source = found(tmp_path)

    assert source.labels == ("daisy", "dandelion: wild", "roses")
    assert labels(source) == ["daisy", "dandelion: wild", "roses"]
    assert [file.split for file in source.files] == ["train", "eval"]


def test_slim_records_with_texts_are_read_by_these(tmp_path: Path) -> None:
    # Of ImageNet: labels from 1 on, and no suffix in the files' names.
    write(tmp_path / "train-00000-of-00002", [slim(1, b"tench"), slim(2, "Höckerschwan".encode())])
    write(tmp_path / "validation-00000-of-00002", [slim(1, b"tench")])

    source = found(tmp_path)

    assert labels(source) == ["tench", "Höckerschwan", "tench"]
    assert source.warnings == ()


def test_labels_from_1_on_do_not_shift_the_names(tmp_path: Path) -> None:
    write(tmp_path / "train-00000-of-00002", [slim(1), slim(2)])
    (tmp_path / "labels.txt").write_text("tench\nswan\n")

    with pytest.raises(UserError, match=r"label 2.*names 0 to 1.*1:tench"):
        read(found(tmp_path))

    (tmp_path / "names.txt").write_text("1:tench\n2:swan\n")
    assert labels(found(tmp_path, labels=tmp_path / "names.txt")) == ["tench", "swan"]


def test_our_own_dataset_is_read_with_its_slice_keys(tmp_path: Path) -> None:
    own = {"image": image(), "label": b"cat", "image_id": b"0" * 64, "source": b"cat/1.png"}
    for split in ("train", "eval"):
        name = f"{split}/examples-00000-of-00001.tfrecord"
        write(tmp_path / name, [{**own, "camera": b"front", "Not A Key": b"x"}])
    (tmp_path / "labels.txt").write_text("dog\ncat\n")
    (tmp_path / "ingest_report.json").write_text("{}")
    pq.write_table(pa.table({"image": [b"none of ours"]}), tmp_path / "images.parquet")

    source = found(tmp_path)

    assert source.slice_keys == ("camera",)
    assert source.labels == ("dog", "cat")
    name = "eval/examples-00000-of-00001.tfrecord#0"
    assert read(source)[0] == ImageRecord(name, "cat", image(), {"camera": "front"})
    assert [file.split for file in source.files] == ["eval", "train"]


def test_any_other_records_are_read_by_the_features_that_are_told(tmp_path: Path) -> None:
    write(tmp_path / "flowers.tfrec", [{"picture": image(), "class": 1, "kind": b"x", "id": b"a"}])
    (tmp_path / "names.txt").write_text("ape\nbee\n")

    by_number = {"image": "picture", "label": "class"}
    assert labels(found(tmp_path, by_number, tmp_path / "names.txt")) == ["bee"]
    assert labels(found(tmp_path, {"image": "picture", "text": "kind"})) == ["x"]
    assert labels(found(tmp_path, {"image": "picture", "label": "kind"})) == ["x"]


@pytest.mark.parametrize(
    ("features", "told", "message"),
    [
        (
            {"a": b"", "b": 1, "c": 0.5},
            {},
            r"a \(bytes\), b \(int64\), c \(float\).*--feature image",
        ),
        (
            {"image": image(), "img": image(), "label": 1},
            {},
            "not clear which feature is the image",
        ),
        ({"image": image(), "class": 1}, {}, "not clear which feature is the label"),
        ({"image": image(), "label": 1}, {"image": "photo"}, "no feature 'photo': .* has image"),
        ({"image": image(), "label": 1}, {"label": "image"}, "both image and label"),
        ({"image": image(), "label": 0.5}, {}, "'label' is float"),
        ({"image": image(), "label": 1}, {"lable": "x"}, "expected one of image, label, text"),
        ({"image": image(), "label": 1}, {"text": "label"}, "'label' is int64; expected text"),
        ({"image": [1, 2, 3], "label": 1}, {}, "raw pixels"),
        ({"pixels": [0.5, 0.5], "label": 1}, {"image": "pixels"}, "raw pixels"),
        ({"image": bytes(28 * 28), "label": 1}, {}, "raw pixels"),
    ],
)
def test_features_that_do_not_tell_image_and_label_are_refused(
    tmp_path: Path, features: Mapping[str, Value], told: Mapping[str, str], message: str
) -> None:
    write(tmp_path / "x.tfrecord", [features])

    with pytest.raises(UserError, match=message):
        find_records(tmp_path, told, None)


@pytest.mark.parametrize("name", ["x.bin", "x.tfrecord.gz", "x.tfrecord"])
def test_a_single_file_is_known_by_its_content(tmp_path: Path, name: str) -> None:
    write(tmp_path / name, [{"image": image(), "label": b"cat"}], "GZIP")

    (record,) = read(found(tmp_path / name))

    assert record == ImageRecord(f"{name}#0", "cat", image())


def test_a_single_file_whose_begin_is_damaged_is_known_by_its_name(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tfrecord", [{"image": image(), "label": b"cat"}] * 2)
    path.write_bytes(b"damage" + path.read_bytes()[6:])

    assert [bool(record.reason) for record in read(found(path))] == [True, False]


def test_what_holds_no_records_is_left_to_others(tmp_path: Path) -> None:
    (tmp_path / "photos" / "cat").mkdir(parents=True)
    (tmp_path / "photos" / "cat" / "burst-00000-of-00001").write_bytes(image())
    (tmp_path / "photos" / "cat" / "1.png").write_bytes(image())
    (tmp_path / "photos.csv").write_text("path,label\n")
    (tmp_path / "photos" / "loop").symlink_to(tmp_path / "photos")

    for path in (tmp_path / "photos", tmp_path / "photos.csv", tmp_path / "photos" / "missing"):
        assert find_records(path, {}, None) is None
    with pytest.raises(UserError, match="no TFRecord or Parquet file"):
        find_records(tmp_path / "photos", {"image": "x"}, None)


def test_a_table_about_photos_is_no_source_of_images(tmp_path: Path) -> None:
    # Such as the metadata.parquet of `datasets`' image folders.
    parquet(tmp_path / "metadata.parquet", {"file_name": ["cat/1.png"], "label": ["cat"]})
    (tmp_path / "cat").mkdir()
    (tmp_path / "cat" / "1.png").write_bytes(image())

    assert find_records(tmp_path, {}, None) is None


def test_files_of_a_relative_path_are_absolute(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tfds(tmp_path / "cifar10" / "3.0.2")
    monkeypatch.chdir(tmp_path)

    source = found(Path("cifar10"))

    assert all(file.path.is_absolute() for file in source.files)
    assert source.labels == NAMES


def test_records_behind_links_are_read_once(tmp_path: Path) -> None:
    # As in the cache of a hub's client; and two folders that link to each other.
    write(tmp_path / "blobs" / "0123", [{"image": image(), "label": b"cat"}])
    (tmp_path / "data" / "more").mkdir(parents=True)
    (tmp_path / "data" / "train.tfrecord").symlink_to(tmp_path / "blobs" / "0123")
    (tmp_path / "data" / "more" / "back").symlink_to(tmp_path / "data")

    assert [record.source for record in read(found(tmp_path))] == ["data/train.tfrecord#0"]


def test_one_bad_record_is_told_with_its_place_and_the_others_are_read(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tfrecord", [{"image": image(n), "label": b"cat"} for n in range(4)])
    data = bytearray(path.read_bytes())
    size = len(data) // 4
    data[size + 20] ^= 1
    path.write_bytes(data)

    bad = [record for record in read(found(tmp_path)) if record.reason]

    assert labels(found(tmp_path)) == ["cat"] * 3
    assert [(record.source, record.reason) for record in bad] == [
        ("a.tfrecord#1", f"at byte {size}: the record does not match its checksum")
    ]


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"label": [1, 2]}, "'label' has 2 values instead of one"),
        ({"image": [image(1), image(2)]}, "'image' has 2 values instead of one"),
        ({"image": 7}, "'image' is no encoded image"),
        ({"label": -1}, "it has no label (-1)"),
        ({"label": 7}, "the label 7 has no name in"),
        ({"label": 0.5}, "'label' is not text"),
        ({"label": b"\xff"}, "'label' is not text in UTF-8"),
    ],
)
def test_a_record_that_is_no_labelled_image_is_told(
    tmp_path: Path, changes: Mapping[str, Value], reason: str
) -> None:
    good: dict[str, Value] = {"image": image(), "label": 1}
    write(tmp_path / "a.tfrecord", [good, {**good, **changes}, good])
    (tmp_path / "label.labels.txt").write_text("ape\nbee\n")

    records = read(found(tmp_path))

    assert [record.label for record in records] == ["bee", "", "bee"]
    assert records[1].reason.startswith("at byte ")
    assert reason in records[1].reason


def test_a_record_that_is_no_example_or_lacks_a_feature_is_told(tmp_path: Path) -> None:
    with tf.io.TFRecordWriter(str(tmp_path / "a.tfrecord")) as writer:
        writer.write(b"\xff no example")
        writer.write(example({"image": image(), "label": b"cat"}))
        writer.write(example({"image": image()}))

    records = read(found(tmp_path))

    assert [record.label for record in records] == ["", "cat", ""]
    assert "not a tf.Example" in records[0].reason
    assert "'label' has 0 values" in records[2].reason


def test_a_label_that_the_users_file_does_not_name_is_told(tmp_path: Path) -> None:
    write(tmp_path / "a.tfrecord", [{"image": image(), "label": x} for x in (b"cat", b"cow")])
    (tmp_path / "names.txt").write_text("dog\ncat\n")

    source = found(tmp_path, labels=tmp_path / "names.txt")

    assert source.labels == ("dog", "cat")
    assert [record.reason for record in read(source)][1].endswith(
        f"the label 'cow' is not in {tmp_path / 'names.txt'}"
    )


@pytest.mark.parametrize("content", [b"", b"a\na\n", b"1:a\n1:b\n", b"1:a\n2:a\n", b"\xff\xfe"])
def test_a_labels_file_that_names_nothing_or_twice_is_refused(
    tmp_path: Path, content: bytes
) -> None:
    tfds(tmp_path)
    (tmp_path / "names.txt").write_bytes(content)

    with pytest.raises(UserError, match=r"names\.txt"):
        find_records(tmp_path, {}, tmp_path / "names.txt")


def test_names_that_differ_between_folders_are_refused(tmp_path: Path) -> None:
    for folder, names in (("a", "ape\nbee\n"), ("b", "bee\nape\n")):
        write(tmp_path / folder / "x.tfrecord", [{"image": image(), "label": 0}])
        (tmp_path / folder / "label.labels.txt").write_text(names)

    with pytest.raises(UserError, match="name different classes"):
        find_records(tmp_path, {}, None)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "the files are empty"),
        (b"not a record at all", "does not match its checksum"),
        (gzip.compress(b"not a record", mtime=0), "does not match its checksum"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:1\n", "git lfs pull"),
    ],
    # Not the bytes: parallel workers must agree on a test's name.
    ids=["empty", "text", "gzipped", "a pointer"],
)
def test_files_without_a_readable_record_are_refused(
    tmp_path: Path, content: bytes, message: str
) -> None:
    (tmp_path / "a.tfrecord").write_bytes(content)

    with pytest.raises(UserError, match=message):
        find_records(tmp_path, {}, None)


def test_a_file_that_tells_no_split_among_others_is_told(tmp_path: Path) -> None:
    tfds(tmp_path, ("train", "extra"))

    (warning,) = found(tmp_path).warnings

    assert "1 of 2 files tell no split" in warning


def test_other_formats_of_tfds_are_named(tmp_path: Path) -> None:
    (tmp_path / "mnist-train.array_record-00000-of-00001").write_bytes(b"")

    with pytest.raises(UserError, match='file_format="tfrecord"'):
        find_records(tmp_path, {}, None)


def test_a_record_above_the_limit_is_told(tmp_path: Path) -> None:
    write(tmp_path / "a.tfrecord", [{"image": image() + bytes(n), "label": b"a"} for n in (0, 999)])
    source = found(tmp_path)

    records = list(read_images(source.files[0], source, max_bytes=999))

    assert [bool(record.reason) for record in records] == [False, True]


# Parquet

CLASS_LABEL = {"names": list(NAMES), "_type": "ClassLabel"}


def parquet(
    path: Path,
    columns: Mapping[str, Any],
    features: Mapping[str, Any] | None = None,
    **options: Any,
) -> Path:
    table = pa.table(dict(columns))
    if features is not None:
        info = json.dumps({"info": {"features": features}})
        table = table.replace_schema_metadata({"huggingface": info})
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path, **options)
    return path


def hub_images(count: int) -> pa.Array:
    rows = [{"bytes": image(n), "path": f"{n}.png"} for n in range(count)]
    return pa.array(rows, pa.struct([("bytes", pa.binary()), ("path", pa.string())]))


def test_a_hubs_folder_is_read_with_its_names_and_splits(tmp_path: Path) -> None:
    # CIFAR-10's columns.
    for split in ("train", "validation", "test"):
        parquet(
            tmp_path / "data" / f"{split}-00000-of-00001.parquet",
            {"img": hub_images(5), "label": pa.array([2, 0, 1, -1, None])},
            {"img": {"_type": "Image"}, "label": CLASS_LABEL},
            row_group_size=2,
        )
    (tmp_path / "README.md").write_text("about")

    source = found(tmp_path)

    assert source.kind == "Parquet"
    assert source.labels == NAMES
    assert [file.split for file in source.files] == ["test", "train", "eval"]
    records = read(source)[5:10]
    name = "data/train-00000-of-00001.parquet"
    assert records[:3] == [
        ImageRecord(f"{name}#{n}", NAMES[label], image(n)) for n, label in enumerate((2, 0, 1))
    ]
    assert [record.reason for record in records[3:]] == [
        "row 3: it has no label (-1)",
        "row 4: 'label' has 0 values instead of one",
    ]


@pytest.mark.parametrize("kind", [pa.binary(), pa.large_binary()])
@pytest.mark.parametrize("text", [pa.string(), pa.dictionary(pa.int32(), pa.string())])
def test_a_plain_column_of_bytes_and_labels_of_text_are_read(
    tmp_path: Path, kind: pa.DataType, text: pa.DataType
) -> None:
    columns = {"image": pa.array([image(0), None], kind), "label": pa.array(["cat"] * 2, text)}
    parquet(tmp_path / "default" / "train" / "0000.parquet", columns)

    source = found(tmp_path)

    assert source.files[0].split == "train"
    assert [record.label for record in read(source)] == ["cat", ""]
    assert labels(found(source.files[0].path)) == ["cat"]


def test_two_labels_are_refused_until_one_is_told(tmp_path: Path) -> None:
    # CIFAR-100's columns.
    parquet(
        tmp_path / "train.parquet",
        {"img": hub_images(2), "fine_label": [2, 1], "coarse_label": [0, 1]},
        {"img": {"_type": "Image"}, "fine_label": CLASS_LABEL, "coarse_label": CLASS_LABEL},
    )

    with pytest.raises(UserError, match=r"which feature is the label: .*coarse_label"):
        find_records(tmp_path, {}, None)
    assert labels(found(tmp_path, {"label": "fine_label"})) == [NAMES[2], NAMES[1]]


def test_each_file_counts_its_classes_in_its_own_order(tmp_path: Path) -> None:
    for name, names in (("a", NAMES), ("b", NAMES[::-1])):
        parquet(
            tmp_path / f"{name}.parquet",
            {"image": hub_images(1), "label": [0]},
            {"image": {"_type": "Image"}, "label": {"names": names, "_type": "ClassLabel"}},
        )

    assert labels(found(tmp_path)) == [NAMES[0], NAMES[2]]


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"image": ["a.png"], "label": [1]}, "'image' is text"),
        ({"image": [[[1, 2]]], "label": [1]}, "raw pixels"),
        ({"image": [bytes(99)], "label": [1]}, "raw pixels"),
        ({"image": [b"x"], "label": [[1, 2]]}, "'label' is list"),
        ({"image": [b"x"], "text": ["a"]}, "which feature is the label"),
    ],
)
def test_columns_that_are_no_labelled_images_are_refused(
    tmp_path: Path, columns: Mapping[str, Any], message: str
) -> None:
    parquet(tmp_path / "a.parquet", columns)

    with pytest.raises(UserError, match=message):
        find_records(tmp_path, {}, None)


def test_a_damaged_group_of_rows_is_told_and_the_next_is_read(tmp_path: Path) -> None:
    columns = {"image": [image(n) for n in range(6)], "label": ["cat"] * 6}
    path = parquet(
        tmp_path / "a.parquet", columns, row_group_size=2, compression="zstd", use_dictionary=False
    )
    chunk = pq.read_metadata(path).row_group(1).column(0)
    data = bytearray(path.read_bytes())
    start = chunk.data_page_offset
    data[start : start + chunk.total_compressed_size] = b"\xff" * chunk.total_compressed_size
    path.write_bytes(data)

    records = read(found(tmp_path))

    assert [record.source for record in records] == [f"a.parquet#{n}" for n in (0, 1, 2, 4, 5)]
    assert records[2].reason.startswith("row 2: the rest of its group of rows cannot be read")


def test_a_damaged_file_among_others_is_told(tmp_path: Path) -> None:
    parquet(tmp_path / "a.parquet", {"image": [image()], "label": ["cat"]})
    (tmp_path / "b.parquet").write_bytes(b"PAR1 and no more")
    parquet(tmp_path / "c.parquet", {"image": [image()], "labels": ["cat"]})

    records = read(found(tmp_path))

    assert [record.label for record in records] == ["cat", "", ""]
    assert "cannot be read as Parquet" in records[1].reason
    assert "it has no column 'label'" in records[2].reason


@pytest.mark.parametrize("metadata", [b"[]", b"{", b'{"info": 1}', b"[" * 100_000, b"\xff"])
def test_damaged_metadata_is_refused(tmp_path: Path, metadata: bytes) -> None:
    table = pa.table({"image": [image()], "label": [0]})
    table = table.replace_schema_metadata({"huggingface": metadata})
    pq.write_table(table, tmp_path / "a.parquet")

    with pytest.raises(UserError, match="huggingface is damaged"):
        find_records(tmp_path, {}, None)


def test_a_file_cannot_have_code_run_by_being_read(tmp_path: Path) -> None:
    # What pyarrow before 14.0.1 unpickled (CVE-2023-47248), here as such files say it.
    canary = tmp_path / "ran"
    code = f"cbuiltins\nexec\n(Vopen({str(canary)!r}, 'w')\ntR.".encode()
    metadata = {
        "ARROW:extension:name": "arrow.py_extension_type",
        "ARROW:extension:metadata": code,
    }
    schema = pa.schema(
        [pa.field("image", pa.binary(), metadata=metadata), pa.field("label", pa.string())]
    )
    table = pa.table([[image()], ["cat"]], schema)
    pq.write_table(table, tmp_path / "a.parquet")

    with pytest.raises(UserError, match=r"a\.parquet"):
        read(found(tmp_path))
    assert not canary.exists()


def test_tfrecords_beside_parquet_are_refused(tmp_path: Path) -> None:
    write(tmp_path / "a.tfrecord", [{"image": image(), "label": b"cat"}])
    parquet(tmp_path / "a.parquet", {"image": [image()], "label": ["cat"]})

    with pytest.raises(UserError, match="both TFRecord files"):
        find_records(tmp_path, {}, None)
