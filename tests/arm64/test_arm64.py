"""On arm64: every variant that x86-64 made passes its golden pair, and says what it said there."""

from __future__ import annotations

import json
import os
import platform
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from components.tflite_rewriter.variants import VARIANTS
from edgeline import Classifier, Device
from edgeline.device.update import Limits
from edgeline.golden import MAX_TOLERANCE
from edgeline.preprocessing import load_pixels

pytestmark = pytest.mark.arm64

MADE = Path(os.environ.get("MADE", ""))  # what `tests.arm64.make` left
MODEL = "cells"
# An emulator takes its time.
LIMITS = Limits(trial_seconds=900.0)


def read(name: str) -> Any:
    return json.loads((MADE / name).read_text())


def photos() -> list[Path]:
    return sorted((MADE / "photos").iterdir())


def test_this_is_arm64() -> None:
    assert platform.machine() == "aarch64"


def test_a_photo_becomes_the_same_numbers_to_the_last_bit() -> None:
    with Classifier.from_file(MADE / "float32.tflite") as classifier:
        contract = classifier.contract
    pixels = {photo.name: load_pixels(contract, photo).tobytes() for photo in photos()}
    assert {name: sha256(each).hexdigest() for name, each in pixels.items()} == read("pixels.json")


@pytest.mark.parametrize("variant", [name for name in VARIANTS if not VARIANTS[name].searched])
def test_a_variant_passes_its_golden_pair_and_says_the_same(
    variant: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    device = Device(
        str(MADE / "registry"),
        MODEL,
        root=(MADE / "root.json").read_bytes(),
        state=tmp_path,
        limits=LIMITS,
    )
    # Its trial fails where it does not say of the golden images what x86-64 says.
    assert device.update([variant]).installed.variant == variant
    with Classifier.from_installed(device.folder.load_active()) as classifier:
        here = {photo.name: classifier.predict(photo).probabilities for photo in photos()}
    there = read("said.json")[variant]
    assert here.keys() == there.keys()
    differences = [np.abs(here[name] - np.float32(there[name])).max() for name in here]
    changed = sum(int(np.argmax(here[name]) != np.argmax(there[name])) for name in here)
    with capsys.disabled():
        print(
            f"\n{variant:12}  largest difference {max(differences):.2g}, "
            f"median {np.median(differences):.2g}, other label for {changed} of {len(here)}"
        )
    assert max(differences) <= MAX_TOLERANCE
