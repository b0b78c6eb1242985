"""Prepares what the pipeline needs in a cluster: `python kubeflow/prepare.py --help`.

It makes the registry's keys and its beginning, a password and a certificate, and an overlay of
`kubeflow/manifests` with what belongs in the cluster. The other keys are beside `registry.root`.
"""

from __future__ import annotations

import argparse
import base64
import io
import json
import os
import re
import secrets
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import yaml

from edgeline.cli import main as edgeline
from edgeline.cli.registry.init import add_no_passphrase, new_passphrase
from edgeline.errors import EdgelineError
from edgeline.key_files import PASSPHRASE_VARIABLE
from pipeline.config import Config, load_config
from pipeline.errors import UserError
from pipeline.orchestration.kubeflow.cluster import registry_location
from pipeline.orchestration.kubeflow.names import CA_FILE, PASSPHRASE_FILE

EXAMPLE = """\
example:
  python kubeflow/prepare.py --config cells.toml --image registry.example/edgeline@sha256:... \\
      --output cluster
  kubectl apply --kustomize cluster

It needs openssl and htpasswd (Debian's apache2-utils).
"""
MANIFESTS = Path(__file__).resolve().parent / "manifests"
# As the manifests name them.
SERVER = "edgeline-registry:5000"
KEYS_SECRET = "edgeline-signing-keys"
LOGIN_SECRET = "edgeline-registry-login"
TLS_SECRET = "edgeline-registry-tls"
USER = "edgeline"
DAYS = 3650  # that the certificate holds, which only this registry's clients trust
_IMAGE = re.compile(r"[a-z0-9][\w.:/-]*@sha256:[0-9a-f]{64}", re.ASCII)
_HOST = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")


def main(arguments: Sequence[str] | None = None) -> int:
    """Prepares; returns the exit code: 0, or that of the mistake."""
    options = _parser().parse_args(arguments)
    try:
        config = load_config(options.config)
        if problems := list(_problems(config, options)):
            raise UserError("\n".join(problems))
        passphrase = new_passphrase(options)
        options.output.parent.mkdir(parents=True, exist_ok=True)
        # Beside the output, which is there whole or not at all.
        with tempfile.TemporaryDirectory(dir=options.output.parent) as scratch:
            folder = Path(scratch) / options.output.name
            (folder / "secrets").mkdir(parents=True)
            folder.chmod(0o700)
            (folder / ".gitignore").write_text("*\n")
            _make_server_secrets(folder / "secrets", options.host)
            if code := _start_registry(config, folder, passphrase):
                return code
            overlay = _overlay(config, options, folder)
            (folder / "kustomization.yaml").write_text(yaml.safe_dump(overlay, sort_keys=False))
            folder.rename(options.output)
    except (UserError, EdgelineError) as error:
        print(error, file=sys.stderr)
        return error.exit_code
    except OSError as error:
        print(f"{error.filename}: {error.strerror}", file=sys.stderr)
        return UserError.exit_code
    keys = config.publishing.root.parent
    print(f"{options.output}: all that belongs in the cluster; keep its secrets to yourself")
    print(f"{keys}: all keys; docs/registry-trust.md says who keeps which. Back them up")
    print(f"next: kubectl apply --kustomize {options.output}")
    return 0


def _problems(config: Config, options: argparse.Namespace) -> Iterator[str]:
    """Says where configuration or options do not go with the manifests, a line each."""
    expected = {
        "kubeflow.signing_keys": (config.kubeflow.signing_keys, KEYS_SECRET),
        "kubeflow.registry_login": (config.kubeflow.registry_login, LOGIN_SECRET),
        "registry.keys": (config.publishing.keys, ()),
        "registry.ca_file": (config.publishing.ca_file, options.output / "secrets" / CA_FILE.name),
    }
    for setting, (received, wanted) in expected.items():
        if received != wanted:
            yield f"{setting}: expected {wanted or 'nothing'}; received {received or 'nothing'}"
    prefix = f"oci://{SERVER}/"
    location = registry_location(config)
    if not location.startswith(prefix) or location == prefix:
        yield f"registry.location: expected {prefix} and a repository; received {location}"
    for name in (*options.host, options.namespace):
        if not _HOST.fullmatch(name):
            yield f"expected a name of lower-case letters, digits and dashes; received {name!r}"
    if config.publishing.root.name != "root.json":
        yield f"registry.root: expected a file root.json; received {config.publishing.root}"
    if not _IMAGE.fullmatch(options.image):
        yield (
            "--image: expected an image such as registry.example/edgeline@sha256:...; received "
            f"{options.image!r}"
        )
    if os.path.lexists(options.output):
        yield f"--output: {options.output} exists; expected a new folder"


