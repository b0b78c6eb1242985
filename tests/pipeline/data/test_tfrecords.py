import gzip
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np
import pytest
import tensorflow as tf

from components.tf_example import RecordError, parse_example
from pipeline.data.tfrecords import (
    BadRecord,
    Record,
    RecordWriter,
    read_record_at,
    read_records,
    serialize_example,
)

# Of all lengths that matter: none, the checksums' own block sizes, above a buffer's.
RECORDS = (*(bytes(range(256)) * 16 * n + b"x" * n for n in (0, 1, 2, 3, 300)), b"", b"last")
FEATURES = {"label": "Katze äöü".encode(), "image": b"\xff\xd8\x00" * 9, "": b"", "a": b"\0"}
NOT_UTF8 = b"\x0a\x0a\x0a\x08\x0a\x02\xff\xfe\x12\x02\x0a\x00"  # a feature called ff fe


def write(path: Path, records: Sequence[bytes] = RECORDS) -> list[int]:
    with RecordWriter(path) as writer:
        return [writer.write(record) for record in records]


def good(path: Path, **options: int) -> list[bytes]:
    return [item.data for item in read_records(path, **options) if isinstance(item, Record)]


def bad(path: Path, **options: int) -> list[BadRecord]:
    return [item for item in read_records(path, **options) if isinstance(item, BadRecord)]


def damage(path: Path, offset: int, by: bytes = b"\xa5") -> None:
    data = bytearray(path.read_bytes())
    assert data[offset : offset + len(by)] != by
    data[offset : offset + len(by)] = by
    path.write_bytes(data)


def header(length: int) -> bytes:
    packed = struct.pack("<Q", length)
    crc = google_crc32c.value(packed)
    return packed + struct.pack("<I", ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF)


def test_tensorflow_reads_what_we_write(tmp_path: Path) -> None:
    write(tmp_path / "ours")

    read = tf.data.TFRecordDataset(str(tmp_path / "ours"))

    assert [record.numpy() for record in read] == list(RECORDS)


@pytest.mark.parametrize("compression", ["", "GZIP"])
def test_we_read_what_tensorflow_writes(tmp_path: Path, compression: str) -> None:
    with tf.io.TFRecordWriter(str(tmp_path / "theirs"), compression) as writer:
        for record in RECORDS:
            writer.write(record)

    assert good(tmp_path / "theirs") == list(RECORDS)
    assert bad(tmp_path / "theirs") == []


def test_we_write_the_bytes_that_tensorflow_writes(tmp_path: Path) -> None:
    write(tmp_path / "ours")
    with tf.io.TFRecordWriter(str(tmp_path / "theirs")) as writer:
        for record in RECORDS:
            writer.write(record)

    assert (tmp_path / "ours").read_bytes() == (tmp_path / "theirs").read_bytes()


def example(features: dict[str, bytes]) -> Any:
    feature = {
        name: tf.train.Feature(bytes_list=tf.train.BytesList(value=[value]))
        for name, value in features.items()
    }
    return tf.train.Example(features=tf.train.Features(feature=feature))


def test_an_example_is_serialized_so_that_tensorflow_reads_it() -> None:
    ours = serialize_example(FEATURES)

    assert tf.train.Example.FromString(ours) == example(FEATURES)
    assert {name: list(f.values) for name, f in parse_example(ours).items()} == {
        name: [value] for name, value in FEATURES.items()
    }


@pytest.mark.parametrize("name", FEATURES)
def test_an_example_is_serialized_to_the_bytes_that_tensorflow_makes(name: str) -> None:
    for size in (0, 1, 100, 127, 128, 20_000, 3_000_000):
        features = {name: b"x" * size}
        assert serialize_example(features) == example(features).SerializeToString()


def test_features_are_serialized_in_the_order_of_their_names() -> None:
    ours = serialize_example(FEATURES)

    assert ours == serialize_example(dict(reversed(FEATURES.items())))
    assert list(parse_example(ours)) == ["", "a", "image", "label"]


def test_features_of_every_kind_are_parsed() -> None:
    def feature(**kind: Any) -> Any:
        return tf.train.Feature(**kind)

    theirs = tf.train.Example(
        features=tf.train.Features(
            feature={
                "ints": feature(int64_list=tf.train.Int64List(value=[-1, 2**40])),
                "floats": feature(float_list=tf.train.FloatList(value=[0.5, -2])),
                "words": feature(bytes_list=tf.train.BytesList(value=[b"a", b""])),
                "no ints": feature(int64_list=tf.train.Int64List()),
                "nothing": feature(),
            }
        )
    )

    parsed = parse_example(theirs.SerializeToString())

    assert {name: (f.kind, list(f.values)) for name, f in parsed.items()} == {
        "ints": ("int64", [-1, 2**40]),
        "floats": ("float", [0.5, -2]),
        "words": ("bytes", [b"a", b""]),
        "no ints": ("int64", []),
        "nothing": ("empty", []),
    }


@pytest.mark.parametrize(
    "record", [b"\xff\xd8\xff\xe0 not a message", b"\x0a\xff\xff\xff\xff\x0f", NOT_UTF8]
)
def test_what_is_not_an_example_is_refused(record: bytes) -> None:
    with pytest.raises(RecordError, match=r"not a tf\.Example"):
        parse_example(record)


