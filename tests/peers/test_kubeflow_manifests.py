"""From nothing by `kubeflow/prepare.py` and one `kubectl apply`: what is sent, and what it runs.

The commands of the pods run here, with the volumes that their specifications name, against Debian's
docker-registry with the certificate and the password that were prepared.
"""

from __future__ import annotations

import base64
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.edge.certificates import Issued
from tests.kubeflow.argo import IMAGE_ENVIRONMENT, expanded
from tests.kubeflow.conftest import IMAGE
from tests.kubeflow.sandbox import PROJECT, Pod, run
from tests.peers.docker_registry import DockerRegistry
from tests.peers.test_kubeflow_client import CLIENT
from tests.pipeline.data.test_ingest import save

pytestmark = pytest.mark.peers

README = (PROJECT / "kubeflow" / "README.md").read_text()
PASSPHRASE = "correct horse"
CONFIG = """\
name = "pets"

[data]
path = "dataset"

[gate]
min_accuracy = 0.9

[registry]
location = "oci://edgeline-registry:5000/models"
ca_file = "cluster/secrets/ca.crt"

[kubeflow]
signing_keys = "edgeline-signing-keys"
registry_login = "edgeline-registry-login"
"""


@dataclass(frozen=True)
class Prepared:
    """What an admin has before the first command that reaches the cluster.

    Attributes:
        folder: with `pets.toml`, `keys` and the overlay, `cluster`.
        built: what `kubectl apply --kustomize` would send.
    """

    folder: Path
    built: Path

    @property
    def objects(self) -> dict[tuple[str, str], Any]:
        """By kind and name."""
        documents = yaml.safe_load_all(self.built.read_text())
        return {(each["kind"], each["metadata"]["name"]): each for each in documents}


