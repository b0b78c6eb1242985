"""The compiled pipeline and the newest Kubeflow client, in an environment of its own."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.kubeflow.conftest import IMAGE, compiled
from tests.kubeflow.sandbox import PROJECT
from tests.peers.kubeflow_api import Api, serving

pytestmark = pytest.mark.peers

CLIENT = PROJECT / ".tools" / "kfp" / "bin" / "python"
CONFIG = """\
name = "cells"

[data]
path = "dataset"

[gate]
min_accuracy = 0.9
min_recall = { cat = 0.8 }

[registry]
location = "oci://registry.example/models"

[kubeflow]
signing_keys = "signing-keys"
registry_login = "registry-login"
image_pull_secret = "pull"
pipeline_root = "s3://bucket/edgeline"

[kubeflow.steps.Trainer]
cpu = 4
memory_gb = 8
gpu_count = 1
node_selector = { pool = "gpu" }
tolerations = [{ key = "nvidia.com/gpu", operator = "Exists", effect = "NoSchedule" }]
"""
# Strictly: an unknown field is an error. The driver and the API server parse the same messages.
PARSE = """
import json, sys, yaml
from google.protobuf import json_format
from kfp.pipeline_spec import pipeline_spec_pb2 as messages
from kfp.kubernetes import kubernetes_executor_config_pb2 as kubernetes
from kfp.components import load_component_from_text

text = open(sys.argv[1]).read()
spec, platform = yaml.safe_load_all(text)
json_format.ParseDict(spec, messages.PipelineSpec())
json_format.ParseDict(spec["deploymentSpec"], messages.PipelineDeploymentConfig())
json_format.ParseDict(platform, messages.PlatformSpec())
executors = platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
for executor in executors.values():
    json_format.ParseDict(executor, kubernetes.KubernetesExecutorConfig())
