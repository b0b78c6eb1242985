"""The demo's registry: made once, kept, and never taken for somebody else's."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from edgeline.publish.store import open_for_writing
from edgeline.registry.format import OCI_MANIFEST
from pipeline.config import Config, load_config
from pipeline.demo import CONFIG_FILE, make_registry
from pipeline.errors import UserError
from pipeline.release.registry import check_registry


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Config:
    demo = load_config(CONFIG_FILE)
    monkeypatch.chdir(tmp_path)
    return demo


def test_it_is_made_once_with_keys_that_can_publish(config: Config) -> None:
    assert make_registry(config)
    root = config.publishing.root.read_bytes()
    assert not make_registry(config)
    assert config.publishing.root.read_bytes() == root
    assert check_registry(config) == []


def test_a_registry_without_its_root_is_somebody_elses(config: Config) -> None:
    make_registry(config)
    config.publishing.root.unlink()
    with pytest.raises(UserError, match="its trusted root, is gone; move demo/registry away"):
        make_registry(config)


def test_keys_without_their_registry_are_not_used_again(config: Config) -> None:
    make_registry(config)
    shutil.rmtree(config.publishing.location)
    with pytest.raises(UserError, match="gone, and its keys are not; move demo/keys away"):
        make_registry(config)


def test_a_registry_of_before_signing_is_told_from_a_new_one(config: Config) -> None:
    store = open_for_writing(config.publishing.location)
    with store.exclusive():
        manifest = store.put_manifest(b'{"schemaVersion": 2}', OCI_MANIFEST)
        store.commit([("v1", manifest), ("cells.candidate", manifest)], expected={})
    with pytest.raises(UserError, match="before releases were signed; move demo/registry away"):
        make_registry(config)


def test_a_folder_of_something_else_is_left_alone(config: Config) -> None:
    folder = Path(config.publishing.location)
    folder.mkdir(parents=True)
    (folder / "thesis.txt").write_text("mine")
    with pytest.raises(UserError, match=r"registry init demo/registry .*\nfailed: "):
        make_registry(config)
    assert [path.name for path in folder.iterdir()] == ["thesis.txt"]