@pytest.mark.parametrize("pack", [bytes, gzip.compress], ids=["plain", "gzip"])
def test_a_record_is_read_by_its_offset(tmp_path: Path, pack: Any) -> None:
    offsets = write(tmp_path / "records")
    (tmp_path / "records").write_bytes(pack((tmp_path / "records").read_bytes()))

    assert [read_record_at(tmp_path / "records", offset) for offset in offsets] == list(RECORDS)
    assert [item.offset for item in read_records(tmp_path / "records")] == offsets


@pytest.mark.parametrize("offset", [1, 5, 10**9])
def test_an_offset_at_which_no_record_begins_is_refused(tmp_path: Path, offset: int) -> None:
    write(tmp_path / "records")

    with pytest.raises(RecordError):
        read_record_at(tmp_path / "records", offset)


@pytest.mark.parametrize("pack", [bytes, gzip.compress], ids=["plain", "gzip"])
@pytest.mark.parametrize("place", [12, -1], ids=["its bytes", "its checksum"])
def test_one_damaged_record_is_told_and_the_others_are_read(
    tmp_path: Path, pack: Any, place: int
) -> None:
    path = tmp_path / "records"
    offsets = write(path)
    damage(path, offsets[2] + place if place > 0 else offsets[3] + place)
    path.write_bytes(pack(path.read_bytes()))

    assert good(path) == [*RECORDS[:2], *RECORDS[3:]]
    assert bad(path) == [BadRecord(offsets[2], "the record does not match its checksum")]


@pytest.mark.parametrize("place", [0, 7, 8], ids=["length", "length's end", "checksum"])
def test_after_a_damaged_length_reading_goes_on_with_the_next_record(
    tmp_path: Path, place: int
) -> None:
    path = tmp_path / "records"
    offsets = write(path)
    damage(path, offsets[4] + place)  # a record longer than the blocks that are searched at a time

    assert good(path) == [*RECORDS[:4], *RECORDS[5:]]
    (item,) = bad(path)
    assert item.offset == offsets[4]
    assert f"{offsets[5] - offsets[4]:,} bytes were passed over" in item.reason


def test_a_length_above_what_the_file_has_is_not_believed(tmp_path: Path) -> None:
    path = tmp_path / "records"
    offsets = write(path, [b"first", b"hostile", b"third"])
    damage(path, offsets[1], header(2**63))

    assert good(path) == [b"first", b"third"]
    assert [item.offset for item in bad(path)] == [offsets[1]]


def test_a_gzipped_length_above_the_limit_takes_no_memory(tmp_path: Path) -> None:
    path = tmp_path / "records"
    write(path, [b"first"])
    path.write_bytes(gzip.compress(path.read_bytes() + header(2**63) + b"rest"))

    assert good(path) == [b"first"]
    (item,) = bad(path)
    assert item.offset == 21
    assert "ends within" in item.reason


@pytest.mark.parametrize("pack", [bytes, gzip.compress], ids=["plain", "gzip"])
def test_a_record_above_the_limit_is_passed_over(tmp_path: Path, pack: Any) -> None:
    path = tmp_path / "records"
    write(path, [b"first", b"x" * 101, b"y" * 100])
    path.write_bytes(pack(path.read_bytes()))

    assert good(path, max_bytes=100) == [b"first", b"y" * 100]
    assert [item.reason for item in bad(path, max_bytes=100)] == [
        "the record has 101 bytes, above the limit of 100"
    ]


@pytest.mark.parametrize("pack", [bytes, gzip.compress], ids=["plain", "gzip"])
@pytest.mark.parametrize("lost", [1, 4, 5, 9, 17])
def test_a_file_that_ends_early_gives_the_records_before(
    tmp_path: Path, pack: Any, lost: int
) -> None:
    path = tmp_path / "records"
    offsets = write(path, [b"first", b"second", b"3"])
    path.write_bytes(pack(path.read_bytes()[:-lost]))

    assert good(path) == [b"first", b"second"] if lost < 17 else [b"first"]
    assert [item.offset for item in bad(path)] == ([offsets[2]] if lost < 17 else [])


def test_a_gzipped_file_that_ends_early_gives_the_records_before(tmp_path: Path) -> None:
    path = tmp_path / "records"
    noise = np.random.default_rng(0).bytes(30_000)
    offsets = write(path, [b"first", noise, noise[::-1], b"last"])
    packed = gzip.compress(path.read_bytes())
    path.write_bytes(packed[: len(packed) * 3 // 4])

    assert good(path) == [b"first", noise]
    assert [item.offset for item in bad(path)] == [offsets[2]]


def test_a_file_of_zeros_is_one_bad_record(tmp_path: Path) -> None:
    (tmp_path / "zeros").write_bytes(bytes(3_000_000))

    assert good(tmp_path / "zeros") == []
    assert [item.offset for item in bad(tmp_path / "zeros")] == [0]


def test_many_false_headers_end_the_search(tmp_path: Path) -> None:
    path = tmp_path / "records"
    write(path, [b"found only by those who look for ever"])
    path.write_bytes(b"damaged" + header(30) * 1000 + path.read_bytes())

    assert good(path) == []
    assert [item.offset for item in bad(path)] == [0]


def test_a_plain_file_may_begin_like_a_gzipped_one(tmp_path: Path) -> None:
    record = bytes(0x088B1F)
    write(tmp_path / "records", [record])
    assert (tmp_path / "records").read_bytes().startswith(b"\x1f\x8b\x08")

    assert good(tmp_path / "records") == [record]


def test_an_empty_file_holds_no_record(tmp_path: Path) -> None:
    (tmp_path / "records").touch()

    assert list(read_records(tmp_path / "records")) == []
