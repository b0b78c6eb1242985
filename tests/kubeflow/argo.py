"""What Argo does with a compiled pipeline: which task waits for which, and which is tried again.

There is no cluster here. A task's driver and launcher are Kubeflow's own programs
(`tests.kubeflow.programs`) or what is simulated of them (`tests.kubeflow.simulator`); either way
the image's commands really run, each in a pod of its own. Argo itself is followed from its sources,
and from Kubeflow's compiler for it (compiler/argocompiler): nobody waits between tries, and tasks
that Argo would run at once run one after another.

Left out, and refused when a specification has it: conditions, exit handlers, loops and nested
pipelines, which this pipeline does not use and its compiler refuses.
"""

from __future__ import annotations

import os
import re
import sys
import time
import uuid
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from graphlib import TopologicalSorter
from pathlib import Path
from typing import Any, Literal

import yaml
from google.protobuf import json_format
from kfp.pipeline_spec import pipeline_spec_pb2

from tests.kubeflow.sandbox import PROJECT, Pod, run

State = Literal["complete", "cached", "failed", "not run"]
Document = dict[str, Any]
Runner = Callable[[Pod, Path], int]

LOGS = "executor-logs"  # the output that the driver adds to those of the component
STAGING = {"minio": "/minio", "s3": "/s3", "gs": "/gcs"}
# Folders that are a pod's own, beside the staged ones: those that Kubeflow mounts for programs that
# write to their home, and the image's /tmp.
SCRATCH = ("/.local", "/.cache", "/.config", "/tmp")
# What kubeflow/Dockerfile says of user and environment, with this machine's Python and this project
# for the image's.
USER = "10001:10001"
IMAGE_ENVIRONMENT = {
    "PATH": f"{Path(sys.executable).parent}:/usr/local/bin:/usr/bin:/bin",
    "PYTHONPATH": f"{PROJECT}:{PROJECT / 'edge' / 'src'}",
    "PYTHONUNBUFFERED": "1",
    "HOME": "/tmp",
    "KERAS_HOME": "/tmp/keras",
}
# Kubernetes tells every pod of every service of the namespace, and Kubeflow of the metadata store.
SERVICES = {
    "METADATA_GRPC_SERVICE_HOST": "metadata-grpc-service",
    "METADATA_GRPC_SERVICE_PORT": "8080",
    "EDGELINE_REGISTRY_SERVICE_HOST": "10.0.0.1",
    "EDGELINE_REGISTRY_SERVICE_PORT": "5000",
    "EDGELINE_REGISTRY_PORT": "tcp://10.0.0.1:5000",
}

_EXPANDED = re.compile(r"\$(\$|\(([\w.-]+)\))")


class Refused(Exception):  # noqa: N818 - names what Kubeflow did
    """Kubeflow would refuse this, or fail the task itself."""


@dataclass
class Task:
    """What became of a task."""

    name: str
    state: State
    log: str = ""  # the step's own, of the last try
    error: str = ""  # why it failed, as Kubeflow has it
    tries: int = 0
    parameters: Document = field(default_factory=dict)
    artifacts: dict[str, int] = field(default_factory=dict)  # ids by output


@dataclass(frozen=True)
class Run:
    """What became of a run."""

    id: str
    tasks: Mapping[str, Task]

    @property
    def states(self) -> dict[str, State]:
        return {name: task.state for name, task in self.tasks.items()}

    @property
    def failed(self) -> list[str]:
        return [name for name, task in self.tasks.items() if task.state == "failed"]

    def check(self) -> None:
        """Fails the test with what there is to read, if a task failed."""
        for name in self.failed:
            raise AssertionError(f"{name}: {self.tasks[name].log[-5000:]}{self.tasks[name].error}")


