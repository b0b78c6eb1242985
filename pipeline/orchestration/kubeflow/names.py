"""The names that the compiler and the steps in the cluster share."""

from __future__ import annotations

from pathlib import Path

PLAN = "Plan"
REPORT = "Report"
PUSHER = "EdgePusher"
EXAMPLE_GEN = "ImportExampleGen"
SCHEMA_GEN = "ImportSchemaGen"
TUNER = "Tuner"

BUILDER = "https://edgeline.dev/provenance/kubeflow-pipelines/v1"

# Where a step's secrets are mounted.
SIGNING_KEYS = Path("/etc/edgeline/signing-keys")
REGISTRY_LOGIN = Path("/etc/edgeline/registry-login")
PASSPHRASE_FILE = SIGNING_KEYS / "passphrase"
CA_FILE = REGISTRY_LOGIN / "ca.crt"
CLIENT_CERT = REGISTRY_LOGIN / "tls.crt"
CLIENT_KEY = REGISTRY_LOGIN / "tls.key"

# Parameters of `Plan` beside the run's.
CONFIG = "config"
ROOT = "root"

# Settings that steps have only for the cache: what stands for the data, which may be replaced in
# place, and the run's bucket, as the launcher has no credentials for what is cached in another.
DATASET_DIGEST = "dataset_digest"
BUCKET = "bucket"

# The arguments that tell a step of TFX's its inputs (TFX's own compiler does) and its outputs.
INPUTS_SPEC = "--json_serialized_inputs_spec_args"
OUTPUTS_SPEC = "--json_serialized_outputs_spec_args"

# The argument that names the function of a step that needs no TFX (`components.folders.Step`).
STEP = "--step"

# The argument that names the folder which the workers of a distributed Beam runner see, too.
SHARED = "--shared"

# The run's parameters, by the setting that each of them replaces; thresholds of the gate are added.
SETTINGS = {
    "data_path": "data.path",
    "registry": "registry.location",
    "channel": "registry.channel",
    "epochs": "trainer.epochs",
}
BASELINE = "baseline_digest"
NO_BASELINE = "none"


def planned_output(step: str, setting: str) -> str:
    """The name of the output of `Plan` that is a step's setting."""
    return f"{step}-{setting}"
