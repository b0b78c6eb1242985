"""Runs a compiled pipeline as Kubeflow Pipelines 2.17 does, each step in a pod of its own.

There is no cluster here. What is Kubeflow's own follows its sources: the driver that resolves a
task's inputs (backend/src/v2/driver), the launcher that stages and uploads (component/
launcher_v2.go), what becomes of metadata in the metadata store and back (metadata/converter.go),
the cache's key (cacheutils), and what Argo is told (compiler/argocompiler): which task waits for
which, and which is tried again. What is ours, the image's commands, really runs.

Left out, and refused when a specification has it: conditions, exit handlers, loops and nested
pipelines, which this pipeline does not use and its compiler refuses. Nobody waits between tries.
"""

from __future__ import annotations

import copy
import hashlib
import json
import shutil
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from graphlib import TopologicalSorter
from pathlib import Path
from typing import Any, Literal

import yaml
from google.protobuf import json_format
from kfp.pipeline_spec import pipeline_spec_pb2

from tests.kubeflow.objects import ObjectStore
from tests.kubeflow.sandbox import Pod, run

State = Literal["complete", "cached", "failed", "not run"]
Document = dict[str, Any]

LOGS = "executor-logs"  # the output that the driver adds to those of the component
STAGING = {"minio": "/minio", "s3": "/s3", "gs": "/gcs"}


class Refused(Exception):  # noqa: N818 - names what Kubeflow did
    """Kubeflow would refuse this, or fail the task itself."""


@dataclass
class Task:
    """What became of a task."""

    name: str
    state: State
    log: str = ""  # of the last try
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