def prepare(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    script = PROJECT / "kubeflow" / "prepare.py"
    options = ["--config", "pets.toml", "--image", IMAGE, "--output", "cluster", *arguments]
    return subprocess.run(
        [sys.executable, str(script), *options],
        cwd=folder,
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        env={**os.environ, "EDGELINE_PASSPHRASE": PASSPHRASE},
        check=False,
    )


def kustomize(folder: Path, output: Path) -> None:
    command = ["kubectl", "kustomize", str(folder)]
    built = subprocess.run(command, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr
    output.write_text(built.stdout)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    folder = tmp_path_factory.mktemp("prepared")
    (folder / "pets.toml").write_text(CONFIG)
    done = prepare(folder, "--namespace", "team", "--host", "registry.example")
    assert done.returncode == 0, done.stderr
    kustomize(folder / "cluster", folder / "built.yaml")
    return Prepared(folder, folder / "built.yaml")


@pytest.mark.parametrize("version", ["1.29", "1.37"])
def test_what_is_sent_fits_the_schemas_of_kubernetes_strictly(
    version: str, prepared: Prepared
) -> None:
    validate = CLIENT.parent / "kubernetes-validate"
    done = subprocess.run(
        [str(validate), "--strict", "--kubernetes-version", version, str(prepared.built)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_everything_is_in_the_namespace_and_can_be_applied_again(prepared: Prepared) -> None:
    assert {each["metadata"]["namespace"] for each in prepared.objects.values()} == {"team"}
    assert not {"Job", "Pod"} & {kind for kind, _ in prepared.objects}, "they can't be changed"


def test_the_cluster_gets_the_two_keys_that_the_pipeline_needs_and_no_other(
    prepared: Prepared,
) -> None:
    secrets = {
        name: set(each["data"])
        for (kind, name), each in prepared.objects.items()
        if kind == "Secret"
    }
    assert secrets == {
        "edgeline-signing-keys": {"online.pem", "pets-ci.pem", "passphrase"},
        "edgeline-registry-login": {"config.json", "ca.crt"},
        "edgeline-registry-tls": {"tls.crt", "tls.key"},
        "edgeline-registry-users": {"htpasswd"},
    }


def test_the_certificate_has_the_names_that_pods_and_devices_use(prepared: Prepared) -> None:
    command = ["openssl", "x509", "-noout", "-ext", "subjectAltName"]
    certificate = (prepared.folder / "cluster" / "secrets" / "tls.crt").read_text()
    names = subprocess.run(command, input=certificate, capture_output=True, text=True, check=True)
    assert names.stdout.splitlines()[-1].strip() == (
        "DNS:edgeline-registry, DNS:localhost, DNS:registry.example"
    )


def test_the_readme_s_patch_gives_the_registry_an_address_of_its_own(prepared: Prepared) -> None:
    (patch,) = re.findall(r"^ +(patches:\n.*?)^ +```$", README, re.MULTILINE | re.DOTALL)
    overlay = yaml.safe_load((prepared.folder / "cluster" / "kustomization.yaml").read_text())
    folder = prepared.folder / "patched"
    shutil.copytree(prepared.folder / "cluster", folder)
    (folder / "kustomization.yaml").write_text(yaml.safe_dump({**overlay, **yaml.safe_load(patch)}))
    kustomize(folder, prepared.folder / "patched.yaml")
    service = Prepared(prepared.folder, prepared.folder / "patched.yaml").objects[
        "Service", "edgeline-registry"
    ]
    assert service["spec"]["type"] == "LoadBalancer"


WRONG = {
    "an image that can change": (
        ("--image", "edgeline:1"),
        "--image: expected an image such as registry.example/edgeline@sha256:...; received "
        "'edgeline:1'\n",
    ),
    "a folder that is there": (
        ("--output", "keys"),
        "--output: keys exists; expected a new folder",
    ),
    "a name that is none": (
        ("--host", "a,DNS:b"),
        "expected a name of lower-case letters, digits and dashes; received 'a,DNS:b'\n",
    ),
}


@pytest.mark.parametrize(("arguments", "message"), WRONG.values(), ids=WRONG)
def test_a_mistake_leaves_nothing(arguments: tuple[str, ...], message: str, tmp_path: Path) -> None:
    (tmp_path / "pets.toml").write_text(CONFIG)
    (tmp_path / "keys").mkdir()
    done = prepare(tmp_path, *arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert message in done.stderr
    assert {path.name for path in tmp_path.rglob("*")} == {"pets.toml", "keys"}


class Namespace:
    """The objects' volumes as folders, and pods run with them.

    Args:
        objects: by kind and name.
        folder: an empty one.
        port: of the registry server, which in the cluster is a service.
    """

    def __init__(self, objects: dict[tuple[str, str], Any], folder: Path, port: str) -> None:
        self._objects = objects
        self._folder = folder
        self._server = f"localhost:{port}"
        self._pods = 0
        self.claim = folder / "claim"
        self.claim.mkdir()

    def run(self, kind: str, name: str, container: str) -> tuple[int, str]:
        """Runs one container of a workload; returns its exit code and its log."""
        spec = self._objects[kind, name]["spec"]
        pod = (spec["jobTemplate"]["spec"] if kind == "CronJob" else spec)["template"]["spec"]
        (found,) = (
            each
            for each in (*pod.get("initContainers", ()), *pod["containers"])
            if each["name"] == container
        )
        self._pods += 1
        folder = self._folder / f"pod-{self._pods}"
        folder.mkdir()
        volumes = {each["name"]: self._volume(each, folder) for each in pod["volumes"]}
        environment = {**IMAGE_ENVIRONMENT, **dict(self._variables(found))}
        mounts = {
            mount["mountPath"]: str(volumes[mount["name"]]) for mount in found["volumeMounts"]
        }
        command = [expanded(word, environment) for word in found["command"]]
        security = pod["securityContext"]
        user = f"{security['runAsUser']}:{security['runAsGroup']}" if os.geteuid() == 0 else None
        code = run(Pod(command, environment, mounts, user=user), folder / "log")
        return code, (folder / "log").read_text()

    def content(self, kind: str, name: str) -> dict[str, bytes]:
        """What a secret or a config map holds, with the server's name as it is here."""
        found = self._objects[kind, name]
        binary = found.get("data" if kind == "Secret" else "binaryData", {})
        content = {key: base64.b64decode(text) for key, text in binary.items()}
        if kind == "ConfigMap":
            content |= {key: text.encode() for key, text in found["data"].items()}
        return {
            key: each.replace(b"edgeline-registry:5000", self._server.encode())
            for key, each in content.items()
        }

    def _volume(self, volume: dict[str, Any], pod: Path) -> Path:
        if "persistentVolumeClaim" in volume:
            return self.claim
        folder = pod / str(volume["name"])
        folder.mkdir()
        if "secret" in volume:
            content = self.content("Secret", volume["secret"]["secretName"])
            items = volume["secret"].get("items", [{"key": key, "path": key} for key in content])
        elif "configMap" in volume:
            content = self.content("ConfigMap", volume["configMap"]["name"])
            items = [{"key": key, "path": key} for key in content]
        else:
            assert "emptyDir" in volume
            return folder
        for item in items:
            (folder / item["path"]).write_bytes(content[item["key"]])
        return folder

    def _variables(self, container: dict[str, Any]) -> Iterator[tuple[str, str]]:
        for variable in container.get("env", ()):
            if "value" in variable:
                yield variable["name"], variable["value"]
                continue
            (source,) = variable["valueFrom"].values()
            kind = "Secret" if "secretKeyRef" in variable["valueFrom"] else "ConfigMap"
            content = self.content(kind, source["name"])
            if source["key"] in content or not source.get("optional"):
                yield variable["name"], content[source["key"]].decode()


@pytest.fixture(scope="module")
def namespace(prepared: Prepared, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Namespace]:
    secrets = prepared.folder / "cluster" / "secrets"
    tls = Issued(secrets / "tls.crt", secrets / "tls.key")
    auth = {"htpasswd": {"realm": "edgeline", "path": str(secrets / "htpasswd")}}
    folder = tmp_path_factory.mktemp("namespace")
    with DockerRegistry(folder / "server", tls=tls, auth=auth) as server:
        yield Namespace(prepared.objects, folder, server.host.rpartition(":")[2])


TOOLS = ("Deployment", "edgeline-tools", "registry")
REFRESH = ("CronJob", "edgeline-refresh", "refresh")


def test_the_registry_is_put_in_place_once_and_refreshed_with_the_online_key(
    namespace: Namespace,
) -> None:
    code, log = namespace.run(*REFRESH)
    assert code == 3, "there is no registry yet"
    for _ in range(2):  # whatever starts the pod again
        code, log = namespace.run(*TOOLS)
        assert code == 0, log
    code, log = namespace.run(*REFRESH)
    assert code == 0, log
    assert "timestamp        2" in log
    code, log = namespace.run(*TOOLS)
    assert code == 0, "what is newer than the beginning stays"


def test_photos_on_the_volume_become_the_dataset(namespace: Namespace) -> None:
    for index in range(3):
        save(namespace.claim / f"photos/cat/{index}.png", index)
        save(namespace.claim / f"photos/dog/{index}.png", 10 + index)
    code, log = namespace.run("CronJob", "edgeline-ingest", "ingest")
    assert code == 0, log
    assert (namespace.claim / "dataset" / "labels.txt").read_text().split() == ["cat", "dog"]
