"""A configuration as the steps in the cluster need it, with the paths and names that hold there."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from pipeline.config import ClaimConfig, Config, RegistryConfig, RunConfig, TrainerConfig
from pipeline.errors import UserError
from pipeline.orchestration.kubeflow.names import CA_FILE, CLIENT_CERT, CLIENT_KEY, SIGNING_KEYS

REMOTE = "oci://"

# The one folder that a step may write to. It is the pod's own: a training whose pod is killed
# starts anew there.
SCRATCH = Path("/tmp/edgeline")


def in_cluster(config: Config) -> Config:
    """The configuration with the cluster's places for dataset, registry, keys and certificates.

    The trusted root stays a file of this machine: its content, which is public, is compiled in.

    Raises:
        UserError: a secret, a volume or a path is missing; a line for each.
    """
    problems = list(_problems(config))
    if problems:
        raise UserError("\n".join(problems))
    registry = config.publishing
    there = RegistryConfig(
        location=registry_location(config),
        channel=registry.channel,
        root=registry.root,
        keys=tuple(_key_in_cluster(key) for key in config.key_uris),
        ca_file=CA_FILE if registry.ca_file else None,
        client_cert=CLIENT_CERT if registry.client_cert else None,
        client_key=CLIENT_KEY if registry.client_key else None,
        insecure=registry.insecure,
    )
    data = config.data.model_copy(update={"path": Path(config.kubeflow.dataset)})
    scratch = RunConfig(root=SCRATCH)
    return config.model_copy(update={"data": data, "registry": there, "run": scratch})


def registry_location(config: Config) -> str:
    """The registry as steps reach it."""
    return config.kubeflow.registry or config.publishing.location


def _problems(config: Config) -> Iterator[str]:
    kubeflow, registry = config.kubeflow, config.publishing
    if "Tuner" in kubeflow.steps and not config.tuner.trials:
        yield "kubeflow.steps.Tuner: there is no such step while tuner.trials is 0"
    files = sorted({PurePosixPath(key).name for key in config.key_uris if _is_file(key)})
    if files and not kubeflow.signing_keys:
        yield (
            f"kubeflow.signing_keys: missing; the last step signs with {', '.join(files)}: "
            "expected the name of a Secret that has these files"
        )
    for key in config.key_uris:
        if key.startswith("envvar:"):
            yield (
                f"registry.keys: {key} is a variable of this machine; in the cluster a key is a "
                "file of the Secret kubeflow.signing_keys, or in a KMS"
            )
    certificates = registry.ca_file or registry.client_cert or registry.client_key
    if certificates and not kubeflow.registry_login:
        yield (
            f"kubeflow.registry_login: missing; {certificates} is of this machine: expected the "
            "name of a Secret that has the certificates"
        )
    if not registry_location(config).startswith(REMOTE):
        yield from _not_on(
            "kubeflow.registry",
            registry_location(config),
            "registry_volume",
            kubeflow.registry_volume,
        )
    yield from _not_on("kubeflow.dataset", kubeflow.dataset, "data_volume", kubeflow.data_volume)
    for setting, path in _starts(config.trainer):
        yield from _not_on(setting, path, "data_volume", kubeflow.data_volume)


def _starts(trainer: TrainerConfig) -> Iterator[tuple[str, str]]:
    """The files that training sets out from, by setting."""
    if trainer.base_weights not in ("imagenet", "random"):
        yield "trainer.base_weights", trainer.base_weights
    if trainer.warm_start is not None:
        yield "trainer.warm_start", trainer.warm_start


def _not_on(
    setting: str, path: str, volume_setting: str, volume: ClaimConfig | None
) -> Iterator[str]:
    if volume is None:
        yield (
            f"kubeflow.{volume_setting}: missing; {path} is a directory: expected the claim of the "
            "volume that holds it, and its mount"
        )
    elif not PurePosixPath(path).is_relative_to(volume.mount):
        yield (
            f"{setting}: expected a path below {volume.mount}, where kubeflow.{volume_setting} is "
            f"mounted; received {path}"
        )


def _is_file(key: str) -> bool:
    return not key.startswith("envvar:") and "=" not in key


def _key_in_cluster(key: str) -> str:
    return str(SIGNING_KEYS / PurePosixPath(key).name) if _is_file(key) else key
