"""A registry on a server instead of in a directory: checked, published to, and compared with."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from components.tflite_predictor.baseline import load_baseline
from components.tflite_predictor.settings import ReleaseReference
from edgeline.contract import PreprocessingContract
from pipeline.config import Config, parse_config
from pipeline.errors import UserError
from pipeline.release.deployed import baseline_digest
from pipeline.release.registry import check_registry
from tests.conftest import make_registry, publish_release
from tests.edge.servers import RegistryServer, answer
from tests.pipeline.orchestration.test_preflight import DATASET

CONTRACT = PreprocessingContract(height=8, width=8, max_side=64, labels=("cat", "dog"))


@pytest.fixture(scope="module")
def server() -> Iterator[RegistryServer]:
    with RegistryServer() as server:
        yield server


@pytest.fixture(scope="module")
def config(server: RegistryServer, tmp_path_factory: pytest.TempPathFactory) -> Config:
    folder = tmp_path_factory.mktemp("server")
    make_registry(folder, "pets", location=server.location)
    document = {
        "name": "pets",
        "data": {"path": "dataset"},
        "gate": {"min_accuracy": 0.9},
        "registry": {"location": server.location, "root": str(folder / "keys" / "root.json")},
    }
    return parse_config(document, "test")


def test_a_release_on_it_is_what_a_new_model_is_compared_with(config: Config) -> None:
    assert check_registry(config) == []
    assert baseline_digest(config, DATASET) == ""
    published = publish_release(
        config.publishing.root.parents[1],
        "pets",
        {"float32": b"weights", "int8": b"small"},
        CONTRACT,
        location=config.publishing.location,
    )
    digest = baseline_digest(config, DATASET)
    assert digest == published.digest
    settings = config.publishing
    deployed = ReleaseReference(settings.location, settings.connection, digest)
    baseline = load_baseline(deployed, CONTRACT.labels)
    assert (baseline.release.tag, baseline.release.default) == ("v1", "int8")
    assert baseline.models == {"float32": b"weights", "int8": b"small"}


def test_a_server_that_wants_a_login_is_told_before_the_run(
    config: Config, server: RegistryServer
) -> None:
    server.fault("GET", "/manifests/tuf", answer(401), times=10)
    with pytest.raises(UserError, match=r"^registry\.location: .*: it wants a login, and "):
        check_registry(config)
