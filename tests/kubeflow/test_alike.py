"""The simulated driver and launcher do what Kubeflow's own programs do, on small steps.

The same pipeline runs by both. Each step writes down all that it sees, which is then compared; so
are what is stored, what the metadata store has, and what becomes of the tasks.
"""

from __future__ import annotations

import json
import re
import uuid
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.kubeflow.argo import Cluster, Run
from tests.kubeflow.conftest import PROGRAMS
from tests.kubeflow.programs import InstalledCluster, Services
from tests.kubeflow.simulator import SimulatedCluster

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.skipif(PROGRAMS is None, reason="needs paths of Kubeflow's two programs"),
]

Document = dict[str, Any]
ROOT = "minio://bucket/root"
TYPE = {"instanceSchema": "title: tfx.Model\ntype: object\nproperties:\n  name: {type: string}\n"}
# Writes down what it sees, leaves its outputs, and ends with the code that it is told.
STEP = """
import json, os, pathlib, sys
text, code, output, *rest = sys.argv[1:]
message = json.loads(text)
folders = ("/minio", "/s3", "/gcs", "/tmp", "/.cache", "/.config", "/.local", "/data", "/secret")
found = {
    str(path): path.read_text(errors="replace") if path.suffix == ".txt" else ""
    for folder in folders for path in sorted(pathlib.Path(folder).rglob("*")) if path.is_file()
}
(made,) = message["outputs"]["artifacts"]["made"]["artifacts"]
folder = pathlib.Path(made["uri"].replace("minio://", "/minio/"))
print("said", flush=True)
(folder / "empty").mkdir(parents=True)
(folder / "deep").mkdir()
(folder / "deep" / "file.txt").write_text("content")
seen = {
    "message": message, "rest": rest, "environment": dict(os.environ), "folder": os.getcwd(),
    "user": os.getuid(), "found": found, "writable": [f for f in folders if os.access(f, os.W_OK)],
}
(folder / "seen.json").write_text(json.dumps(seen))
file = pathlib.Path(message["outputs"]["outputFile"])
file.parent.mkdir(parents=True, exist_ok=True)
file.write_text(output)
for name, parameter in message["outputs"]["parameters"].items():
    if name == "left":
        pathlib.Path(parameter["outputFile"]).write_text("from a file")
sys.exit(int(code))
"""
METADATA = {
    "text": "a",
    "whole": 1,
    "number": 2.5,
    "truth": True,
    "list": [1, "a"],
    "struct": {"a": [1]},
    "display_name": "shown",
}
VALUES: Document = {"text": "{}", "whole": 3, "number": 0.5, "struct": {"a": 1.0}}
PARAMETERS = {
    "text": "STRING",
    "whole": "NUMBER_INTEGER",
    "number": "NUMBER_DOUBLE",
    "struct": "STRUCT",
    "left": "STRING",
}


def output(**changed: Any) -> Document:
    """An ExecutorOutput message."""
    made = {"artifacts": [{"name": "made", "metadata": METADATA}]}
    return {"artifacts": {"made": made}, "parameterValues": VALUES, **changed}


WRONG: dict[str, Document] = {
    "an unknown field": output(more=1),
    "metadata that is null": output(
        artifacts={"made": {"artifacts": [{"metadata": {"text": None}}]}}
    ),
    "a parameter that is nowhere": output(parameterValues={}),
}


def document(
    code: int = 0, retries: int = 0, last: Document | None = None, **given: Any
) -> list[Document]:
    """Two steps, of which the second takes all that the first makes.

    Args:
        code: that the second ends with.
        retries: of the second.
        last: the second's output message, by default that of the first.
        given: the first's parameters that are not as usual.
    """
    component: Document = {
        "inputDefinitions": {
            "artifacts": {"taken": {"artifactType": TYPE, "isOptional": True}},
            "parameters": {
                name: {"parameterType": kind, "isOptional": True}
                for name, kind in PARAMETERS.items()
            },
        },
        "outputDefinitions": {
            "artifacts": {"made": {"artifactType": TYPE, "metadata": {"of": "component"}}},
            "parameters": {name: {"parameterType": kind} for name, kind in PARAMETERS.items()},
        },
    }
    constants = {"text": "$(KFP_POD_NAME) $$", "whole": 7, "struct": {"b": 0}, **given}
    first = {name: {"runtimeValue": {"constant": value}} for name, value in constants.items()}
    made = {"producerTask": "First", "outputArtifactKey": "made"}
    passed = {
        name: {"taskOutputParameter": {"producerTask": "First", "outputParameterKey": name}}
        for name in PARAMETERS
    }
    tasks: Document = {
        "First": {"inputs": {"parameters": first}, "cachingOptions": {"enableCache": True}},
        "Second": {
            "inputs": {"parameters": passed, "artifacts": {"taken": {"taskOutputArtifact": made}}},
            "cachingOptions": {"enableCache": True},
            "dependentTasks": ["First"],
        },
    }
    if retries:
        tasks["Second"]["retryPolicy"] = {
            "maxRetryCount": retries,
            "backoffDuration": "30s",
            "backoffFactor": 2.0,
            "backoffMaxDuration": "3600s",
        }
    command = {"command": ["python", "-c", STEP], "image": "image"}
    ends = {"First": (0, output()), "Second": (code, last or output())}
    variables = [{"name": "SETTING", "value": "value"}]
    spec: Document = {
        "schemaVersion": "2.1.0",
        "pipelineInfo": {"name": str(uuid.uuid4())},  # the cache is shared, and keeps them apart
        "root": {"dag": {"tasks": tasks}},
        "components": {name: {**component, "executorLabel": name} for name in tasks},
        "deploymentSpec": {
            "executors": {
                name: {
                    "container": {
                        **command,
                        "args": [
                            "{{$}}",
                            str(ends[name][0]),
                            json.dumps(ends[name][1]),
                            "$(SETTING) $$ $(NONE)",
                        ],
                        "env": variables,
                    }
                }
                for name in tasks
            }
        },
    }
    for name, task in tasks.items():
        task |= {"taskInfo": {"name": name}, "componentRef": {"name": name}}
    volumes = {
        "pvcMount": [{"constant": "claim", "mountPath": "/data"}],
        "secretAsVolume": [{"secretName": "secret", "mountPath": "/secret", "optional": False}],
    }
    executors = {"Second": volumes}
    platform = {"platforms": {"kubernetes": {"deploymentSpec": {"executors": executors}}}}
    return [spec, platform]