class Cluster:
    """A cluster: an object store, a metadata store, a cache, claims and secrets.

    Args:
        folder: of everything it keeps.
        runner: runs a pod and returns its exit code; its output goes to the given file.
        publish_logs: whether steps' logs are artifacts, as PUBLISH_LOGS of the API server says.
        claims: folders by the name of a PersistentVolumeClaim.
        secrets: folders by the name of a Secret.
    """

    def __init__(
        self,
        folder: Path,
        claims: Mapping[str, Path],
        secrets: Mapping[str, Path],
        runner: Callable[[Pod, Path], int] = run,
        publish_logs: bool = True,
    ) -> None:
        self._publish_logs = publish_logs
        self._runner = runner
        self.objects = ObjectStore(folder / "objects")
        self._folder = folder
        self._volumes = {"pvc": claims, "secret": secrets}
        self._artifacts: dict[int, Document] = {}
        self._cache: dict[str, Task] = {}

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
        pipeline = _Pipeline(spec, platform, root, parameters or {}, self._publish_logs)
        tasks = {name: Task(name, "not run") for name in pipeline.tasks}
        wanted = pipeline.needed_for(until) if until else set(tasks)
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

    def artifact(self, run: Run, task: str, output: str) -> Path:
        """What is stored of an output."""
        return self.objects.read(self.metadata(run, task, output)["uri"])

    def metadata(self, run: Run, task: str, output: str) -> Document:
        """What the metadata store has of an output: uri, properties, type."""
        return self._artifacts[run.tasks[task].artifacts[output]]

    def _run_task(self, pipeline: _Pipeline, tasks: Mapping[str, Task], task: Task) -> None:
        try:
            executor_input = pipeline.executor_input(task.name, tasks, self._artifacts)
            key = pipeline.cache_key(task.name, executor_input)
            cached = pipeline.tasks[task.name].get("cachingOptions", {}).get("enableCache", False)
            if cached and key in self._cache:
                hit = self._cache[key]
                task.artifacts, task.parameters = hit.artifacts, hit.parameters
                task.state = "cached"
                return
            self._try(pipeline, task, executor_input)
        except Refused as error:
            task.state = "failed"
            task.log += f"\n{error}"
            return
        task.state = "complete"
        if cached:
            self._cache[key] = task

    def _try(self, pipeline: _Pipeline, task: Task, executor_input: Document) -> None:
        """Argo: the driver's inputs and outputs, in another new pod for each try."""
        policy = pipeline.tasks[task.name].get("retryPolicy")
        started = time.monotonic()
        while True:
            task.tries += 1
            try:
                self._launch(pipeline, task, copy.deepcopy(executor_input))
            except Refused:
                if not tried_again(policy, task.tries, time.monotonic() - started):
                    raise
            else:
                return

    def _launch(self, pipeline: _Pipeline, task: Task, executor_input: Document) -> None:
        """The launcher: stage, run, collect, upload, record; of a failed step, the log is kept."""
        pod_folder = self._folder / "pods" / pipeline.run_id / task.name / str(task.tries)
        staging = pod_folder / "staging"
        for scheme in STAGING:
            (staging / scheme).mkdir(parents=True)
        (pod_folder / "tmp").mkdir()

        def local(path: str) -> Path:
            for scheme, mount in STAGING.items():
                if path.startswith(mount + "/"):
                    return staging / scheme / path.removeprefix(mount + "/")
            return pod_folder / "tmp" / path.removeprefix("/tmp/")

        for artifact in _each(executor_input["inputs"].get("artifacts", {})):
            self.objects.download(artifact["uri"], local(staged_path(artifact["uri"])))
        outputs = executor_input["outputs"]
        logs = {name: each for name, each in outputs.get("artifacts", {}).items() if name == LOGS}
        for artifact in _each(logs):
            artifact["uri"] += f"-{task.tries - 1}"  # each try has its own
        for artifact in _each(outputs.get("artifacts", {})):
            local(staged_path(artifact["uri"])).parent.mkdir(parents=True, exist_ok=True)
        for parameter in outputs.get("parameters", {}).values():
            local(parameter["outputFile"]).parent.mkdir(parents=True, exist_ok=True)

        container = pipeline.container(task.name)
        log = pod_folder / "log"
        for artifact in _each(logs):
            log = local(staged_path(artifact["uri"]))
            log.touch()  # and open from before the step starts until it has ended
        pod = self._pod(pipeline, task, container, executor_input, pod_folder)
        code = self._runner(pod, log)
        task.log = log.read_text(errors="replace")
        if code != 0:
            self._upload(task, logs, local)
            raise Refused(f"exit code {code}")
        output = read_executor_output(local(outputs["outputFile"]))
        task.parameters = collect_parameters(outputs, output, local)
        for name, listed in outputs.get("artifacts", {}).items():
            if name != LOGS:  # which is the launcher's own
                (artifact,) = listed["artifacts"]
                merge(output.get("artifacts", {}).get(name, {}), artifact)
        self._upload(task, outputs.get("artifacts", {}), local)
        shutil.rmtree(pod_folder)

    def _upload(self, task: Task, artifacts: Document, local: Callable[[str], Path]) -> None:
        for name, listed in artifacts.items():
            (artifact,) = listed["artifacts"]
            self.objects.upload(local(staged_path(artifact["uri"])), artifact["uri"])
            task.artifacts[name] = self._record(name, artifact)

    def _pod(
        self,
        pipeline: _Pipeline,
        task: Task,
        container: Document,
        executor_input: Document,
        folder: Path,
    ) -> Pod:
        text = go_json(executor_input)
        command = [
            part.replace("{{$}}", text) for part in (*container["command"], *container["args"])
        ]
        # The image's own Python; everything of the test's environment is left out.
        environment = {
            "PATH": f"{Path(sys.executable).parent}:/usr/local/bin:/usr/bin:/bin",
            "HOME": "/tmp",
            "LANG": "C.UTF-8",
            "KFP_POD_NAME": f"pod-{task.name.lower()}",
            **{each["name"]: each["value"] for each in container.get("env", ())},
        }
        if "retryPolicy" in pipeline.tasks[task.name]:
            environment["KFP_RETRY_INDEX"] = str(task.tries - 1)
        mounts = {mount: str(folder / "staging" / scheme) for scheme, mount in STAGING.items()}
        mounts["/tmp"] = str(folder / "tmp")
        for kind, volume, path in pipeline.volumes(task.name):
            if volume not in self._volumes[kind]:
                raise Refused(f"{task.name}: there is no {kind} {volume}")
            mounts[path] = str(self._volumes[kind][volume])
        return Pod(command, environment, mounts)

    def _record(self, name: str, artifact: Document) -> int:
        """Puts an artifact into the metadata store; returns its id."""
        properties = {k: to_mlmd(v) for k, v in artifact.get("metadata", {}).items()}
        properties.setdefault("display_name", name)
        session = {"Provider": artifact["uri"].partition("://")[0], "Params": {"fromEnv": "true"}}
        properties.setdefault("store_session_info", json.dumps(session))
        number = len(self._artifacts) + 1
        schema = (
            artifact["type"].get("instanceSchema") or f"title: {artifact['type']['schemaTitle']}"
        )
        if not yaml.safe_load(schema).get("title"):
            raise Refused(f"{name}: no title in its schema")
        self._artifacts[number] = {"uri": artifact["uri"], "properties": properties}
        return number