def _make_server_secrets(folder: Path, hosts: Sequence[str]) -> None:
    """Makes the registry server's certificate and password, and its clients' login."""
    names = ",".join(f"DNS:{name}" for name in (SERVER.partition(":")[0], "localhost", *hosts))
    certificate, key = folder / "tls.crt", folder / "tls.key"
    _run(
        *("openssl", "req", "-x509", "-newkey", "ed25519", "-nodes", "-days", str(DAYS)),
        *("-subj", f"/CN={SERVER.partition(':')[0]}", "-addext", f"subjectAltName={names}"),
        *("-out", str(certificate), "-keyout", str(key)),
    )
    (folder / CA_FILE.name).write_bytes(certificate.read_bytes())
    password = secrets.token_hex(20)
    (folder / "htpasswd").write_text(_run("htpasswd", "-niB", USER, given=password))
    auth = {"auth": base64.b64encode(f"{USER}:{password}".encode()).decode()}
    logins = dict.fromkeys((SERVER, "localhost:5000"), auth)
    (folder / "config.json").write_text(json.dumps({"auths": logins}))


def _run(*command: str, given: str = "") -> str:
    try:
        done = subprocess.run(command, input=given, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        raise UserError(f"{command[0]} is not installed; see --help") from None
    if done.returncode:
        raise UserError(f"{command[0]} failed: {' '.join(done.stderr.split())}")
    return done.stdout


def _start_registry(config: Config, folder: Path, passphrase: str | None) -> int:
    """Makes the keys and an empty registry, packed up; returns the exit code of `edgeline`."""
    keys = config.publishing.root.parent
    encrypted = passphrase is not None
    if passphrase is not None:
        os.environ[PASSPHRASE_VARIABLE] = passphrase
        (folder / "secrets" / PASSPHRASE_FILE.name).write_text(passphrase, encoding="utf-8")
    with tempfile.TemporaryDirectory() as scratch, redirect_stdout(io.StringIO()):
        store = Path(scratch) / "registry"
        made = ["--model", config.name, "--keys", str(keys)]
        unprotected = [] if encrypted else ["--no-passphrase"]
        if code := edgeline(["registry", "init", str(store), *made, *unprotected]):
            return code
        with tarfile.open(folder / "registry.tar.gz", "w:gz") as packed:
            packed.add(store, store.name)
    for file in map(Path, config.key_uris):
        shutil.copy(file, folder / "secrets")
    shutil.copy(config.publishing.root, folder)
    return 0


def _overlay(config: Config, options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """The kustomization: the manifests with namespace, image, secrets and what is trusted."""
    keys = [*(Path(key).name for key in config.key_uris), PASSPHRASE_FILE.name]
    files = {
        KEYS_SECRET: [name for name in keys if (folder / "secrets" / name).exists()],
        LOGIN_SECRET: ["config.json", CA_FILE.name],
        "edgeline-registry-users": ["htpasswd"],
        TLS_SECRET: ["tls.crt", "tls.key"],
    }
    image, _, digest = options.image.partition("@")
    return {
        "apiVersion": "kustomize.config.k8s.io/v1beta1",
        "kind": "Kustomization",
        "namespace": options.namespace,
        "resources": [os.path.relpath(MANIFESTS, options.output)],
        "images": [{"name": "edgeline", "newName": image, "digest": digest}],
        "secretGenerator": [
            {
                "name": secret,
                "type": "kubernetes.io/tls" if secret == TLS_SECRET else "Opaque",
                "files": [f"secrets/{name}" for name in names],
            }
            for secret, names in files.items()
        ],
        "configMapGenerator": [
            {
                "name": "edgeline-trust",
                "files": ["registry.tar.gz", "root.json"],
                "literals": [f"registry={registry_location(config)}"],
            }
        ],
        # The compiled pipeline names the secrets as they are.
        "generatorOptions": {"disableNameSuffixHash": True},
    }


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python kubeflow/prepare.py",
        description="Prepare what the pipeline needs in a cluster.",
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--config", type=Path, required=True, metavar="FILE", help="TOML")
    parser.add_argument("--image", required=True, help="of kubeflow/Dockerfile, as NAME@sha256:...")
    parser.add_argument("--output", type=Path, required=True, metavar="DIR", help="is made")
    parser.add_argument("--namespace", default="kubeflow", help="kubeflow by default")
    parser.add_argument(
        "--host",
        action="append",
        default=[],
        metavar="NAME",
        help="of the registry, for devices outside the cluster; repeatable",
    )
    add_no_passphrase(parser)
    return parser


if __name__ == "__main__":
    sys.exit(main())
