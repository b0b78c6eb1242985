"""What Kubeflow's driver and launcher do, simulated: for a machine that has neither.

What is here follows the sources of Kubeflow Pipelines 2.17: the driver that resolves a task's
inputs (backend/src/v2/driver), the launcher that stages and uploads (component/launcher_v2.go),
what becomes of metadata in the metadata store and back (metadata/converter.go), and the cache's key
(cacheutils). The programs themselves (`tests.kubeflow.programs`) say more, and where the two differ
this is wrong.
"""

from __future__ import annotations

import copy
import hashlib
import json
import shutil
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml
from google.protobuf import json_format
from kfp.pipeline_spec import pipeline_spec_pb2

from tests.kubeflow.argo import (
    LOGS,
    STAGING,
    Cluster,
    Document,
    Pipeline,
    Refused,
    Run,
    Runner,
    Task,
    expanded,
)
from tests.kubeflow.objects import ObjectStore
from tests.kubeflow.sandbox import run


class SimulatedCluster(Cluster):
    """A cluster whose drivers and launchers are simulated; its arguments are the base class's."""

    def __init__(
        self,
        folder: Path,
        claims: Mapping[str, Path],
        secrets: Mapping[str, Path],
        runner: Runner = run,
        publish_logs: bool = True,
    ) -> None:
        super().__init__(folder, claims, secrets, runner, publish_logs)
        self._objects = ObjectStore(folder / "objects")
        self._artifacts: dict[int, Document] = {}
        self._cache: dict[str, Task] = {}
        self._keys: dict[str, str] = {}  # of the run's tasks whose results are to be remembered

    def artifact(self, run: Run, task: str, output: str) -> Path:
        """See the base class."""
        return self._objects.read(self.metadata(run, task, output)["uri"])

    def metadata(self, run: Run, task: str, output: str) -> Document:
        """See the base class."""
        return self._artifacts[run.tasks[task].artifacts[output]]

    def objects(self, uri: str) -> list[str]:
        """See the base class."""
        return self._objects.keys(uri)

    def _start(self, pipeline: Pipeline) -> None:
        self._keys = {}

    def _drive(self, pipeline: Pipeline, tasks: Mapping[str, Task], task: Task) -> Document | None:
        """Gives the ExecutorInput message."""
        executor_input = _executor_input(
            pipeline, task.name, tasks, self._artifacts, self._publish_logs
        )
        if pipeline.tasks[task.name].get("cachingOptions", {}).get("enableCache", False):
            key = cache_key(pipeline, task.name, executor_input)
            if hit := self._cache.get(key):
                task.artifacts, task.parameters = hit.artifacts, hit.parameters
                return None
            self._keys[task.name] = key
        return executor_input

    def _launch(self, pipeline: Pipeline, task: Task, driven: Document) -> None:
        """Stage, run, collect, upload, record; of a failed step, the log is kept."""
        executor_input = copy.deepcopy(driven)
        container = pipeline.container(task.name)
        environment = {each["name"]: each["value"] for each in container.get("env", ())}
        pod, folder = self._pod(pipeline, task, environment, _volumes(pipeline, task.name))

        def local(path: str) -> Path:
            return folder / path.lstrip("/")

        for artifact in _each(executor_input["inputs"].get("artifacts", {})):
            if _bucket(artifact["uri"]) != _bucket(pipeline.root):
                # It has credentials for the bucket of the run alone (fetchNonDefaultBuckets).
                raise Refused(f"failed to open bucket for artifact {artifact['uri']}")
            self._objects.download(artifact["uri"], local(staged_path(artifact["uri"])))
        outputs = executor_input["outputs"]
        logs = {name: each for name, each in outputs.get("artifacts", {}).items() if name == LOGS}
        for artifact in _each(logs):
            artifact["uri"] += f"-{task.tries - 1}"  # each try has its own
        for artifact in _each(outputs.get("artifacts", {})):
            local(staged_path(artifact["uri"])).parent.mkdir(parents=True, exist_ok=True)
        for parameter in outputs.get("parameters", {}).values():
            local(parameter["outputFile"]).parent.mkdir(parents=True, exist_ok=True)

        text = expanded(go_json(executor_input), pod.environment)
        command = [
            expanded(part, pod.environment).replace("{{$}}", text)
            for part in (*container["command"], *container["args"])
        ]
        log = folder / "log"
        for artifact in _each(logs):
            log = local(staged_path(artifact["uri"]))
            log.touch()  # and open from before the step starts until it has ended
        code = self._runner(replace(pod, command=command), log)
        task.log = log.read_text(errors="replace")
        if code != 0:
            if code > 0:  # else the pod was killed, and the launcher in it
                self._upload(task, logs, local)
            raise Refused(f"exit code {code}")
        output = read_executor_output(local(outputs["outputFile"]))
        task.parameters = collect_parameters(outputs, output, local)
        for name, listed in outputs.get("artifacts", {}).items():
            if name != LOGS:  # which is the launcher's own
                (artifact,) = listed["artifacts"]
                merge(output.get("artifacts", {}).get(name, {}), artifact)
        self._upload(task, outputs.get("artifacts", {}), local)
        if task.name in self._keys:
            self._cache[self._keys[task.name]] = task
        shutil.rmtree(folder)

    def _upload(self, task: Task, artifacts: Document, local: Callable[[str], Path]) -> None:
        for name, listed in artifacts.items():
            (artifact,) = listed["artifacts"]
            self._objects.upload(local(staged_path(artifact["uri"])), artifact["uri"])
            task.artifacts[name] = self._record(name, artifact)

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


