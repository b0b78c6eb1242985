"""What is wanted of a record is read, however the record is laid out, and damage is named."""

from __future__ import annotations

from pathlib import Path

import pytest
import tensorflow as tf

from components import records
from components.records import open_records, read_at, skim

IMAGES = [b"\xff" * size for size in (0, 1, 127, 128, 70_000)]


def feature(*values: bytes) -> tf.train.Feature:
    return tf.train.Feature(bytes_list=tf.train.BytesList(value=values))


def example(**features: tf.train.Feature) -> bytes:
    content: bytes = tf.train.Example(
        features=tf.train.Features(feature=features)
    ).SerializeToString(deterministic=True)
    return content


EXAMPLES = [
    example(
        image=feature(image), label=feature(f"Klasse {i} ü".encode()), image_id=feature(b"%d" % i)
    )
    for i, image in enumerate(IMAGES)
]


def write(file: Path, content: list[bytes]) -> str:
    kind = "GZIP" if file.suffix == ".gz" else ""
    with tf.io.TFRecordWriter(str(file), kind) as writer:
        for record in content:
            writer.write(record)
    return str(file)


@pytest.mark.parametrize("name", ["train.tfrecord", "train.gz", "train"])
def test_labels_are_read_from_plain_and_gzipped_files(name: str, tmp_path: Path) -> None:
    file = write(tmp_path / name, EXAMPLES)
    found = [record.features for record in skim(file, ("label", "image_id"))]
    assert found == [
        {"label": f"Klasse {i} ü".encode(), "image_id": b"%d" % i} for i in range(len(IMAGES))
    ]


@pytest.mark.parametrize("name", ["train.tfrecord", "train.gz"])
def test_a_record_is_read_at_its_offset(name: str, tmp_path: Path) -> None:
    file = write(tmp_path / name, EXAMPLES)
    offsets = [record.offset for record in skim(file, ())]
    with open_records(file) as opened:
        assert [read_at(opened, offset) for offset in offsets] == EXAMPLES


def test_of_a_plain_file_the_images_are_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = write(tmp_path / "train.tfrecord", EXAMPLES)
    monkeypatch.setattr(records, "_parsed", None)
    assert len(list(skim(file, ("label",)))) == len(EXAMPLES)


ENTRY = tf.train.Features.FeatureEntry
LABEL = example(label=feature(b"cat"))
UNUSUAL = {
    "an example without features": (b"", {}),
    "no such feature": (example(other=feature(b"x")), {}),
    "a feature without a value": (example(label=feature()), {}),
    "a feature of numbers": (
        example(label=tf.train.Feature(int64_list=tf.train.Int64List(value=[1]))),
        {},
    ),
    "the first of several values": (example(label=feature(b"cat", b"dog")), {"label": b"cat"}),
    "features in two pieces": (example(other=feature(b"x")) + LABEL, {"label": b"cat"}),
    "the value before the key": (
        b"\x0a\x10\x0a\x0e\x12\x05\x0a\x03\x0a\x01x\x0a\x05label",
        {"label": b"x"},
    ),
    "an unknown field": (LABEL + b"\x7a\x01x", {"label": b"cat"}),
    "a feature twice, of which the last counts": (
        b"\x0a\x20" + 2 * b"\x0a\x0e\x0a\x05label\x12\x05\x0a\x03\x0a\x01x",
        {"label": b"x"},
    ),
}


@pytest.mark.parametrize(("record", "expected"), UNUSUAL.values(), ids=UNUSUAL)
def test_it_says_what_protobuf_says(
    record: bytes, expected: dict[str, bytes], tmp_path: Path
) -> None:
    file = write(tmp_path / "unusual", [LABEL, record, LABEL])
    found = [each.features for each in skim(file, ("label",))]
    assert found == [{"label": b"cat"}, expected, {"label": b"cat"}]


DAMAGED = {
    "cut in the header": lambda content: content[:5],
    "cut in the data": lambda content: content[:40],
    "cut in the last checksum": lambda content: content[:-1],
    "an absurd length": lambda content: b"\xff" * 8 + content[8:],
    "no tf.Example": lambda content: content[:12] + b"\xff" * (len(content) - 16) + content[-4:],
}


@pytest.mark.parametrize("damage", DAMAGED.values(), ids=DAMAGED)
def test_damage_is_named_with_the_file_and_the_place(damage, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    file = Path(write(tmp_path / "damaged", [EXAMPLES[2]]))
    file.write_bytes(damage(file.read_bytes()))
    with pytest.raises(ValueError, match=r"damaged: .*the record at byte 0"):
        list(skim(str(file), ("label",)))
