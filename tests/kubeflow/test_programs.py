"""What only Kubeflow's own programs can say: `make test-kubeflow DRIVER=... LAUNCHER=...`."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.kubeflow.conftest import PROGRAMS, ROOT, Prepared, Ran
from tests.kubeflow.programs import InstalledCluster

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.skipif(PROGRAMS is None, reason="needs paths of Kubeflow's two programs"),
]


@pytest.fixture
def installed(ran: Ran) -> InstalledCluster:
    assert isinstance(ran.cluster, InstalledCluster)
    return ran.cluster


def test_the_metadata_store_has_every_task_as_complete(
    ran: Ran, installed: InstalledCluster
) -> None:
    states = installed.execution_states(ran.first)
    assert states == dict.fromkeys(ran.first.tasks, "COMPLETE")


def test_every_step_s_log_is_published(ran: Ran, installed: InstalledCluster) -> None:
    for name in ran.first.tasks:
        log = installed.metadata(ran.first, name, "executor-logs")
        assert log["uri"].endswith("/executor-logs-0")


def test_a_failed_task_is_failed_in_the_metadata_store_too_and_its_log_is_there(
    ran: Ran, installed: InstalledCluster
) -> None:
    run = installed.run(ran.pipeline, ROOT, {"data_path": "/data/none"})
    assert installed.execution_states(run) == {"Plan": "FAILED"}
    log = installed.artifact(run, "Plan", "executor-logs").read_text()
    assert log.startswith("/data/none is not an ingested dataset")


def test_a_pod_gets_what_the_settings_ask_of_kubernetes(
    installed: InstalledCluster, ran: Ran
) -> None:
    pod = installed.pods["Trainer"]
    (container,) = pod["containers"]
    resources = {"cpu": "4", "memory": "8G"}
    assert container["resources"]["requests"] == resources
    assert container["resources"]["limits"] == {**resources, "nvidia.com/gpu": "1"}
    assert pod["nodeSelector"] == {"pool": "gpu"}
    assert pod["tolerations"] == [
        {"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}
    ]
    claims = {
        mount["mountPath"]
        for mount in installed.pods["EdgePusher"]["containers"][0]["volumeMounts"]
    }
    assert claims == {"/registry", "/etc/edgeline/signing-keys"}


def test_a_step_runs_without_published_logs_too(prepared: Prepared, tmp_path: Path) -> None:
    assert PROGRAMS is not None
    cluster = prepared.elsewhere(tmp_path, publish_logs=False)
    run = cluster.run(prepared.pipeline, "s3://unpublished", until="ImportExampleGen")
    run.check()
    assert run.states["ImportExampleGen"] == "complete"
    assert list(run.tasks["ImportExampleGen"].artifacts) == ["examples"]