class Cluster(ABC):
    """A cluster: an object store, a metadata store, a cache, claims and secrets.

    Args:
        folder: of everything it keeps.
        claims: folders by the name of a PersistentVolumeClaim.
        secrets: folders by the name of a Secret.
        runner: runs a pod and returns its exit code; its output goes to the given file.
        publish_logs: whether steps' logs are artifacts, as PUBLISH_LOGS of the API server says.
    """

    def __init__(
        self,
        folder: Path,
        claims: Mapping[str, Path],
        secrets: Mapping[str, Path],
        runner: Runner = run,
        publish_logs: bool = True,
    ) -> None:
        self._folder = folder
        self._volumes = {"pvc": claims, "secret": secrets}
        self._runner = runner
        self._publish_logs = publish_logs

    def run(
        self,
        file: Path,
        root: str,
        parameters: Mapping[str, Any] | None = None,
        until: str | None = None,
    ) -> Run:
        """Runs a compiled pipeline, or only a task and what it needs.

        Raises:
            Refused: Kubeflow would not accept it.
        """
        spec, platform = yaml.safe_load_all(file.read_text())
        validate(spec, parameters or {})
        pipeline = Pipeline(spec, platform, root, parameters or {})
        tasks = {name: Task(name, "not run") for name in pipeline.tasks}
        wanted = pipeline.needed_for(until) if until else set(tasks)
        self._start(pipeline)
        for name in pipeline.order():
            if name not in wanted:
                continue
            if all(
                tasks[needed].state in ("complete", "cached") for needed in pipeline.needs(name)
            ):
                self._run_task(pipeline, tasks, tasks[name])
            if tasks[name].state == "failed":
                break  # Argo schedules nothing more
        return Run(pipeline.run_id, tasks)

    @abstractmethod
    def artifact(self, run: Run, task: str, output: str) -> Path:
        """What is stored of an output."""

    @abstractmethod
    def metadata(self, run: Run, task: str, output: str) -> Document:
        """What the metadata store has of an output: uri and properties."""

    @abstractmethod
    def objects(self, uri: str) -> list[str]:
        """The names of all objects below a URI, relative to it."""

    @abstractmethod
    def _start(self, pipeline: Pipeline) -> None:
        """The driver of the run itself."""

    @abstractmethod
    def _drive(self, pipeline: Pipeline, tasks: Mapping[str, Task], task: Task) -> Any | None:
        """The driver of a task: what its launcher is to do, or None where a result is reused."""

    @abstractmethod
    def _launch(self, pipeline: Pipeline, task: Task, driven: Any) -> None:
        """A try: the launcher in a new pod."""

    def _run_task(self, pipeline: Pipeline, tasks: Mapping[str, Task], task: Task) -> None:
        try:
            driven = self._drive(pipeline, tasks, task)
            if driven is None:
                task.state = "cached"
                return
            self._try(pipeline, task, driven)
        except Refused as error:
            task.state = "failed"
            task.error = str(error)
            return
        task.state = "complete"

    def _try(self, pipeline: Pipeline, task: Task, driven: Any) -> None:
        """Argo: what the driver said, in another new pod for each try."""
        policy = pipeline.tasks[task.name].get("retryPolicy")
        started = time.monotonic()
        while True:
            task.tries += 1
            try:
                self._launch(pipeline, task, driven)
            except Refused:
                if not tried_again(policy, task.tries, time.monotonic() - started):
                    raise
            else:
                return

    def _pod(
        self,
        pipeline: Pipeline,
        task: Task,
        environment: Mapping[str, str],
        volumes: Iterator[tuple[str, str, str]],
    ) -> tuple[Pod, Path]:
        """A pod that has nothing of another one, nor a command; and the folder of its own."""
        folder = self._folder / "pods" / pipeline.run_id / task.name / str(task.tries)
        mounts = {}
        for path in (*STAGING.values(), *SCRATCH):
            mounts[path] = str(folder / path.strip("/"))
            (folder / path.strip("/")).mkdir(parents=True)
        for kind, volume, path in volumes:
            if volume not in self._volumes[kind]:
                raise Refused(f"{task.name}: there is no {kind} {volume}")
            mounts[path] = str(self._volumes[kind][volume])
        variables = {
            **IMAGE_ENVIRONMENT,
            **SERVICES,
            "KFP_POD_NAME": pod_name(task),
            "KFP_POD_UID": str(uuid.uuid4()),
            **environment,
        }
        if "retryPolicy" in pipeline.tasks[task.name]:
            variables["KFP_RETRY_INDEX"] = str(task.tries - 1)
        user = USER if os.geteuid() == 0 else None
        return Pod([], variables, mounts, user=user), folder


