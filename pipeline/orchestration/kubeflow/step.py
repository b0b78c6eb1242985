"""The entry point of every TFX step in the cluster.

    python -m pipeline.orchestration.kubeflow.step

TFX's own entry point is made for Vertex AI, and open-source Kubeflow differs from that:

- it sends input artifacts without their types, which are in the component's specification;
- it stages artifacts in folders, see `staging`, beside this, and datasets are not among them,
  see `imports`;
- it never runs the driver of file-based ExampleGens, which finds the files and their fingerprint;
- it makes no folders for outputs;
- a step without TensorFlow needs no TFX either (`--step`): its imports would take most of the time;
- its driver adds outputs of its own, such as the log, whose file the launcher has open by now. Only
  what the component declares is prepared and handed to TFX; the compiler has each step told what
  that is, as no name is safe from a later driver.

On Vertex AI, where the output file is a `gs://` URI, TFX's own entry point takes over untouched.
"""

from __future__ import annotations

import argparse
import importlib
import json
import logging
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from components.folders import Folder, Step
from pipeline.errors import UserError
from pipeline.orchestration.kubeflow.invocation import ExecutorInput, main_of
from pipeline.orchestration.kubeflow.names import INPUTS_SPEC, OUTPUTS_SPEC, SHARED, STEP
from pipeline.orchestration.kubeflow.staging import Staged, artifacts_of

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
        # Here and below, not above: a step without TFX does not wait for it.
        from pipeline.orchestration.kubeflow.tfx_step import run_on_vertex

        run_on_vertex(options, beam_args)
        return
    inputs = json.loads(options.json_serialized_inputs_spec_args)
    executor_input.keep_declared(inputs, json.loads(options.json_serialized_outputs_spec_args))
    _fill_types(executor_input.inputs, inputs)
    executor_input.log(_LOG)
    # What is a function of folders needs no runner.
    runner = None if options.step else distributed_runner(beam_args)
    with ExitStack() as stack:
        if runner is None:
            place = Staged()
        elif options.shared:
            folder = tempfile.TemporaryDirectory(dir=options.shared)
            place = Staged(stack.enter_context(folder))
        else:
            _check_reachable(runner, options.executor_class_path, executor_input)
            place = None
        if place:
            place.take_in(executor_input)
        if options.step:
            output = _run_alone(options.step, executor_input)
        else:
            from pipeline.orchestration.kubeflow.tfx_step import run_by_tfx

            scratch = tempfile.TemporaryDirectory(dir=place.shared if place else None)
            output = run_by_tfx(
                Path(stack.enter_context(scratch)), executor_input, options, beam_args
            )
        if place:
            place.give_back(executor_input, output)
    executor_input.write_output(output)


def _run_alone(path: str, executor_input: ExecutorInput) -> dict[str, Any]:
    """Runs a step that is a function of folders; returns its ExecutorOutput."""
    module, _, name = path.rpartition(".")
    step: Step = getattr(importlib.import_module(module), name)
    inputs, outputs = (
        {
            name: Folder(Path(artifact["uri"]), dict(artifact.get("metadata", {})))
            for name, artifact in single.items()
        }
        for single in (_single(executor_input.inputs), _single(executor_input.outputs))
    )
    step(inputs, outputs, executor_input.parameters, executor_input.run_name)
    return {
        "artifacts": {
            name: {"artifacts": [{**artifact, "metadata": outputs[name].properties}]}
            for name, artifact in _single(executor_input.outputs).items()
        }
    }


def _parse(arguments: list[str]) -> tuple[argparse.Namespace, list[str]]:
    parser = argparse.ArgumentParser(
        prog="python -m pipeline.orchestration.kubeflow.step", allow_abbrev=False
    )
    parser.add_argument("--executor_class_path", required=True)
    parser.add_argument("--json_serialized_invocation_args", required=True)
    parser.add_argument(INPUTS_SPEC, required=True)
    parser.add_argument(OUTPUTS_SPEC, required=True)
    parser.add_argument(STEP)
    parser.add_argument(SHARED)
    return parser.parse_known_args(arguments)


def distributed_runner(beam_args: Sequence[str]) -> str | None:
    """The runner whose workers are other machines, or None where this pod does the work."""
    runners = [each.partition("=")[2] for each in beam_args if each.startswith("--runner=")]
    return runners[-1] if runners and runners[-1] not in LOCAL_RUNNERS else None


def _check_reachable(runner: str, executor: str, executor_input: ExecutorInput) -> None:
    """Other machines see no folder of this pod: TFX's steps then work on `gs://` URIs as they are.

    Raises:
        UserError: the step works on folders, or an artifact is elsewhere.
    """
    both = (executor_input.inputs, executor_input.outputs)
    uris = [artifact["uri"] for side in both for artifact in artifacts_of(side)]
    elsewhere = [uri for uri in uris if not uri.startswith("gs://")]
    if elsewhere or not executor.startswith(REACHABLE):
        raise UserError(
            f"--runner={runner}: its workers can't see {next(iter(elsewhere), 'local folders')}, "
            "which is staged in this pod; in the cluster a distributed runner takes a gs:// "
            "pipeline root and one of StatisticsGen, Transform and Evaluator, or a volume that "
            "the workers mount, too: kubeflow.beam_volume"
        )


def _fill_types(artifacts: dict[str, Any], specification: dict[str, Any]) -> None:
    """Gives input artifacts that have none the type that the component declares."""
    for name, listed in artifacts.items():
        for artifact in listed.get("artifacts", []):
            if not any(artifact.get("type", {}).values()):
                artifact["type"] = specification["artifacts"][name]["artifactType"]


def _single(artifacts: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The artifacts by name, of a step that has one of each."""
    return {name: listed["artifacts"][0] for name, listed in artifacts.items()}


if __name__ == "__main__":
    main_of(run)
