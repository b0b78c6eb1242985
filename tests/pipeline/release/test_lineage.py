"""What goes on record of a run: enough to find what it was made from, and nothing secret."""

from __future__ import annotations

import hashlib
import json
import subprocess
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest

from components.edge_pusher.origin import Origin
from components.settings_text import from_text, to_text
from pipeline.config import Config, parse_config
from pipeline.content_digest import tree_digest
from pipeline.release.lineage import made_from, origin
from tests.pipeline.orchestration.test_preflight import DATASET


def configured(**sections: dict[str, Any]) -> Config:
    document = {
        "name": "pets",
        "data": {"path": "/home/somebody/photos"},
        "gate": {"min_accuracy": 0.9},
        "registry": {},
        **sections,
    }
    return parse_config(document, "test")


def resources(config: Config) -> dict[str, Any]:
    return {each.name: each for each in origin(config, DATASET).dependencies}


def test_it_travels_as_text() -> None:
    found = origin(configured(), DATASET)
    assert from_text(Origin, to_text(found)) == found


def test_settings_and_data_are_named_by_digest() -> None:
    found = origin(configured(), DATASET)
    settings = found.parameters["config"]
    assert settings["gate"]["min_accuracy"] == 0.9
    assert (found.parameters["model"], found.parameters["channel"]) == ("pets", "candidate")
    by_name = resources(configured())
    content = json.dumps(settings, sort_keys=True, separators=(",", ":")).encode()
    assert by_name["config"].digest == {"sha256": hashlib.sha256(content).hexdigest()}
    assert by_name["dataset"].digest == {"sha256": DATASET.digest}
    assert by_name["dataset"].annotations == {"images": {"train": 100, "eval": 10, "test": 2000}}


def test_neither_secrets_nor_paths_leave_with_a_release(tmp_path: Path) -> None:
    weights = tmp_path / "weights.h5"
    weights.write_bytes(b"weights")
    text = to_text(
        origin(
            configured(
                registry={
                    "location": "oci://secret.example/pets",
                    "root": "/home/somebody/root.json",
                    "keys": ["envvar:SECRET_KEY", "/home/somebody/ci.pem"],
                    "ca_file": "/home/somebody/ca.pem",
                },
                run={"root": "/home/somebody/runs"},
                beam={"args": ["--runner=FlinkRunner", "--token=secret"]},
                trainer={"base_weights": str(weights)},
            ),
            DATASET,
        )
    )
    for secret in ("secret", "SECRET", "somebody", str(tmp_path)):
        assert secret not in text
    assert hashlib.sha256(b"weights").hexdigest() in text


def test_of_a_path_through_this_machine_the_report_has_the_end() -> None:
    assert made_from(configured(), DATASET)["facts"]["data"] == "photos"
    relative = configured(data={"path": "data/photos"})
    assert made_from(relative, DATASET)["facts"]["data"] == "data/photos"
    assert "somebody" not in json.dumps(made_from(configured(), DATASET))


def test_the_report_says_when_the_data_were_written() -> None:
    written = replace(DATASET, written=datetime(2027, 1, 31, 9, 5, tzinfo=timezone.utc))
    assert made_from(configured(), written)["facts"]["data, written"] == "2027-01-31 09:05 UTC"
    assert "data, written" not in made_from(configured(), DATASET)["facts"]


def test_imagenet_s_weights_are_named_by_their_address_and_keras_digest() -> None:
    weights = resources(configured())["base weights"]
    assert weights.uri is not None
    assert weights.uri.startswith("https://storage.googleapis.com/")
    assert weights.digest.keys() == {"md5"}


def test_a_model_that_was_gone_on_from_is_named_by_digest_and_nothing_else_is(
    tmp_path: Path,
) -> None:
    """ImageNet's weights, the default, are not loaded then."""
    model = tmp_path / "model"
    model.mkdir()
    (model / "saved_model.pb").write_bytes(b"model")
    config = configured(trainer={"warm_start": str(model)})
    by_name = resources(config)
    assert by_name["warm start"].digest == {"sha256": tree_digest(str(model))}
    assert "base weights" not in by_name
    assert str(tmp_path) not in to_text(origin(config, DATASET))


def test_ingest_s_settings_are_those_that_made_the_dataset() -> None:
    settings = origin(configured(ingest={"max_side": 99}), DATASET).parameters["config"]
    assert settings["ingest"] == {"max_side": 512, "labels": "labels.txt"}


def test_an_untrained_base_came_from_nowhere() -> None:
    assert "base weights" not in resources(configured(trainer={"base_weights": "random"}))


def git(folder: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=Nobody", "-c", "user.email=nobody@example.com"]
    command = ["git", "-C", str(folder), *identity, *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository that the code seems to be in, with a revision of its own."""
    git(tmp_path, "init", "--quiet")
    (tmp_path / "pipeline").mkdir()
    code = tmp_path / "pipeline" / "origin.py"
    code.write_text("one")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "--quiet", "--message", "one")
    monkeypatch.setattr("pipeline.release.lineage.__file__", str(code))
    return tmp_path


def test_the_revision_is_on_record_where_git_knows_the_code(checkout: Path) -> None:
    (checkout / "notes.txt").write_text("not code")
    code = resources(configured())["code"]
    assert code.digest["gitCommit"] == git(checkout, "rev-parse", "HEAD")
    assert code.annotations == {"dirty": False}


def test_changes_since_the_revision_are_on_record(checkout: Path) -> None:
    (checkout / "pipeline" / "origin.py").write_text("two")
    assert resources(configured())["code"].annotations == {"dirty": True}


def test_a_repository_that_does_not_hold_the_code_is_none_of_our_business(
    checkout: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed = checkout / "site-packages" / "origin.py"
    installed.parent.mkdir()
    installed.write_text("one")
    monkeypatch.setattr("pipeline.release.lineage.__file__", str(installed))
    assert resources(configured())["code"].digest.keys() == {"sha256"}


def test_without_git_there_is_no_revision(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    assert resources(configured())["code"].digest.keys() == {"sha256"}