class Pipeline:
    """A run's specification and parameters."""

    def __init__(
        self, spec: Document, platform: Document, root: str, parameters: Mapping[str, Any]
    ) -> None:
        self.run_id = str(uuid.uuid4())
        self.spec = spec
        self.root = root
        self._executors = spec["deploymentSpec"]["executors"]
        self._kubernetes = platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
        declared = spec["root"].get("inputDefinitions", {}).get("parameters", {})
        defaults = {name: each["defaultValue"] for name, each in declared.items()}
        self.parameters = {**defaults, **parameters}
        self.tasks: Document = spec["root"]["dag"]["tasks"]

    @property
    def name(self) -> str:
        return str(self.spec["pipelineInfo"]["name"])

    def order(self) -> Iterator[str]:
        """Task names, each after those it needs; Argo would run some at once."""
        return iter(
            TopologicalSorter({n: sorted(self.needs(n)) for n in self.tasks}).static_order()
        )

    def needs(self, name: str) -> set[str]:
        """The tasks that Argo waits for: those that are named, whatever the inputs are."""
        return set(self.tasks[name].get("dependentTasks", ()))

    def needed_for(self, name: str) -> set[str]:
        """A task and all that must run before it."""
        return {name}.union(*(self.needed_for(needed) for needed in self.needs(name)))

    def component(self, name: str) -> Document:
        component: Document = self.spec["components"][self.tasks[name]["componentRef"]["name"]]
        return component

    def container(self, name: str) -> Document:
        container: Document = self._executors[self.component(name)["executorLabel"]]["container"]
        return container

    def kubernetes(self, name: str) -> Document:
        """What a task gets from Kubernetes: a KubernetesExecutorConfig message."""
        config: Document = self._kubernetes.get(self.component(name)["executorLabel"], {})
        return config


def expanded(text: str, environment: Mapping[str, str]) -> str:
    """What Kubernetes makes of `$(NAME)` in a pod's command; `$$` is a dollar sign.

    The launcher gets the ExecutorInput message in its own command, so that it happens there too.
    """

    def replaced(match: re.Match[str]) -> str:
        return "$" if match[1] == "$" else environment.get(match[2], match[0])

    return _EXPANDED.sub(replaced, text)


def pod_name(task: Task) -> str:
    return f"pod-{task.name.lower()}"


def tried_again(policy: Document | None, tries: int, seconds: float) -> bool:
    """Whether Argo tries a failed task again (workflow/controller: processNodeRetries).

    That is where the step's container ended with an error or was killed. A pod that was deleted is
    an error of Argo's own, and not tried again, as Kubeflow sets no retry policy.

    Args:
        policy: the task's retryPolicy.
        tries: so far.
        seconds: since the first try began; Argo's limit is on that, not on the wait between tries.
    """
    if policy is None:
        return False
    wait, longest = (
        float(policy[key].removesuffix("s")) for key in ("backoffDuration", "backoffMaxDuration")
    )
    waited = seconds + wait * policy["backoffFactor"] ** (tries - 1)
    return tries <= policy["maxRetryCount"] and waited <= longest


def validate(spec: Document, parameters: Mapping[str, Any]) -> None:
    """What the API server checks of a specification and of a run's parameters."""
    json_format.ParseDict(spec, pipeline_spec_pb2.PipelineSpec())
    if spec["schemaVersion"] != "2.1.0":
        raise Refused(f"only schema version 2.1.0 is supported, not {spec['schemaVersion']}")
    for name, task in spec["root"]["dag"]["tasks"].items():
        if {"parameterIterator", "artifactIterator"} & set(task):
            raise Refused(f"{name}: loops are not simulated")
        if task.get("triggerPolicy"):
            raise Refused(f"{name}: conditions and exit handlers are not simulated")
    declared = spec["root"].get("inputDefinitions", {}).get("parameters", {})
    for name, value in parameters.items():
        if name not in declared:
            raise Refused(f"parameter(s) provided are not required by pipeline: {name}")
        kind = declared[name]["parameterType"]
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        fits = {"STRING": isinstance(value, str), "STRUCT": isinstance(value, dict)}
        if not fits.get(kind, number):
            raise Refused(f"input parameter {name} requires type {kind}")
