"""Runs a compiled pipeline by Kubeflow's own driver and launcher.

Given their paths, everything that they do is theirs: resolving inputs, pod patches, staging,
metadata, caching, logs. Around them is what `tests.kubeflow.services` serves, and Argo's part
(`tests.kubeflow.argo`). What Kubeflow's compiler tells them follows its sources (compiler/
argocompiler, 2.17), and so does what Kubernetes makes of a pod's specification.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from google.protobuf import json_format
from ml_metadata import metadata_store
from ml_metadata.proto import metadata_store_pb2

from tests.kubeflow.argo import (
    IMAGE_ENVIRONMENT,
    LOGS,
    Cluster,
    Document,
    Pipeline,
    Refused,
    Run,
    Runner,
    Task,
    expanded,
    pod_name,
)
from tests.kubeflow.sandbox import Pod, run
from tests.kubeflow.services import KubernetesApi, ObjectStore, grpc_server, object_store

SERVICE_ACCOUNT = "/var/run/secrets/kubernetes.io/serviceaccount"
LAUNCHER = "/kfp-launcher/launch"  # where its init container copies it to


@dataclass(frozen=True)
class Programs:
    """Paths of Kubeflow's two programs."""

    driver: Path
    launcher: Path

    @staticmethod
    def given() -> Programs | None:
        """Those that DRIVER and LAUNCHER name.

        Raises:
            FileNotFoundError: only one is named, or one is not there.
        """
        named = {name: os.environ.get(name, "") for name in ("DRIVER", "LAUNCHER")}
        if not any(named.values()):
            return None
        for name, path in named.items():
            if not Path(path).is_file():
                raise FileNotFoundError(f"{name}={path}: expected the path of Kubeflow's program")
        return Programs(Path(named["DRIVER"]).resolve(), Path(named["LAUNCHER"]).resolve())


@dataclass(frozen=True)
class Services:
    """What is served to the programs."""

    objects: ObjectStore
    kubernetes: KubernetesApi
    grpc_port: int  # of metadata store and cache
    environment: Mapping[str, str]  # what Kubernetes tells every pod of its API

    @staticmethod
    @contextmanager
    def start(folder: Path) -> Iterator[Services]:
        """Starts all of them; they end with the context.

        Args:
            folder: an empty one for logs and certificates.
        """
        with object_store(folder / "object-store.log") as objects, grpc_server() as port:
            kubernetes = KubernetesApi(folder, objects.port)
            with kubernetes.serve() as environment:
                yield Services(objects, kubernetes, port, environment)


