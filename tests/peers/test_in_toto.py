"""in-toto's own library reads the provenance, field by field, and finds nothing it doesn't know."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from securesystemslib.signer import CryptoSigner

from edgeline.publish.provenance import Build, Resource, build, sign

pytestmark = pytest.mark.peers

IN_TOTO = "in-toto-attestation==0.9.3"

# Reads a statement; prints the builder, the run and the digest of the first dependency.
SCRIPT = """\
import json, sys
from google.protobuf import json_format
from in_toto_attestation.predicates.provenance.v1.provenance_pb2 import Provenance
from in_toto_attestation.v1.statement import Statement
from in_toto_attestation.v1.statement_pb2 import Statement as Message

message = json_format.Parse(sys.stdin.read(), Message())
Statement.copy_from_pb(message).validate()
predicate = json_format.Parse(json_format.MessageToJson(message.predicate), Provenance())
details, definition = predicate.run_details, predicate.build_definition
print(json.dumps([
    details.builder.id,
    details.metadata.invocation_id,
    definition.resolved_dependencies[0].digest["sha256"],
    message.subject[0].digest["sha256"],
]))
"""


@pytest.fixture(scope="module")
def in_toto(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of an environment that has in-toto's library, and nothing of ours."""
    folder = tmp_path_factory.mktemp("in_toto")
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    python = folder / "bin" / "python"
    subprocess.run([str(python), "-m", "pip", "install", "--quiet", IN_TOTO], check=True)
    return python


def test_it_reads_what_we_write(in_toto: Path) -> None:
    facts = Build(
        builder="https://builder.example/laptop",
        run="run 7",
        parameters={"model": "pets", "config": {"gate": {"min_accuracy": 0.9, "min_auc": None}}},
        libraries={"tensorflow": "2.16.2"},
        dependencies=[
            Resource("dataset", {"sha256": "aa" * 32}, annotations={"images": {"train": 260}}),
            Resource("base weights", {"md5": "bb" * 16}, uri="https://weights.example/base.h5"),
        ],
        byproducts=[Resource("verdict.json", {"sha256": "cc" * 32}, annotations={"int8": 0.93})],
    )
    envelope = sign(build({"int8": "dd" * 32}, facts), CryptoSigner.generate_ed25519())
    done = subprocess.run(
        [str(in_toto), "-c", SCRIPT],
        input=base64.b64decode(json.loads(envelope)["payload"]).decode(),
        check=False,
        capture_output=True,
        text=True,
        env={k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "VIRTUAL_ENV")},
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == [facts.builder, "run 7", "aa" * 32, "dd" * 32]
