"""The entry point of every TFX step in the cluster: `python -m pipeline.kubeflow.step`.

TFX's own entry point is made for Vertex AI, and open-source Kubeflow differs from that:

- it sends input artifacts without their types, which are in the component's specification;
- it stages artifacts in folders, see `pipeline.kubeflow.staging`;
- it never runs the driver of file-based ExampleGens, which finds the files and their fingerprint;
- it makes no folders for outputs;
- its driver adds outputs of its own, such as the log, whose file the launcher has open by now. Only
  what the component declares is prepared and handed to TFX; the compiler has each step told what
  that is, as no name is safe from a later driver.

On Vertex AI, where the output file is a `gs://` URI, TFX's own entry point takes over untouched.
"""

from __future__ import annotations

import argparse
import json
import logging
import tempfile
from pathlib import Path
from typing import Any

from tfx.components.example_gen.base_example_gen_executor import BaseExampleGenExecutor
from tfx.orchestration.kubeflow.v2.container import kubeflow_v2_run_executor
from tfx.orchestration.kubeflow.v2.file_based_example_gen import driver
from tfx.utils import import_utils

from pipeline.errors import UserError
from pipeline.kubeflow.invocation import ExecutorInput, main_of
from pipeline.kubeflow.names import OUTPUTS_SPEC
from pipeline.kubeflow.staging import map_artifacts, staged, unstaged

# Those that read and write URIs as they are, beside TFX's own.
REACHABLE = ("tfx.", "components.import_example_gen.", "components.statistics_gen.")
LOCAL_RUNNERS = ("DirectRunner", "FnApiRunner", "PrismRunner")

_LOG = logging.getLogger(__name__)


def run(arguments: list[str]) -> None:
    """Runs a TFX step.

    Args:
        arguments: of the command line, as TFX's compiler and ours write them.

    Raises:
        UserError: a distributed runner's workers could not reach the artifacts.
        Exception: whatever the step's executor raises.
    """
    options, beam_args = _parse(arguments)
    executor_input = ExecutorInput(options.json_serialized_invocation_args)
    if executor_input.output_file.startswith("gs://"):
        kubeflow_v2_run_executor.main((options, beam_args))
        return
    inputs = json.loads(options.json_serialized_inputs_spec_args)
    executor_input.keep_declared(inputs, json.loads(options.json_serialized_outputs_spec_args))
    _fill_types(executor_input.inputs, inputs)
    executor_input.log(_LOG)
    if runner := _distributed_runner(beam_args):
        _check_reachable(runner, options.executor_class_path, executor_input)
    else:
        for artifacts in (executor_input.inputs, executor_input.outputs):
            map_artifacts(artifacts, staged)
        _make_folders(executor_input.outputs)
    with tempfile.TemporaryDirectory() as scratch:
        output = _run_in(Path(scratch), executor_input, options, beam_args)
    map_artifacts(output.get("artifacts", {}), unstaged)
    executor_input.write_output(output)


def _run_in(
    scratch: Path,
    executor_input: ExecutorInput,
    options: argparse.Namespace,
    beam_args: list[str],
) -> dict[str, Any]:
    """Has TFX run the step; returns its ExecutorOutput."""
    # TFX names a step's execution by the folder that its output file is in.
    folder = scratch / (executor_input.run_id or Path(executor_input.output_file).parent.name)
    output_file = folder / "executor_output.json"

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


def _parse(arguments: list[str]) -> tuple[argparse.Namespace, list[str]]:
    parser = argparse.ArgumentParser(prog="python -m pipeline.kubeflow.step", allow_abbrev=False)
    parser.add_argument("--executor_class_path", required=True)
    parser.add_argument("--json_serialized_invocation_args", required=True)
    parser.add_argument("--json_serialized_inputs_spec_args", required=True)
    parser.add_argument(OUTPUTS_SPEC, required=True)
    return parser.parse_known_args(arguments)


def _distributed_runner(beam_args: list[str]) -> str | None:
    """The runner whose workers are other machines, or None where this pod does the work."""
    runners = [each.partition("=")[2] for each in beam_args if each.startswith("--runner=")]
    return runners[-1] if runners and runners[-1] not in LOCAL_RUNNERS else None


def _check_reachable(runner: str, executor: str, executor_input: ExecutorInput) -> None:
    """Other machines see no folder of this pod: TFX's steps then work on `gs://` URIs as they are.

    Raises:
        UserError: the step works on folders, or an artifact is elsewhere.
    """
    everything = (*executor_input.inputs.values(), *executor_input.outputs.values())
    uris = [artifact["uri"] for listed in everything for artifact in listed["artifacts"]]
    elsewhere = [uri for uri in uris if not uri.startswith("gs://")]
    if elsewhere or not executor.startswith(REACHABLE):
        raise UserError(
            f"--runner={runner}: its workers can't see {next(iter(elsewhere), 'local folders')}, "
            "which is staged in this pod; in the cluster a distributed runner takes a gs:// "
            "pipeline root and one of StatisticsGen, Transform and Evaluator"
        )


def _fill_types(artifacts: dict[str, Any], specification: dict[str, Any]) -> None:
    """Gives input artifacts that have none the type that the component declares."""
    for name, listed in artifacts.items():
        for artifact in listed.get("artifacts", []):
            if not any(artifact.get("type", {}).values()):
                artifact["type"] = specification["artifacts"][name]["artifactType"]


def _make_folders(artifacts: dict[str, Any]) -> None:
    for listed in artifacts.values():
        for artifact in listed.get("artifacts", []):
            Path(artifact["uri"]).mkdir(parents=True, exist_ok=True)


def _merge(driver_output: dict[str, Any], artifacts: dict[str, Any]) -> None:
    """Adds the metadata that the driver gave to output artifacts."""
    for name, listed in driver_output.get("artifacts", {}).items():
        (artifact,) = artifacts[name]["artifacts"]
        (driven,) = listed["artifacts"]
        metadata = {k: v for k, v in driven.get("metadata", {}).items() if v is not None}
        artifact["metadata"] = {**artifact.get("metadata", {}), **metadata}


if __name__ == "__main__":
    main_of(run)