def _volumes(pipeline: Pipeline, name: str) -> Iterator[tuple[str, str, str]]:
    """Kind, name and mount path of a task's claims and secrets."""
    settings = pipeline.kubernetes(name)
    for mount in settings.get("pvcMount", ()):
        yield "pvc", mount["constant"], mount["mountPath"]
    for mount in settings.get("secretAsVolume", ()):
        yield "secret", mount["secretName"], mount["mountPath"]


def _executor_input(
    pipeline: Pipeline,
    name: str,
    tasks: Mapping[str, Task],
    artifacts: Mapping[int, Document],
    publish_logs: bool,
) -> Document:
    """The driver: resolves a task's inputs and provides for its outputs."""
    message = pipeline_spec_pb2.ExecutorInput()
    document = {
        "inputs": _inputs(pipeline, name, tasks, artifacts),
        "outputs": _outputs(pipeline, name, publish_logs),
    }
    json_format.ParseDict(document, message)
    built: Document = json_format.MessageToDict(message)
    # Proto3's JSON leaves out what is empty, except in a oneof: this is how types arrive.
    for artifact in _each(built.get("inputs", {}).get("artifacts", {})):
        artifact["type"] = {"instanceSchema": ""}
    built.setdefault("inputs", {})
    return built


def _inputs(
    pipeline: Pipeline, name: str, tasks: Mapping[str, Task], artifacts: Mapping[int, Document]
) -> Document:
    inputs = pipeline.tasks[name].get("inputs", {})
    declared = pipeline.component(name).get("inputDefinitions", {}).get("parameters", {})
    values = {
        key: resolve_type(
            key, _resolve(pipeline, name, each, tasks), declared[key]["parameterType"]
        )
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


def _resolve(pipeline: Pipeline, name: str, source: Document, tasks: Mapping[str, Task]) -> Any:
    if "componentInputParameter" in source:
        return pipeline.parameters[source["componentInputParameter"]]
    if "taskOutputParameter" in source:
        output = source["taskOutputParameter"]
        return _produced(name, output, tasks).parameters[output["outputParameterKey"]]
    return source["runtimeValue"]["constant"]


def _outputs(pipeline: Pipeline, name: str, publish_logs: bool) -> Document:
    declared = pipeline.component(name).get("outputDefinitions", {})
    root = f"{pipeline.root.rstrip('/')}/{pipeline.name}/{pipeline.run_id}/{name}/{uuid.uuid4()}"
    artifacts = dict(declared.get("artifacts", {}))
    if publish_logs:
        artifacts[LOGS] = {"artifactType": {"schemaTitle": "system.Artifact"}}
    return {
        "artifacts": {
            key: {
                "artifacts": [
                    {
                        "name": key,
                        "uri": f"{root}/{key}",
                        "type": each["artifactType"],
                        **({"metadata": each["metadata"]} if "metadata" in each else {}),
                    }
                ]
            }
            for key, each in artifacts.items()
        },
        "parameters": {
            key: {"outputFile": f"/tmp/kfp/outputs/{key}"} for key in declared.get("parameters", {})
        },
        "outputFile": f"{staged_path(root)}/output_metadata.json",
    }


def cache_key(pipeline: Pipeline, name: str, executor_input: Document) -> str:
    """The fingerprint that decides whether a result is reused."""
    inputs, outputs = executor_input["inputs"], executor_input["outputs"]
    container = pipeline.container(name)
    types = pipeline.component(name).get("outputDefinitions", {}).get("parameters", {})
    claims = {volume for kind, volume, _ in _volumes(pipeline, name) if kind == "pvc"}
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
            "pvcNames": sorted(claims),
        },
    }
    return hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()


def _produced(name: str, source: Document, tasks: Mapping[str, Task]) -> Task:
    task = tasks[source["producerTask"]]
    if task.state not in ("complete", "cached"):
        raise Refused(f"{name}: failed to get execution of upstream task {task.name}")
    return task


def resolve_type(name: str, value: Any, kind: str) -> Any:
    """A parameter's value, checked against its declared type as the driver does."""
    if kind == "STRING":
        return value if isinstance(value, str) else "" if value is None else go_json(value)
    if value is None:
        raise Refused(f"got null for input parameter {name}")
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


def _bucket(uri: str) -> list[str]:
    return uri.split("/")[:3]


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