loaded = load_component_from_text(text)
print(json.dumps(sorted(loaded.pipeline_spec.root.dag.tasks)))
"""


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("kubeflow")
    (folder / "cells.toml").write_text(CONFIG)
    (folder / "root.json").write_text("{}")
    output = folder / "pipeline.yaml"
    root = f"registry.root={folder / 'root.json'}"
    done = compiled(folder / "cells.toml", output, "--set", root, image=IMAGE)
    assert done.returncode == 0, done.stderr
    return output


@pytest.fixture
def api() -> Iterator[Api]:
    state = Api()
    with serving(state) as url:
        state.url = url
        yield state


def submit(api: Api, pipeline: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    script = PROJECT / "kubeflow" / "submit.py"
    return subprocess.run(
        [str(CLIENT), str(script), "--host", api.url, str(pipeline), *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env={**os.environ, "KF_PIPELINES_TOKEN": "secret", "HOME": str(pipeline.parent)},
    )


def test_the_newest_client_reads_both_documents_strictly(pipeline: Path, tmp_path: Path) -> None:
    script = tmp_path / "parse.py"
    script.write_text(PARSE)
    done = subprocess.run(
        [str(CLIENT), str(script), str(pipeline)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert {"Plan", "Trainer", "EdgePusher"} < set(json.loads(done.stdout))


def test_a_run_is_uploaded_started_and_waited_for(api: Api, pipeline: Path) -> None:
    given = ("epochs=3", "min_accuracy=0.5", 'min_recall={"cat": 0.5}')
    done = submit(api, pipeline, *(word for each in given for word in ("--param", each)))
    assert done.returncode == 0, done.stderr
    assert f"Run details: {api.url}/#/runs/details/r0" in done.stdout
    assert done.stdout.endswith(f"Outcome: succeeded\n{api.url}/#/runs/details/r0\n")
    run = api.runs["r0"]
    assert run["runtime_config"]["parameters"] == {
        "epochs": 3,
        "min_accuracy": 0.5,
        "min_recall": {"cat": 0.5},
    }
    uploaded = api.versions[run["pipeline_version_reference"]["pipeline_version_id"]]["file"]
    assert pipeline.read_text() in uploaded
    assert api.tokens == {"Bearer secret"}


def test_the_same_file_is_uploaded_once(api: Api, pipeline: Path) -> None:
    for _ in range(2):
        assert submit(api, pipeline, "--no-wait").returncode == 0
    assert len(api.pipelines) == 1
    used = {run["pipeline_version_reference"]["pipeline_version_id"] for run in api.runs.values()}
    assert len(used) == 1
    assert len(api.experiments) == 1


def test_a_failed_run_names_the_step(api: Api, pipeline: Path) -> None:
    api.states = ["FAILED"]
    done = submit(api, pipeline)
    assert done.returncode == 1
    assert done.stdout.endswith(
        f"Outcome: failed\n  EdgePusher failed; its log says why\n{api.url}/#/runs/details/r0\n"
    )


def test_a_cancelled_run_is_not_waited_for_for_ever(api: Api, pipeline: Path) -> None:
    api.states = ["CANCELED"]
    assert submit(api, pipeline).returncode == 1


def test_waiting_has_an_end(api: Api, pipeline: Path) -> None:
    api.states = ["RUNNING"]
    done = submit(api, pipeline, "--timeout", "0")
    assert (done.returncode, done.stderr) == (1, "not done after 0 s; the run goes on\n")


def test_a_recurring_run_resolves_its_baseline_each_time(api: Api, pipeline: Path) -> None:
    done = submit(api, pipeline, "--schedule", "0 0 2 * * *")
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith(f"Recurring run: {api.url}/#/recurringrun/details/j0\n")
    recurring = api.recurring["j0"]
    assert recurring["trigger"]["cron_schedule"]["cron"] == "0 0 2 * * *"
    assert "baseline_digest" not in recurring["runtime_config"]["parameters"]


MISTAKES = {
    "a value of another type": (
        ("--param", "epochs=ten"),
        '--param epochs=ten: expected a whole number; received "ten"\n',
    ),
    "half an epoch": (
        ("--param", "epochs=1.5"),
        '--param epochs=1.5: expected a whole number; received "1.5"\n',
    ),
    "a word for a threshold": (
        ("--param", "min_accuracy=high"),
        '--param min_accuracy=high: expected a number; received "high"\n',
    ),
    "a number that JSON does not have": (
        ("--param", "min_accuracy=nan"),
        '--param min_accuracy=nan: expected a number; received "nan"\n',
    ),
    "a number for thresholds by class": (
        ("--param", "min_recall=0.9"),
        '--param min_recall=0.9: expected a JSON object, such as {"camera": 0.9}; received "0.9"\n',
    ),
    "a parameter that does not exist": (
        ("--param", "epoch=3"),
        "--param epoch=3: no such parameter; expected one of: baseline_digest, channel, data_path, "
        "epochs, max_drop, max_drop_deployed, min_accuracy, min_recall, registry\n",
    ),
    "no value": (("--param", "epochs"), "--param epochs: expected NAME=VALUE, such as epochs=20\n"),
}


@pytest.mark.parametrize(("arguments", "message"), MISTAKES.values(), ids=MISTAKES)
def test_a_mistake_is_one_line(
    arguments: tuple[str, ...], message: str, api: Api, pipeline: Path
) -> None:
    done = submit(api, pipeline, *arguments)
    assert (done.returncode, done.stderr) == (2, message)
    assert not api.runs


def test_a_server_that_is_not_there_is_one_line(pipeline: Path) -> None:
    nowhere = Api()
    nowhere.url = "http://127.0.0.1:9"
    done = submit(nowhere, pipeline)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith("http://127.0.0.1:9: no answer: ")


def test_a_file_that_is_no_pipeline_is_one_line(api: Api, tmp_path: Path) -> None:
    other = tmp_path / "other.yaml"
    other.write_text("a: 1\n")
    done = submit(api, other)
    assert done.returncode == 2
    assert done.stderr == f"{other}: no pipeline; expected what kubeflow/compile.py wrote\n"