class InstalledCluster(Cluster):
    """A cluster whose drivers and launchers are Kubeflow's programs.

    Args:
        programs: the two.
        services: what they talk to.
    """

    def __init__(
        self,
        folder: Path,
        claims: Mapping[str, Path],
        secrets: Mapping[str, Path],
        programs: Programs,
        services: Services,
        runner: Runner = run,
        publish_logs: bool = True,
    ) -> None:
        super().__init__(folder, claims, secrets, runner, publish_logs)
        self._programs = programs
        self._services = services
        self.pods: dict[str, Document] = {}  # the driver's newest patch by task
        self.plugins: dict[str, str] = {}  # what the API server tells drivers and pods of them
        self._runs: dict[str, str] = {}  # executions of runs
        self._copies = 0
        client = metadata_store_pb2.MetadataStoreClientConfig(
            host="127.0.0.1", port=services.grpc_port
        )
        self._store = metadata_store.MetadataStore(client)

    def artifact(self, run: Run, task: str, output: str) -> Path:
        """See the base class."""
        return self._copy(self._outputs(run.id, task)[output])

    def metadata(self, run: Run, task: str, output: str) -> Document:
        """See the base class."""
        number = self._outputs(run.id, task)[output]
        (artifact,) = self._store.get_artifacts_by_id([number])
        properties = {key: _plain(value) for key, value in artifact.custom_properties.items()}
        return {"uri": artifact.uri, "properties": properties}

    def objects(self, uri: str) -> list[str]:
        """See the base class."""
        return self._services.objects.keys(uri)

    def execution_states(self, run: Run) -> dict[str, str]:
        """The state that the metadata store has of each task that was started."""
        states = metadata_store_pb2.Execution.State
        return {
            name: states.Name(execution.last_known_state)
            for name, execution in self._executions(run.id).items()
        }

    def _copy(self, number: int) -> Path:
        """A copy of what is stored of an artifact."""
        (artifact,) = self._store.get_artifacts_by_id([number])
        self._copies += 1
        copy = self._folder / "copies" / str(self._copies) / artifact.uri.rpartition("/")[2]
        self._services.objects.download(artifact.uri, copy)
        return copy

    def _executions(self, run_id: str) -> dict[str, Any]:
        context = self._store.get_context_by_type_and_name("system.PipelineRun", run_id)
        return {
            execution.custom_properties["task_name"].string_value: execution
            for execution in self._store.get_executions_by_context(context.id)
            if execution.custom_properties["task_name"].string_value
        }

    def _outputs(self, run_id: str, task: str) -> dict[str, int]:
        """The artifacts of a task by the name of the output."""
        execution = self._executions(run_id)[task]
        events = self._store.get_events_by_execution_ids([execution.id])
        outputs: dict[str, int] = {}
        for event in sorted(events, key=lambda each: each.artifact_id):
            if event.type == metadata_store_pb2.Event.OUTPUT:
                name = event.path.steps[0].key
                if name in outputs and name != LOGS:  # which each try has
                    raise AssertionError(f"{task} left {name} twice")
                outputs[name] = event.artifact_id
        return outputs

    def _start(self, pipeline: Pipeline) -> None:
        self._services.objects.make_bucket(pipeline.root.partition("://")[2].partition("/")[0])
        runtime = {"parameterValues": pipeline.parameters, "gcsOutputDirectory": pipeline.root}
        written = self._run_driver(
            pipeline,
            "ROOT_DAG",
            {
                "component": json.dumps(pipeline.spec["root"]),
                "runtime_config": json.dumps(runtime),
            },
            ("execution_id", "iteration_count"),
        )
        self._runs[pipeline.run_id] = written["execution_id"]

    def _drive(self, pipeline: Pipeline, tasks: Mapping[str, Task], task: Task) -> Document | None:
        """Gives the pod's specification."""
        config = pipeline.kubernetes(task.name)
        written = self._run_driver(
            pipeline,
            "CONTAINER",
            {
                "component": json.dumps(pipeline.component(task.name)),
                "task": json.dumps(pipeline.tasks[task.name]),
                "task_name": task.name,
                "container": json.dumps(pipeline.container(task.name)),
                "dag_execution_id": self._runs[pipeline.run_id],
                "kubernetes_config": json.dumps(config) if config else "",
            },
            ("cached_decision", "pod_spec_patch"),
        )
        if written["cached_decision"] == "true":
            task.artifacts = self._outputs(pipeline.run_id, task.name)
            return None
        patch: Document = json.loads(written["pod_spec_patch"])
        return patch

    def _run_driver(
        self, pipeline: Pipeline, kind: str, given: Mapping[str, str], outputs: tuple[str, ...]
    ) -> dict[str, str]:
        """Runs a driver as Argo does; returns what it wrote by the name of the output."""
        folder = self._folder / "drivers" / pipeline.run_id / given.get("task_name", "run")
        (folder / "tmp").mkdir(parents=True)
        paths = {name: f"/tmp/outputs/{name}" for name in (*outputs, "condition")}
        grpc = {"address": "127.0.0.1", "port": str(self._services.grpc_port)}
        options = {
            "type": kind,
            "pipeline_name": pipeline.name,
            "run_id": pipeline.run_id,
            "run_name": f"{pipeline.name}-{pipeline.run_id[:5]}",
            "run_display_name": pipeline.name,
            "pipeline_job_create_time_utc": "2026-01-01T00:00:00Z",
            "iteration_index": "-1",
            **{f"{name}_proxy": "" for name in ("http", "https", "no")},
            **{f"ml_pipeline_server_{key}": value for key, value in grpc.items()},
            **{f"mlmd_server_{key}": value for key, value in grpc.items()},
            "log_level": "1",
            "publish_logs": str(self._publish_logs).lower(),
            "ca_cert_path": "",
            **given,
            **{f"{name}_path": path for name, path in paths.items()},
        }
        off = ("cache_disabled", "ml_pipeline_tls_enabled", "metadata_tls_enabled")
        pod = Pod(
            [
                "/driver",
                *(part for name, value in options.items() for part in (f"--{name}", value)),
                *(f"--{name}=false" for name in off),
            ],
            {**IMAGE_ENVIRONMENT, **self._services.environment, **self.plugins},
            {
                "/driver": str(self._programs.driver),
                "/tmp": str(folder / "tmp"),
                SERVICE_ACCOUNT: str(self._services.kubernetes.account),
            },
        )
        if run(pod, folder / "log") != 0:
            raise Refused((folder / "log").read_text()[-3000:])
        files = (folder / "tmp" / "outputs" / name for name in outputs)
        return {file.name: file.read_text() if file.exists() else "" for file in files}

    def _launch(self, pipeline: Pipeline, task: Task, driven: Document) -> None:
        """The driver's patch, on top of what the compiler says of every pod."""
        self.pods[task.name] = driven
        self._services.kubernetes.add_pod(pod_name(task))
        (container,) = driven["containers"]
        environment = {
            **self._services.environment,
            **self.plugins,
            **{each["name"]: each["value"] for each in container.get("env", ())},
        }
        pod, folder = self._pod(pipeline, task, environment, _volumes(driven))
        command = [*container["command"], *container["args"]]
        mounts = {
            **pod.mounts,
            LAUNCHER.rpartition("/")[0]: str(self._init(folder)),
            SERVICE_ACCOUNT: str(self._services.kubernetes.account),
        }
        command = [expanded(part, pod.environment) for part in command]
        log = folder.with_suffix(".log")
        code = self._runner(replace(pod, command=command, mounts=mounts), log)
        shutil.rmtree(folder)
        task.artifacts = self._outputs(pipeline.run_id, task.name)
        task.log = self._published_log(task)
        if code != 0:
            raise Refused(f"exit code {code}: {log.read_text(errors='replace')[-3000:]}")

    def _published_log(self, task: Task) -> str:
        """The step's own log, if it was published: a pod's log has the launcher's lines too."""
        if LOGS not in task.artifacts:
            return ""
        return self._copy(task.artifacts[LOGS]).read_text(errors="replace")

    def _init(self, pod: Path) -> Path:
        """The folder with the launcher that a pod's first container leaves to the other."""
        folder = pod / "kfp-launcher"
        folder.mkdir()
        shutil.copy(self._programs.launcher, folder / LAUNCHER.rpartition("/")[2])
        return folder


def _volumes(pod: Document) -> Iterator[tuple[str, str, str]]:
    """Kind, name and mount path of a pod's claims and secrets."""
    sources = {each["name"]: each for each in pod.get("volumes", ())}
    (container,) = pod["containers"]
    for mount in container.get("volumeMounts", ()):
        source = sources[mount["name"]]
        if "secret" in source:
            yield "secret", source["secret"]["secretName"], mount["mountPath"]
        else:
            yield "pvc", source["persistentVolumeClaim"]["claimName"], mount["mountPath"]


def _plain(value: Any) -> Any:
    plain = getattr(value, value.WhichOneof("value"))
    return json_format.MessageToDict(plain) if value.HasField("struct_value") else plain