class _Pipeline:
    """A run's specification and parameters: what the drivers see."""

    def __init__(
        self,
        spec: Document,
        platform: Document,
        root: str,
        parameters: Mapping[str, Any],
        publish_logs: bool,
    ) -> None:
        self._publish_logs = publish_logs
        self.run_id = str(uuid.uuid4())
        self._spec = spec
        self._executors = spec["deploymentSpec"]["executors"]
        self._kubernetes = platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
        self._root = f"{root.rstrip('/')}/{spec['pipelineInfo']['name']}/{self.run_id}"
        declared = spec["root"].get("inputDefinitions", {}).get("parameters", {})
        defaults = {name: each["defaultValue"] for name, each in declared.items()}
        self._parameters = {**defaults, **parameters}
        self.tasks: Document = spec["root"]["dag"]["tasks"]

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
        component: Document = self._spec["components"][self.tasks[name]["componentRef"]["name"]]
        return component

    def container(self, name: str) -> Document:
        container: Document = self._executors[self.component(name)["executorLabel"]]["container"]
        return container

    def volumes(self, name: str) -> Iterator[tuple[str, str, str]]:
        """Kind, name and mount path of a task's claims and secrets."""
        settings = self._kubernetes.get(self.component(name)["executorLabel"], {})
        for mount in settings.get("pvcMount", ()):
            yield "pvc", mount["constant"], mount["mountPath"]
        for mount in settings.get("secretAsVolume", ()):
            yield "secret", mount["secretName"], mount["mountPath"]

    def executor_input(
        self, name: str, tasks: Mapping[str, Task], artifacts: Mapping[int, Document]
    ) -> Document:
        """The driver: resolves a task's inputs and provides for its outputs."""
        message = pipeline_spec_pb2.ExecutorInput()
        document = {"inputs": self._inputs(name, tasks, artifacts), "outputs": self._outputs(name)}
        json_format.ParseDict(document, message)
        built: Document = json_format.MessageToDict(message)
        # Proto3's JSON leaves out what is empty, except in a oneof: this is how types arrive.
        for artifact in _each(built.get("inputs", {}).get("artifacts", {})):
            artifact["type"] = {"instanceSchema": ""}
        built.setdefault("inputs", {})
        return built

    def _inputs(
        self, name: str, tasks: Mapping[str, Task], artifacts: Mapping[int, Document]
    ) -> Document:
        inputs = self.tasks[name].get("inputs", {})
        declared = self.component(name).get("inputDefinitions", {}).get("parameters", {})
        values = {
            key: resolve_type(key, self._resolve(name, each, tasks), declared[key]["parameterType"])
            for key, each in inputs.get("parameters", {}).items()
        }
        for key in declared:
            if key not in values and not declared[key].get("isOptional"):
                raise Refused(f"{name}: neither value nor default value for parameter {key}")
        resolved = {}
        for key, each in inputs.get("artifacts", {}).items():
            source = each["taskOutputArtifact"]
            made = _produced(name, source, tasks).artifacts
            number = made[source["outputArtifactKey"]]
            resolved[key] = {"artifacts": [from_mlmd(number, artifacts[number])]}
        return {"parameterValues": values, "artifacts": resolved}

    def _resolve(self, name: str, source: Document, tasks: Mapping[str, Task]) -> Any:
        if "componentInputParameter" in source:
            return self._parameters[source["componentInputParameter"]]
        if "taskOutputParameter" in source:
            output = source["taskOutputParameter"]
            return _produced(name, output, tasks).parameters[output["outputParameterKey"]]
        return source["runtimeValue"]["constant"]

    def _outputs(self, name: str) -> Document:
        declared = self.component(name).get("outputDefinitions", {})
        task_root = f"{self._root}/{name}/{uuid.uuid4()}"
        artifacts = dict(declared.get("artifacts", {}))
        if self._publish_logs:
            artifacts[LOGS] = {"artifactType": {"schemaTitle": "system.Artifact"}}
        return {
            "artifacts": {
                key: {
                    "artifacts": [
                        {
                            "name": key,
                            "uri": f"{task_root}/{key}",
                            "type": each["artifactType"],
                            "metadata": each.get("metadata", {}),
                        }
                    ]
                }
                for key, each in artifacts.items()
            },
            "parameters": {
                key: {"outputFile": f"/tmp/kfp/outputs/{key}"}
                for key in declared.get("parameters", {})
            },
            "outputFile": f"{staged_path(task_root)}/output_metadata.json",
        }

    def cache_key(self, name: str, executor_input: Document) -> str:
        """The fingerprint that decides whether a result is reused."""
        inputs, outputs = executor_input["inputs"], executor_input["outputs"]
        container = self.container(name)
        types = self.component(name).get("outputDefinitions", {}).get("parameters", {})
        key = {
            "inputArtifactNames": {
                k: {"artifactNames": [artifact["name"] for artifact in listed["artifacts"]]}
                for k, listed in inputs.get("artifacts", {}).items()
            },
            "inputParameterValues": inputs.get("parameterValues", {}),
            "outputArtifactsSpec": {
                k: {p: v for p, v in listed["artifacts"][0].items() if p != "uri"}
                for k, listed in outputs.get("artifacts", {}).items()
            },
            "outputParametersSpec": {
                k: types[k]["parameterType"] for k in outputs.get("parameters", {})
            },
            "containerSpec": {
                "image": container["image"],
                "cmdArgs": [*container["command"], *container["args"]],
                "pvcNames": sorted({n for kind, n, _ in self.volumes(name) if kind == "pvc"}),
            },
        }
        return hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()


