"""The manifests name what the compiled pipeline and the README name, and run nothing as root."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipeline.config import KubeflowConfig
from tests.kubeflow.sandbox import PROJECT

MANIFESTS = PROJECT / "kubeflow" / "manifests"
FOLDERS = (MANIFESTS, MANIFESTS / "ingest", MANIFESTS / "recurring")
README = (PROJECT / "kubeflow" / "README.md").read_text()


def kustomization(folder: Path) -> dict[str, Any]:
    document: dict[str, Any] = yaml.safe_load((folder / "kustomization.yaml").read_text())
    return document


def objects() -> Iterator[dict[str, Any]]:
    for folder in FOLDERS:
        for name in kustomization(folder)["resources"]:
            yield from yaml.safe_load_all((folder / name).read_text())


def pods() -> list[Any]:
    return [o["spec"]["template"]["spec"] for o in objects() if "template" in o.get("spec", {})]


def test_every_resource_is_there_and_has_a_name() -> None:
    named = [(each["kind"], each["metadata"]["name"]) for each in objects()]
    assert len(set(named)) == len(named) >= 8
    listed = {folder / name for folder in FOLDERS for name in kustomization(folder)["resources"]}
    written = {f for f in MANIFESTS.rglob("*.yaml") if f.name != "kustomization.yaml"}
    assert listed == written


def test_the_claims_are_those_that_the_configuration_names() -> None:
    claims = [o["metadata"]["name"] for o in objects() if o["kind"] == "PersistentVolumeClaim"]
    assert claims == ["edgeline-data", "edgeline-registry"]
    assert KubeflowConfig().data_volume.claim in claims


def test_the_secrets_are_those_that_pods_and_readme_name() -> None:
    made = {each["name"] for each in kustomization(MANIFESTS)["secretGenerator"]}
    mounted = {v["secret"]["secretName"] for p in pods() for v in p["volumes"] if "secret" in v}
    assert mounted < made
    for name in ("edgeline-signing-keys", "edgeline-registry-login"):
        assert name in made
        assert f'"{name}"' in README


def test_every_image_that_is_replaced_is_used() -> None:
    for folder in FOLDERS:
        pods = [
            each["spec"]["template"]["spec"]
            for name in kustomization(folder)["resources"]
            for each in yaml.safe_load_all((folder / name).read_text())
            if "template" in each.get("spec", {})
        ]
        used = {container["image"] for pod in pods for container in pod["containers"]}
        assert {each["name"] for each in kustomization(folder).get("images", ())} <= used


def test_the_readme_makes_every_file_that_a_secret_or_a_config_map_is_made_of() -> None:
    for folder in FOLDERS:
        document = kustomization(folder)
        for generator in ("secretGenerator", "configMapGenerator"):
            for made in document.get(generator, ()):
                for file in made["files"]:
                    assert Path(file).name in README, file


def test_no_secret_gets_under_version_control() -> None:
    rules = (MANIFESTS / "secrets" / ".gitignore").read_text().splitlines()
    assert [rule for rule in rules if not rule.startswith("#")] == ["*", "!.gitignore"]


@pytest.mark.parametrize("pod", pods(), ids=lambda pod: pod["containers"][0]["name"])
def test_a_pod_runs_without_root_rights_or_a_writable_image(pod: dict[str, Any]) -> None:
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert pod["automountServiceAccountToken"] is False
    (container,) = pod["containers"]
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert set(container["resources"]) == {"requests", "limits"}
    volumes = {volume["name"] for volume in pod["volumes"]}
    assert {mount["name"] for mount in container["volumeMounts"]} == volumes


def test_the_submitter_may_only_use_kubeflow_s_api() -> None:
    (role,) = (each for each in objects() if each["kind"] == "Role")
    (rule,) = role["rules"]
    assert rule["apiGroups"] == ["pipelines.kubeflow.org"]
    assert "*" not in rule["verbs"] + rule["resources"]