@pytest.fixture
def clusters(services: Services, tmp_path: Path) -> dict[str, Cluster]:
    assert PROGRAMS is not None
    volumes = [tmp_path / name for name in ("claim", "secret")]
    for volume in volumes:
        volume.mkdir()
        (volume / f"{volume.name}.txt").write_text(volume.name)
    claims, secrets = {"claim": volumes[0]}, {"secret": volumes[1]}
    return {
        "simulated": SimulatedCluster(tmp_path / "simulated", claims, secrets),
        "installed": InstalledCluster(tmp_path / "installed", claims, secrets, PROGRAMS, services),
    }


def written(folder: Path, documents: list[Document]) -> Path:
    file = folder / "pipeline.yaml"
    file.write_text(yaml.safe_dump_all(documents))
    return file


def told(cluster: Cluster, run: Run, task: str) -> Any:
    """All that a step saw, without what differs from run to run."""
    seen = json.loads((cluster.artifact(run, task, "made") / "seen.json").read_text())
    del seen["environment"]["KFP_POD_UID"]
    for name in [name for name in seen["environment"] if name.startswith("KUBERNETES_")]:
        del seen["environment"][name]  # of the API's place, which the simulated one has not
    return _without_ids(seen)


def _without_ids(value: Any) -> Any:
    """Without what no two runs have in common, nor two object stores."""
    text = json.dumps(value)
    text = re.sub(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", "ID", text)
    text = re.sub(r'"name": "\d+"', '"name": "NUMBER"', text)
    return json.loads(re.sub(r'("store_session_info": )"([^"\\]|\\.)*"', r'\1""', text))


def left(cluster: Cluster, run: Run, task: str) -> Any:
    """What is stored and known of a task, whatever became of it."""
    known = {name: cluster.metadata(run, task, name) for name in run.tasks[task].artifacts}
    folders = {each["uri"].rpartition("/")[0] for each in known.values()}
    return _without_ids([known, [cluster.objects(folder) for folder in folders]])


def test_a_step_sees_leaves_and_is_known_as_the_same(
    clusters: dict[str, Cluster], tmp_path: Path
) -> None:
    file = written(tmp_path, document())
    found = {}
    for name, cluster in clusters.items():
        done = cluster.run(file, ROOT)
        done.check()
        found[name] = {
            task: [each.log, told(cluster, done, task), left(cluster, done, task)]
            for task, each in done.tasks.items()
        }
    assert found["simulated"] == found["installed"]


def test_a_second_run_reuses_the_same(clusters: dict[str, Cluster], tmp_path: Path) -> None:
    file = written(tmp_path, document())
    for cluster in clusters.values():
        cluster.run(file, ROOT).check()
        assert set(cluster.run(file, ROOT).states.values()) == {"cached"}


@pytest.mark.parametrize("retries", [0, 2])
def test_a_step_that_fails_leaves_the_same(
    retries: int, clusters: dict[str, Cluster], tmp_path: Path
) -> None:
    file = written(tmp_path, document(code=3, retries=retries))
    found = {}
    for name, cluster in clusters.items():
        done = cluster.run(file, ROOT)
        second = done.tasks["Second"]
        found[name] = [done.states, second.tries, second.log, left(cluster, done, "Second")]
    assert found["simulated"] == found["installed"]
    assert found["installed"][:2] == [{"First": "complete", "Second": "failed"}, retries + 1]


@pytest.mark.parametrize("last", WRONG.values(), ids=WRONG)
def test_what_a_step_may_not_leave_fails_it(
    last: Document, clusters: dict[str, Cluster], tmp_path: Path
) -> None:
    file = written(tmp_path, document(last=last))
    for name, cluster in clusters.items():
        assert cluster.run(file, ROOT).failed == ["Second"], name


GIVEN: dict[str, Document] = {
    "a number for a text": {"text": 5},
    "an object for a text": {"text": {"a": 1}},
    "a text for a number": {"whole": "7"},
    "a fraction for a whole number": {"whole": 7.5},
    "a truth for a number": {"number": True},
    "a text for an object": {"struct": "a"},
    "nothing for a text": {"text": None},
    "nothing for a number": {"whole": None},
}


@pytest.mark.parametrize("given", GIVEN.values(), ids=GIVEN)
def test_a_parameter_of_another_type_is_taken_or_refused_alike(
    given: Document, clusters: dict[str, Cluster], tmp_path: Path
) -> None:
    file = written(tmp_path, document(**given))
    found = {}
    for name, cluster in clusters.items():
        done = cluster.run(file, ROOT, until="First")
        taken = None if done.failed else told(cluster, done, "First")["message"]["inputs"]
        found[name] = [done.states, taken]
    assert found["simulated"] == found["installed"]
