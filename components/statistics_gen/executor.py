"""Runs StatisticsGen inside TFX."""

from __future__ import annotations

from typing import Any

from tfx import types
from tfx.components.statistics_gen.executor import DEFAULT_FILE_NAME
from tfx.dsl.components.base import base_beam_executor
from tfx.types import artifact_utils
from tfx.utils import io_utils

from components.examples import example_files
from components.statistics_gen.describe import describe


class Executor(base_beam_executor.BaseBeamExecutor):
    """Hands each split's files to `describe`."""

    def Do(  # noqa: N802
        self,
        input_dict: dict[str, list[types.Artifact]],
        output_dict: dict[str, list[types.Artifact]],
        exec_properties: dict[str, Any],
    ) -> None:
        """See the base class."""
        self._log_startup(input_dict, output_dict, exec_properties)
        examples = artifact_utils.get_single_instance(input_dict["examples"])
        statistics = artifact_utils.get_single_instance(output_dict["statistics"])
        schema_uri = artifact_utils.get_single_uri(input_dict["schema"])
        schema = io_utils.SchemaReader().read(io_utils.get_only_uri_in_dir(schema_uri))
        statistics.split_names = examples.split_names
        statistics.span = examples.span
        with self._make_beam_pipeline() as pipeline:
            for split in artifact_utils.decode_split_names(examples.split_names):
                folder = artifact_utils.get_split_uri([examples], split)
                output = artifact_utils.get_split_uri([statistics], split)
                described = describe(
                    example_files([io_utils.all_files_pattern(folder)]),
                    schema,
                    f"{output}/{DEFAULT_FILE_NAME}",
                )
                _ = pipeline | f"Describe[{split}]" >> described
