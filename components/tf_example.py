"""tf.Examples without TensorFlow, which costs seconds and 550 MB a process.

tensorflow/core/example/example.proto: a map of names to lists of bytes, of int64 or of float32.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

from google.protobuf import descriptor_pb2, descriptor_pool, message, message_factory

FeatureKind = Literal["bytes", "int64", "float", "empty"]
_KINDS: Final[tuple[FeatureKind, ...]] = ("bytes", "int64", "float")


class RecordError(Exception):
    """A record cannot be read; the message says why, without naming the file."""


@dataclass(frozen=True)
class Feature:
    """A tf.Example's feature: `values` are all bytes, int or float, as `kind` says."""

    kind: FeatureKind
    values: Sequence[Any]


def parse_example(record: bytes) -> Mapping[str, Feature]:
    """Returns the features of a serialized tf.Example, or a tf.SequenceExample's context.

    Raises:
        RecordError: The record is not a tf.Example.
    """
    try:
        example = _MESSAGES["Example"].FromString(record)
        entries = example.features.feature
        return {str(entry.key, "utf-8"): _feature(entry.value) for entry in entries}
    except (message.DecodeError, UnicodeDecodeError) as error:
        raise RecordError("the record is not a tf.Example") from error


def parse_feature(serialized: bytes) -> Feature:
    """Returns a serialized feature.

    Raises:
        RecordError: It is none.
    """
    try:
        return _feature(_MESSAGES["Feature"].FromString(serialized))
    except message.DecodeError as error:
        raise RecordError("a part of the record is not a tf.Feature") from error


def _feature(feature: Any) -> Feature:
    for kind in _KINDS:
        if feature.HasField(f"{kind}_list"):
            return Feature(kind, getattr(feature, f"{kind}_list").value)
    return Feature("empty", ())


def _message_classes() -> dict[str, Any]:
    """Returns classes of messages that are tf.Examples on the wire, and their parts, by name.

    The map is declared as what it is there, repeated entries, with bytes for keys: protobuf prints
    a line for each text that is not UTF-8. The descriptors live in a pool of their own, because
    TensorFlow puts its own into the default one.
    """
    field = descriptor_pb2.FieldDescriptorProto
    one, many = field.LABEL_OPTIONAL, field.LABEL_REPEATED

    def value(name: str, number: int, label: int, kind: int) -> Any:
        return field(name=name, number=number, label=label, type=kind)

    def part(name: str, number: int, label: int, of: str, **options: int) -> Any:
        of = f".edgeline.{of}"
        return field(
            name=name, number=number, label=label, type=field.TYPE_MESSAGE, type_name=of, **options
        )

    messages = {
        "BytesList": [value("value", 1, many, field.TYPE_BYTES)],
        "FloatList": [value("value", 1, many, field.TYPE_FLOAT)],
        "Int64List": [value("value", 1, many, field.TYPE_INT64)],
        "Feature": [
            part("bytes_list", 1, one, "BytesList", oneof_index=0),
            part("float_list", 2, one, "FloatList", oneof_index=0),
            part("int64_list", 3, one, "Int64List", oneof_index=0),
        ],
        "Entry": [value("key", 1, one, field.TYPE_BYTES), part("value", 2, one, "Feature")],
        "Features": [part("feature", 1, many, "Entry")],
        "Example": [part("features", 1, one, "Features")],
    }
    file = descriptor_pb2.FileDescriptorProto(
        name="edgeline/example.proto", package="edgeline", syntax="proto3"
    )
    for name, fields in messages.items():
        file.message_type.add(name=name, field=fields)
        if name == "Feature":
            file.message_type[-1].oneof_decl.add(name="kind")
    pool = descriptor_pool.DescriptorPool()
    pool.AddSerializedFile(file.SerializeToString())
    return {name: _class_of(pool, f"edgeline.{name}") for name in messages}


def _class_of(pool: Any, name: str) -> Any:
    descriptor = pool.FindMessageTypeByName(name)
    if hasattr(message_factory, "GetMessageClass"):
        return message_factory.GetMessageClass(descriptor)
    return message_factory.MessageFactory(pool).GetPrototype(descriptor)  # protobuf before 4.22


_MESSAGES: Final = _message_classes()
