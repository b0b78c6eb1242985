"""The simulated cluster fails, tries again and stops as Kubeflow and Argo do."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.kubeflow.argo import Refused, Run, tried_again
from tests.kubeflow.sandbox import Pod
from tests.kubeflow.simulator import SimulatedCluster

Document = dict[str, Any]
ROOT = "minio://bucket/root"
TYPE = {"schemaTitle": "system.Artifact", "schemaVersion": "0.0.1"}
TWICE = {"maxRetryCount": 2, "backoffDuration": "30s", "backoffFactor": 2.0}


def step(*needs: str, retries: Document | None = None) -> tuple[Document, Document]:
    """A task that takes what another made, and its component."""
    taken = {f"from{name}": _output_of(name) for name in needs}
    task: Document = {"dependentTasks": list(needs), "inputs": {"artifacts": taken}}
    if retries:
        task["retryPolicy"] = {**retries, "backoffMaxDuration": "3600s"}
    inputs = {"artifacts": {key: {"artifactType": TYPE} for key in taken}}
    outputs = {"artifacts": {"made": {"artifactType": TYPE}}}
    return task, {"inputDefinitions": inputs, "outputDefinitions": outputs}


def _output_of(task: str) -> Document:
    return {"taskOutputArtifact": {"producerTask": task, "outputArtifactKey": "made"}}


def document(**steps: tuple[Document, Document]) -> Document:
    spec: Document = {
        "schemaVersion": "2.1.0",
        "pipelineInfo": {"name": "test"},
        "root": {"dag": {"tasks": {}}},
        "components": {},
        "deploymentSpec": {"executors": {}},
    }
    for name, (task, component) in steps.items():
        spec["root"]["dag"]["tasks"][name] = {**task, "componentRef": {"name": name}}
        spec["components"][name] = {**component, "executorLabel": name}
        container = {"image": "image", "command": [name], "args": ["{{$}}"]}
        spec["deploymentSpec"]["executors"][name] = {"container": container}
    return spec


def simulate(
    folder: Path,
    spec: Document,
    work: Callable[[str, int, Path], int],
    publish_logs: bool = True,
) -> Run:
    """Runs it; `work` is given a task, its number of the try and the staging folder."""
    tries: dict[str, int] = {}

    def pod(pod: Pod, log: Path) -> int:
        name = pod.command[0]
        tries[name] = tries.get(name, 0) + 1
        log.write_text(f"try {tries[name]}")
        return work(name, tries[name], Path(pod.mounts["/minio"]))

    file = folder / "pipeline.yaml"
    platform: Document = {"platforms": {"kubernetes": {"deploymentSpec": {"executors": {}}}}}
    file.write_text(yaml.safe_dump_all([spec, platform]))
    return SimulatedCluster(folder, {}, {}, pod, publish_logs).run(file, ROOT)


def outputs(staging: Path) -> Path:
    """The folder that a task's outputs go to."""
    (root,) = (staging / "bucket" / "root" / "test").glob("*/*/*")
    return root / "made"


def test_a_step_that_failed_once_starts_anew_and_leaves_nothing_of_the_first_try(
    tmp_path: Path,
) -> None:
    def work(name: str, tries: int, staging: Path) -> int:
        assert not outputs(staging).exists()
        outputs(staging).mkdir()
        (outputs(staging) / f"of-try-{tries}").touch()
        return 137 if tries == 1 else 0

    done = simulate(tmp_path, document(A=step(retries=TWICE)), work)
    assert (done.states, done.tasks["A"].tries) == ({"A": "complete"}, 2)
    assert sorted(stored(tmp_path)) == ["executor-logs-0", "executor-logs-1", "of-try-2"]


def stored(folder: Path) -> dict[str, str]:
    """The objects, by the last part of their names."""
    objects = (path for path in (folder / "objects").rglob("*") if path.is_file())
    return {path.name: path.read_text() for path in objects}


