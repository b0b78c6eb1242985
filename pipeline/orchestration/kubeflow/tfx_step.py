"""Has TFX run a step, whose own entry point is made for Vertex AI; see `step`, beside this."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from tfx.components.example_gen.base_example_gen_executor import BaseExampleGenExecutor
from tfx.orchestration.kubeflow.v2.container import kubeflow_v2_run_executor
from tfx.orchestration.kubeflow.v2.file_based_example_gen import driver
from tfx.utils import import_utils

from pipeline.orchestration.kubeflow.invocation import ExecutorInput


def run_on_vertex(options: argparse.Namespace, beam_args: list[str]) -> None:
    """Hands over to TFX's own entry point what came, untouched."""
    kubeflow_v2_run_executor.main((options, beam_args))


def run_by_tfx(
    scratch: Path,
    executor_input: ExecutorInput,
    options: argparse.Namespace,
    beam_args: list[str],
) -> dict[str, Any]:
    """Has TFX run the step; returns its ExecutorOutput.

    Args:
        scratch: an empty folder.
        executor_input: with artifacts where TFX can read and write them.
        options: of the command line.
        beam_args: the rest of it.
    """
    # TFX names a step's execution by the folder that its output file is in.
    output_file = scratch / executor_input.run_name / "executor_output.json"

    def invoke() -> argparse.Namespace:
        document = executor_input.document
        outputs = {**document["outputs"], "outputFile": str(output_file)}
        invocation = json.dumps({**document, "outputs": outputs})
        return argparse.Namespace(
            **{**vars(options), "json_serialized_invocation_args": invocation}
        )

    executor = import_utils.import_class_by_path(options.executor_class_path)
    if issubclass(executor, BaseExampleGenExecutor):
        driver.main(invoke())
        _merge(json.loads(output_file.read_text()), executor_input.outputs)
    kubeflow_v2_run_executor.main((invoke(), beam_args))
    output: dict[str, Any] = json.loads(output_file.read_text())
    return output


def _merge(driver_output: dict[str, Any], artifacts: dict[str, Any]) -> None:
    """Adds the metadata that the driver gave to output artifacts."""
    for name, listed in driver_output.get("artifacts", {}).items():
        (artifact,) = artifacts[name]["artifacts"]
        (driven,) = listed["artifacts"]
        metadata = {k: v for k, v in driven.get("metadata", {}).items() if v is not None}
        artifact["metadata"] = {**artifact.get("metadata", {}), **metadata}
