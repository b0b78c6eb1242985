"""The manifests name what the compiled pipeline and the README name, and run nothing as root."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from pipeline.config import KubeflowConfig
from tests.kubeflow.sandbox import PROJECT

MANIFESTS = PROJECT / "kubeflow" / "manifests"
RESOURCES = yaml.safe_load((MANIFESTS / "kustomization.yaml").read_text())["resources"]
README = (PROJECT / "kubeflow" / "README.md").read_text()


def objects() -> Iterator[dict[str, Any]]:
    for name in RESOURCES:
        yield from yaml.safe_load_all((MANIFESTS / name).read_text())


def pods() -> Iterator[dict[str, Any]]:
    for each in objects():
        spec = each["spec"].get("jobTemplate", each)["spec"]
        if "template" in spec:
            yield spec["template"]["spec"]


def containers(pod: dict[str, Any]) -> list[dict[str, Any]]:
    return [*pod.get("initContainers", ()), *pod["containers"]]


def test_every_resource_is_there_and_has_a_name() -> None:
    named = [(each["kind"], each["metadata"]["name"]) for each in objects()]
    assert len(set(named)) == len(named) >= 7
    assert {*RESOURCES, "kustomization.yaml"} == {file.name for file in MANIFESTS.iterdir()}


def test_the_claims_are_those_that_the_configuration_names() -> None:
    claims = [o["metadata"]["name"] for o in objects() if o["kind"] == "PersistentVolumeClaim"]
    assert claims == ["edgeline-data", "edgeline-registry"]
    assert KubeflowConfig().data_volume.claim in claims


def test_the_readme_s_commands_name_what_there_is() -> None:
    kinds = {"deploy": "Deployment", "cronjob": "CronJob", "service": "Service"}
    named = re.findall(r"\b(deploy|cronjob|service)/(edgeline-[a-z]+)", README)
    there = {(each["kind"], each["metadata"]["name"]) for each in objects()}
    assert {kind for kind, _ in named} == kinds.keys()
    assert {(kinds[kind], name) for kind, name in named} <= there


def test_the_online_key_is_the_only_one_that_a_pod_of_the_manifests_gets() -> None:
    volumes = [volume for pod in pods() for volume in pod["volumes"] if "secret" in volume]
    keys = [v["secret"] for v in volumes if v["secret"]["secretName"] == "edgeline-signing-keys"]
    assert [secret["items"] for secret in keys] == [[{"key": "online.pem", "path": "online.pem"}]]


@pytest.mark.parametrize("pod", [*pods()], ids=lambda pod: str(pod["containers"][0]["name"]))
def test_a_pod_runs_without_root_rights_or_a_writable_image(pod: dict[str, Any]) -> None:
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert pod["automountServiceAccountToken"] is False
    volumes = {volume["name"] for volume in pod["volumes"]}
    for container in containers(pod):
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert set(container["resources"]) == {"requests", "limits"}
        assert {mount["name"] for mount in container["volumeMounts"]} == volumes
