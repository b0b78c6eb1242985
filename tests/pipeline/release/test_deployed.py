"""Which release a run is compared with."""

from __future__ import annotations

from pathlib import Path

import pytest

from components.verdict import Deployed, VariantVerdict, Verdict
from edgeline.contract import PreprocessingContract
from edgeline.errors import RegistryError
from edgeline.publish.release import Published
from pipeline.config import Config, parse_config
from pipeline.release.deployed import baseline_digest, inputs_digest
from tests.conftest import make_registry, publish_release
from tests.pipeline.orchestration.test_preflight import DATASET

CONTRACT = PreprocessingContract(height=8, width=8, max_side=64, labels=("cat", "dog"))


@pytest.fixture
def config(tmp_path: Path) -> Config:
    make_registry(tmp_path, "pets")
    return configured(tmp_path)


def configured(tmp_path: Path, min_accuracy: float = 0.9, channel: str = "candidate") -> Config:
    document = {
        "name": "pets",
        "data": {"path": "dataset"},
        "gate": {"min_accuracy": min_accuracy},
        "registry": {
            "location": str(tmp_path / "registry"),
            "root": str(tmp_path / "keys" / "root.json"),
            "channel": channel,
        },
    }
    return parse_config(document, "test")


def published(config: Config, model: bytes, verdict: bytes) -> Published:
    folder = Path(config.publishing.location).parent
    return publish_release(folder, "pets", {"float32": model}, CONTRACT, verdict=verdict)


def verdict(inputs: str, deployed: Deployed | None = None) -> bytes:
    judged = Verdict(
        "test", 1, VariantVerdict("float"), (), deployed=deployed, inputs_digest=inputs
    )
    return judged.to_json()


def test_where_there_is_no_release_there_is_nothing_to_compare_with(config: Config) -> None:
    assert baseline_digest(config, DATASET) == ""


def test_a_new_run_is_compared_with_what_the_channel_serves(config: Config) -> None:
    release = published(config, b"1", verdict("other inputs"))
    assert baseline_digest(config, DATASET) == release.digest


def test_a_release_by_other_means_is_compared_with_too(config: Config) -> None:
    release = published(config, b"1", b"{}")
    assert baseline_digest(config, DATASET) == release.digest


def test_a_repeated_run_is_compared_with_what_it_was_compared_with(config: Config) -> None:
    published(config, b"1", verdict(inputs_digest(config, DATASET)))
    assert baseline_digest(config, DATASET) == ""
    earlier = Deployed("v1", "sha256:aa")
    published(config, b"2", verdict(inputs_digest(config, DATASET), earlier))
    assert baseline_digest(config, DATASET) == "sha256:aa"


def test_another_setting_makes_it_another_run(config: Config) -> None:
    release = published(config, b"1", verdict(inputs_digest(config, DATASET)))
    trainer = config.trainer.model_copy(update={"dropout": 0.4})
    other = config.model_copy(update={"trainer": trainer})
    assert baseline_digest(other, DATASET) == release.digest


def test_another_threshold_judges_the_same_model_against_the_same_release(
    config: Config, tmp_path: Path
) -> None:
    """And so the same predictions."""
    published(config, b"1", verdict(inputs_digest(config, DATASET)))
    assert baseline_digest(configured(tmp_path, 0.8), DATASET) == ""


def test_the_same_weights_elsewhere_make_the_same_model(config: Config, tmp_path: Path) -> None:
    digests = set()
    for content, folder in ((b"1", "here"), (b"1", "there"), (b"2", "there")):
        file = tmp_path / folder / "weights.h5"
        file.parent.mkdir(exist_ok=True)
        file.write_bytes(content)
        trainer = config.trainer.model_copy(update={"base_weights": str(file)})
        digests.add(inputs_digest(config.model_copy(update={"trainer": trainer}), DATASET))
    assert len(digests) == 2


def test_each_channel_has_a_release_of_its_own(config: Config, tmp_path: Path) -> None:
    published(config, b"1", verdict("other inputs"))
    assert baseline_digest(configured(tmp_path, channel="canary"), DATASET) == ""


def test_a_release_that_nobody_signed_for_is_no_baseline(config: Config, tmp_path: Path) -> None:
    """Whoever can write to the store could lower the bar by putting a bad release there."""
    published(config, b"1", verdict("other inputs"))
    make_registry(tmp_path / "attacker", "pets")
    ours = configured(tmp_path).publishing
    theirs = Path(configured(tmp_path / "attacker").publishing.location)
    published(configured(tmp_path / "attacker"), b"worse", verdict("other inputs"))
    Path(ours.location).rename(tmp_path / "away")
    theirs.rename(ours.location)
    with pytest.raises(RegistryError, match="another registry than the one"):
        baseline_digest(config, DATASET)
