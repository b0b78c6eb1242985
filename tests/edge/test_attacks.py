"""Attacks: whatever is done to a registry, a device reads what was signed for it, or nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.edge.attack_cases import CASES, Case
from tests.edge.attacks import World


@pytest.fixture(scope="session")
def usual(tmp_path_factory: pytest.TempPathFactory) -> World:
    """The world that most attacks start from."""
    return World(tmp_path_factory.mktemp("world"))


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_metadata(case: Case, usual: World, tmp_path: Path) -> None:
    """The registry's metadata is attacked, or changed honestly."""
    world = case.world(usual, tmp_path)
    device = world.device(tmp_path / "state")
    case.prepare(world)
    if not case.first_contact:
        device.visit()
        device.visit("production")
    case.attack(world)
    if case.error is None:
        assert device.visit(case.channel) == world.releases[case.serves].index.digest
    else:
        with pytest.raises(case.error) as raised:
            device.visit(case.channel)
        assert "\n" not in str(raised.value)
        case.recover(world)
    device.visit()
    assert device.visit("production") == world.releases[1].index.digest