@pytest.mark.parametrize("code", [0, 1])
def test_a_log_is_there_before_the_step_and_stored_however_it_ends(
    code: int, tmp_path: Path
) -> None:
    def work(name: str, tries: int, staging: Path) -> int:
        (log,) = staging.rglob("executor-logs-0")
        assert log.is_file()
        return code

    done = simulate(tmp_path, document(A=step()), work)
    assert done.failed == ["A"][:code]
    assert stored(tmp_path) == {"executor-logs-0": "try 1"}


def test_a_pod_that_was_killed_leaves_no_log(tmp_path: Path) -> None:
    """Its launcher is killed with it, before it uploads."""
    killed = document(A=step(retries=TWICE))
    simulate(tmp_path, killed, lambda name, tries, staging: -9 if tries == 1 else 0)
    assert list(stored(tmp_path)) == ["executor-logs-1"]


def test_without_published_logs_there_are_none(tmp_path: Path) -> None:
    done = simulate(
        tmp_path, document(A=step()), lambda name, tries, staging: 0, publish_logs=False
    )
    assert list(done.tasks["A"].artifacts) == ["made"]
    assert stored(tmp_path) == {}


def test_every_try_gets_the_same_inputs(tmp_path: Path) -> None:
    seen: list[list[str]] = []

    def work(name: str, tries: int, staging: Path) -> int:
        if name == "A":
            outputs(staging).mkdir()
            (outputs(staging) / "file").touch()
            return 0
        files = [
            path for path in staging.rglob("*") if path.is_file() and path.parent.name == "made"
        ]
        seen.append([path.name for path in files])
        for path in files:
            path.unlink()  # in this pod alone
        return 1

    done = simulate(tmp_path, document(A=step(), B=step("A", retries=TWICE)), work)
    assert (done.states, done.tasks["B"].tries) == ({"A": "complete", "B": "failed"}, 3)
    assert seen == [["file"]] * 3
    assert (done.tasks["B"].log, done.tasks["B"].error) == ("try 3", "exit code 1")


def test_a_step_without_retries_is_tried_once_and_nothing_starts_after_it(tmp_path: Path) -> None:
    spec = document(A=step(), B=step("A"), C=step("B"))
    done = simulate(tmp_path, spec, lambda name, tries, staging: int(name == "B"))
    assert done.states == {"A": "complete", "B": "failed", "C": "not run"}
    assert [task.tries for task in done.tasks.values()] == [1, 1, 0]


def test_a_step_that_does_not_wait_for_what_it_takes_fails(tmp_path: Path) -> None:
    spec = document(A=step("B"), B=step())
    del spec["root"]["dag"]["tasks"]["A"]["dependentTasks"]
    done = simulate(tmp_path, spec, lambda name, tries, staging: 0)
    assert done.states["A"] == "failed"
    assert "failed to get execution of upstream task B" in done.tasks["A"].error


@pytest.mark.parametrize("field", ["parameterIterator", "triggerPolicy"])
def test_what_is_not_simulated_is_refused(field: str, tmp_path: Path) -> None:
    spec = copy.deepcopy(document(A=step()))
    spec["root"]["dag"]["tasks"]["A"][field] = {
        "parameterIterator": {"itemInput": "a"},
        "triggerPolicy": {"strategy": "ALL_UPSTREAM_TASKS_COMPLETED"},
    }[field]
    with pytest.raises(Refused, match="not simulated"):
        simulate(tmp_path, spec, lambda name, tries, staging: 0)


PATIENCE: dict[str, tuple[int, float, bool]] = {
    "after the first try": (1, 10.0, True),
    "after the second": (2, 10.0, True),
    "after the third, which was the last": (3, 10.0, False),
    "when the limit would pass while it waits": (2, 3550.0, False),
    "when the limit passed in the first try": (1, 3601.0, False),
}


@pytest.mark.parametrize(("tries", "seconds", "again"), PATIENCE.values(), ids=PATIENCE)
def test_argo_s_patience_has_two_limits(tries: int, seconds: float, again: bool) -> None:
    assert tried_again({**TWICE, "backoffMaxDuration": "3600s"}, tries, seconds) is again
