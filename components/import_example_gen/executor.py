"""Runs ImportExampleGen inside TFX, whose driver has found the files and their fingerprint."""

from __future__ import annotations

from typing import Any

from tfx import types
from tfx.components.example_gen.import_example_gen import executor
from tfx.components.util import examples_utils
from tfx.dsl.io import fileio
from tfx.proto import example_gen_pb2
from tfx.types import artifact_utils
from tfx.types import standard_component_specs as names
from tfx.utils import proto_utils

from components.import_example_gen.place import place


class Executor(executor.Executor):
    """Puts each split's files where the artifact has that split.

    What is in them is neither read nor checked; the first reader does that, StatisticsGen. The
    artifact carries the same properties as TFX's own, so that all of its steps read it. They take
    plain files and gzipped ones, and go by the suffix.
    """

    def Do(  # noqa: N802
        self,
        input_dict: dict[str, list[types.Artifact]],
        output_dict: dict[str, list[types.Artifact]],
        exec_properties: dict[str, Any],
    ) -> None:
        """See the base class.

        Raises:
            ValueError: TFX was asked to make splits, which takes reading the examples.
            FileNotFoundError: a split has no file.
        """
        self._log_startup(input_dict, output_dict, exec_properties)
        given = example_gen_pb2.Input()
        proto_utils.json_to_proto(exec_properties[names.INPUT_CONFIG_KEY], given)
        wanted = example_gen_pb2.Output()
        proto_utils.json_to_proto(exec_properties[names.OUTPUT_CONFIG_KEY], wanted)
        if wanted.split_config.splits:
            raise ValueError("expected examples that are in splits; received some to be split")
        examples = artifact_utils.get_single_instance(output_dict[names.EXAMPLES_KEY])
        examples.split_names = artifact_utils.encode_split_names([s.name for s in given.splits])
        for split in given.splits:
            pattern = f"{exec_properties[names.INPUT_BASE_KEY].rstrip('/')}/{split.pattern}"
            files = sorted(fileio.glob(pattern))
            if not files:
                raise FileNotFoundError(f"no examples at {pattern}")
            place(files, artifact_utils.get_split_uri([examples], split.name))
        examples_utils.set_payload_format(examples, exec_properties[names.OUTPUT_DATA_FORMAT_KEY])
        # TFX's only name for TFRecords, whether or not they are gzipped.
        examples_utils.set_file_format(examples, "tfrecords_gzip")
