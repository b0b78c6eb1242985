"""skopeo, an OCI client that knows nothing of us, reads and copies what was published."""

from __future__ import annotations

import hashlib
import json
import subprocess
from pathlib import Path

import pytest

from edgeline.contract import PreprocessingContract
from edgeline.registry.reader import LayoutReader
from edgeline.registry.writer import Published, VariantFiles, publish

pytestmark = pytest.mark.peers


@pytest.fixture
def registry(tmp_path: Path) -> Path:
    return tmp_path / "registry"


@pytest.fixture
def published(registry: Path, tmp_path: Path) -> Published:
    variants = []
    for name in ("float32", "float16"):
        (tmp_path / name).write_bytes(name.encode() * 1000)
        variants.append(VariantFiles(name, tmp_path / name))
    contract = PreprocessingContract(height=32, width=32, max_side=512, labels=("cat", "dog"))
    return publish(
        registry,
        model="pets",
        channel="candidate",
        variants=variants,
        preprocessing=contract,
        verdict=b"{}",
    )


def skopeo(*arguments: str) -> bytes:
    return subprocess.run(["skopeo", *arguments], check=True, capture_output=True).stdout


def test_it_reads_the_index_by_version_and_by_channel(registry: Path, published: Published) -> None:
    for tag in (published.tag, "pets.candidate"):
        raw = skopeo("inspect", "--raw", f"oci:{registry}:{tag}")
        assert f"sha256:{hashlib.sha256(raw).hexdigest()}" == published.digest
        assert len(json.loads(raw)["manifests"]) == 2


def test_it_reads_each_variant(registry: Path, published: Published) -> None:
    for variant in ("float32", "float16"):
        manifest = json.loads(
            skopeo("inspect", "--raw", f"oci:{registry}:{published.tag}-{variant}")
        )
        assert manifest["artifactType"] == "application/vnd.cncf.model.manifest.v1+json"


def test_a_copy_keeps_every_digest(registry: Path, published: Published, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    source, target = f"oci:{registry}:{published.tag}", f"oci:{copy}:{published.tag}"
    skopeo("copy", "--all", "--preserve-digests", source, target)
    (release,) = LayoutReader(copy).releases()
    assert release.digest == published.digest
