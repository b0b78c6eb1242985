"""Runs the pipeline on this machine, step by step, telling what each step does.

TFX's LocalDagRunner says nothing but log lines, and can't leave a single step out of the cache.
This one launches the same nodes in the same way, and reports each as running, done, cached or
failed.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from datetime import datetime
from pathlib import Path
from typing import Any

from ml_metadata.proto import metadata_store_pb2
from tfx.dsl.compiler import compiler, constants
from tfx.orchestration import metadata
from tfx.orchestration.local import runner_utils
from tfx.orchestration.pipeline import Pipeline
from tfx.orchestration.portable import launcher, runtime_parameter_utils

from pipeline.orchestration.local_step import State, Step


class StepFailed(Exception):  # noqa: N818 - names what happened
    """A step raised; the cause is its exception."""

    def __init__(self, step: Step) -> None:
        super().__init__(f"{step.name} failed")
        self.step = step


def run(
    pipeline: Pipeline, never_cached: Collection[str], report: Callable[[Step], None]
) -> dict[str, Step]:
    """Runs every step in order, reusing what earlier runs computed from the same inputs.

    Args:
        pipeline: with a metadata connection of its own.
        never_cached: names of steps that run each time.
        report: called when a step starts and when it ends.

    Returns:
        The finished steps by name.

    Raises:
        StepFailed: a step raised; the ones before it stay cached.
    """
    ir = compiler.Compiler().compile(pipeline)
    runtime_parameter_utils.substitute_runtime_parameter(
        ir, {constants.PIPELINE_RUN_ID_PARAMETER_NAME: datetime.now().isoformat()}
    )
    deployment = runner_utils.extract_local_deployment_config(ir)
    connection = deployment.metadata_connection_config
    connection = getattr(connection, connection.WhichOneof("connection_config"))

    finished = {}
    for node in ir.nodes:
        info = node.pipeline_node.node_info
        if info.id in never_cached:
            node.pipeline_node.execution_options.caching_options.enable_cache = False
        step_launcher = launcher.Launcher(
            pipeline_node=node.pipeline_node,
            mlmd_connection=metadata.Metadata(connection),
            pipeline_info=ir.pipeline_info,
            pipeline_runtime_spec=ir.runtime_spec,
            executor_spec=runner_utils.extract_executor_spec(deployment, info.id),
            custom_driver_spec=runner_utils.extract_custom_driver_spec(deployment, info.id),
        )
        finished[info.id] = _launch(info.id, step_launcher, connection, report)
    return finished


def _launch(
    name: str, step_launcher: launcher.Launcher, connection: Any, report: Callable[[Step], None]
) -> Step:
    report(Step(name, "running"))
    started = time.monotonic()
    try:
        execution_id = step_launcher.launch().execution_id
    except Exception as error:
        failed = Step(name, "failed", time.monotonic() - started)
        report(failed)
        raise StepFailed(failed) from error
    seconds = time.monotonic() - started
    with metadata.Metadata(connection) as store_handle:
        state, outputs = _outcome(store_handle.store, execution_id)
    step = Step(name, state, seconds, outputs)
    report(step)
    return step


def _outcome(store: Any, execution_id: int) -> tuple[State, dict[str, Path]]:
    """Reads from the metadata store what became of an execution: its state and its outputs."""
    (execution,) = store.get_executions_by_id([execution_id])
    cached = execution.last_known_state == metadata_store_pb2.Execution.CACHED
    paths = {
        event.artifact_id: event.path.steps[0].key
        for event in store.get_events_by_execution_ids([execution_id])
        if event.type == metadata_store_pb2.Event.OUTPUT
    }
    outputs = {
        paths[artifact.id]: Path(artifact.uri)
        for artifact in store.get_artifacts_by_id(list(paths))
    }
    return ("cached" if cached else "done"), outputs