def _produced(name: str, source: Document, tasks: Mapping[str, Task]) -> Task:
    task = tasks[source["producerTask"]]
    if task.state not in ("complete", "cached"):
        raise Refused(f"{name}: failed to get execution of upstream task {task.name}")
    return task


def tried_again(policy: Document | None, tries: int, seconds: float) -> bool:
    """Whether Argo tries a failed task again (workflow/controller: processNodeRetries).

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


def resolve_type(name: str, value: Any, kind: str) -> Any:
    """A parameter's value, checked against its declared type as the driver does."""
    if value is None:
        raise Refused(f"got null for input parameter {name}")
    if kind == "STRING":
        return value if isinstance(value, str) else go_json(value)
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not (isinstance(value, dict) if kind == "STRUCT" else number):
        raise Refused(f"input parameter {name} type mismatch: expect {kind}, got {value!r}")
    return value


def read_executor_output(file: Path) -> Document:
    """Reads what a step left, strictly: an unknown field fails the task."""
    if not file.exists():
        return {}
    message = pipeline_spec_pb2.ExecutorOutput()
    try:
        json_format.Parse(file.read_text(), message)
    except json_format.ParseError as error:
        raise Refused(f"failed to unmarshal ExecutorOutput: {error}") from error
    output: Document = json.loads(file.read_text())
    return output


def collect_parameters(outputs: Document, output: Document, local: Any) -> Document:
    """Output parameters: from the output message, else from the file of each."""
    values = dict(output.get("parameterValues", {}))
    for name, parameter in outputs.get("parameters", {}).items():
        if name not in values:
            file = local(parameter["outputFile"])
            if not file.exists():
                raise Refused(f"failed to read output parameter {name}: no such file")
            values[name] = file.read_text()
    return values


def merge(listed: Document, artifact: Document) -> None:
    """Merges an artifact of the output message into the one that was provided for."""
    for source in listed.get("artifacts", ())[:1]:
        if source.get("uri"):
            artifact["uri"] = source["uri"]
        if "metadata" in source:
            artifact["metadata"] = {**artifact.get("metadata", {}), **source["metadata"]}


def to_mlmd(value: Any) -> Any:
    """A metadata value as the metadata store keeps it; a null fails the task."""
    if value is None:
        raise Refused("unknown/unsupported value type NullValue")
    if isinstance(value, bool):
        return int(value)
    if isinstance(value, (int, float)):
        return float(value)
    if isinstance(value, list):
        return {"list": value}
    if isinstance(value, dict):
        return {"struct": value}
    return value


def from_mlmd(number: int, artifact: Document) -> Document:
    """An artifact as a later task gets it: its id for a name, and no type."""
    return {"name": str(number), "uri": artifact["uri"], "metadata": artifact["properties"]}


def staged_path(uri: str) -> str:
    """Where the launcher stages a URI."""
    scheme, _, key = uri.partition("://")
    return f"{STAGING[scheme]}/{key}"


def go_json(value: Any) -> str:
    """JSON as Go writes it: a whole number has no fraction."""
    return json.dumps(_whole(value), separators=(",", ":"), ensure_ascii=False)


def _whole(value: Any) -> Any:
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, dict):
        return {key: _whole(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_whole(each) for each in value]
    return value


def _each(artifacts: Document) -> Iterator[Document]:
    for listed in artifacts.values():
        yield from listed.get("artifacts", ())
