"""Attacks on the registry, through the device's commands: refused, and the old model predicts."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from PIL import Image

from edgeline.cli import main
from edgeline.contract import PreprocessingContract
from edgeline.errors import EdgelineError
from edgeline.publish.release import Published, VariantFiles, publish
from tests.edge import test_attacks
from tests.edge.attack_cases import CASES, Case
from tests.edge.attacks import World

# What a device has no use for is not read by it, and cannot harm it.
UNREAD = ("the verdict",)


@dataclass
class Commands:
    """A device's commands, on one registry and one state folder."""

    world: World
    state: Path
    output: pytest.CaptureFixture[str]

    def run(self, command: str, channel: str, *arguments: str) -> tuple[int, str, str]:
        (self.world.folder / "root.json").write_bytes(self.world.root)
        code = main(
            [
                command, *arguments, "--registry", str(self.world.path), "--model", "cells",
                "--channel", channel, "--root", str(self.world.folder / "root.json"),
                "--state", str(self.state),
            ]
        )  # fmt: skip
        captured = self.output.readouterr()
        assert "Traceback" not in captured.err
        return code, captured.out, captured.err

    def pull(self, channel: str = "candidate") -> int:
        return self.run("pull", channel)[0]

    def refuses(self, error: type[EdgelineError], channel: str = "candidate") -> None:
        """Check that an update is refused, in a line."""
        code, output, errors = self.run("pull", channel)
        assert (code, output) == (error.exit_code, "")
        assert len(errors.splitlines()) == 1

    def predicts(self, channel: str = "candidate") -> str:
        """Predict without asking the registry, and return the version that did."""
        image = self.world.folder / "image.png"
        Image.new("RGB", (20, 30), "red").save(image)
        code, output, _ = self.run("predict", channel, "--update", "never", "--json", str(image))
        assert code == 0
        return output.partition('"version": ')[2].partition(",")[0]


@pytest.fixture(scope="module", autouse=True)
def _real_models(models: Path, contract: PreprocessingContract) -> Iterator[None]:
    """Have the worlds publish models that a device can run."""
    real = (models / "float32.tflite").read_bytes()

    def publish_real(*places: Any, variants: Sequence[VariantFiles], **options: Any) -> Published:
        for variant in variants:
            variant.model.write_bytes(real + variant.model.read_bytes())
        return publish(*places, variants=variants, **{**options, "preprocessing": contract})

    with mock.patch("tests.edge.attacks.publish", publish_real):
        yield


@pytest.fixture(scope="module")
def usual(_real_models: None, tmp_path_factory: pytest.TempPathFactory) -> World:
    """The world that most attacks start from."""
    return World(tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="module")
def installed(usual: World, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The state of a device that has pulled from it."""
    state = tmp_path_factory.mktemp("installed")
    (usual.folder / "root.json").write_bytes(usual.root)
    for channel in ("candidate", "production"):
        arguments = [
            "pull", "--registry", str(usual.path), "--model", "cells", "--channel", channel,
            "--root", str(usual.folder / "root.json"), "--state", str(state),
        ]  # fmt: skip
        assert main(arguments) == 0
    return state


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_metadata(
    case: Case, usual: World, installed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The registry's metadata is attacked, or changed honestly."""
    world = case.world(usual, tmp_path / "world")
    state = tmp_path / "state"
    device = Commands(world, state, capsys)
    case.prepare(world)
    if not case.first_contact:
        if case.expiry is None:
            shutil.copytree(installed, state)
        assert device.pull("production") == 0
        assert device.pull() == 0
        before = device.predicts(case.channel)
    case.attack(world)
    if case.error is None:
        assert device.pull(case.channel) == 0
        assert device.predicts(case.channel) == str(case.serves)
        return
    device.refuses(case.error, case.channel)
    if not case.first_contact:
        assert device.predicts(case.channel) == before


@pytest.fixture
def attacked(
    usual: World, installed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> Commands:
    """A device that has pulled, before a new release comes and the attack."""
    world = usual.copied_to(tmp_path / "world")
    shutil.copytree(installed, tmp_path / "state")
    return Commands(world, tmp_path / "state", capsys)


@pytest.mark.parametrize(
    ("part", "damage", "error"),
    [
        pytest.param(part, damage, error, id=f"{part} {name}")
        for name, damage, parts, error in test_attacks._DAMAGES
        for part in parts
        if part not in UNREAD
    ],
)
def test_file(
    part: str, damage: Callable[[Path], None], error: type[EdgelineError], attacked: Commands
) -> None:
    """A file in the directory is exchanged for something else."""
    world = attacked.world
    world.publish(4)
    world.releases[3] = world.releases[4]
    damage(test_attacks._parts(world)[part])
    attacked.refuses(error)
    assert attacked.predicts() == "3"


@pytest.mark.parametrize("name", test_attacks._DOCUMENTS)
def test_document(name: str, attacked: Commands) -> None:
    """A document in the store says something that no honest one would."""
    test_attacks._DOCUMENTS[name](attacked.world)
    code, output, errors = attacked.run("pull", "candidate")
    assert (code in (3, 4), output, len(errors.splitlines())) == (True, "", 1)
    assert attacked.predicts() == "3"
