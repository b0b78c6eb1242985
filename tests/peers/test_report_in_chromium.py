"""The report in a real browser, at the width of a phone: it fits, and asks nothing of a network."""

from __future__ import annotations

import html
import io
import re
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from components.predictions import THUMBNAILS, lost_examples
from components.report.report import ReportData, render
from components.tflite_models import FrontierPoint, ModelFile, Parity
from components.verdict import OVERALL, Check, VariantVerdict, Verdict
from tests.components.many import many

pytestmark = pytest.mark.peers

WIDTH, HEIGHT = 390, 844  # a phone
SIZES_AND_HARMS = {  # megabytes, and how much noise is added
    "float32": (28.2, 0.0),
    "float16": (14.1, 0.01),
    "dynamic": (7.4, 0.1),
    "int16x8": (7.6, 0.2),
    "int8": (7.3, 0.9),
}
# That a page of ours opens, in a frame of a phone's width; what it needs to scroll goes to its DOM.
FRAME = """<!DOCTYPE html>
<iframe src="report.html" style="width: {width}px; height: {height}px; border: 0"></iframe>
<script>
onload = () => {{
  const page = document.querySelector("iframe").contentDocument.documentElement;
  document.body.dataset.width = page.scrollWidth;
  document.body.dataset.height = page.scrollHeight;
}};
</script>"""


def report(classes: int, examples: int = 600) -> ReportData:
    """Six variants: five of rising harm, and one that can't be converted."""
    generator = np.random.default_rng(0)
    labels = (*(f"class number {i}" for i in range(classes - 1)), "unbroken" * 10)
    label_ids = np.arange(examples) % classes
    slices = {
        "camera": np.array(["north", "south", "the one at the gate"])[np.arange(examples) % 3]
    }
    logits = generator.normal(size=(examples, classes)) + 2.5 * np.eye(classes)[label_ids]
    probabilities = {
        name: softmax(logits + harm * generator.normal(size=logits.shape))
        for name, (_, harm) in {"float": (0.0, 0.0), **SIZES_AND_HARMS}.items()
    }
    models = [
        ModelFile(name, "int8 weights", "tensorflow 2.16.2", 20, name, "0f" * 32, int(mb * 1e6))
        for name, (mb, _) in SIZES_AND_HARMS.items()
    ]
    point = FrontierPoint("dynamic_int4, 14 layers dynamic", 4_100_000, 0.8, 9.5, ("smallest",))
    models[-1] = replace(
        models[-1], parity=Parity(64, 0.21, 0.02), frontier=(point,), note="the only one"
    )
    error = "the conversion ended with signal 6: " + "missing attribute 'value' " * 5
    models.append(ModelFile("mixed", "int8", "tensorflow 2.16.2", 4, error=error))
    right = {name: p.argmax(axis=1) == label_ids for name, p in probabilities.items()}
    lost: set[int] = {
        index
        for p in probabilities.values()
        for index in lost_examples(label_ids, probabilities["float"], p, THUMBNAILS)
    }
    return ReportData(
        name="cells",
        labels=labels,
        verdict=Verdict(
            split="test",
            examples=examples,
            float_model=VariantVerdict("float", tuple(checks(right["float"], slices))),
            variants=tuple(variant(model, right, slices) for model in models),
        ),
        models=tuple(models),
        label_ids=label_ids,
        image_ids=tuple(f"{i:064x}" for i in range(examples)),
        sources=tuple(f"photos/{i}.jpg" for i in range(examples)),
        slices=slices,
        probabilities=probabilities,
        thumbnails={index: thumbnail(generator) for index in lost},
        curves={
            "head/loss": [1.2, 0.9, 0.7, 0.65, 0.6],
            "head/val_loss": [1.1, 0.95, 0.8, 0.78, 0.77],
            "fine_tune/loss": [0.5, 0.4, 0.35],
            "fine_tune/val_loss": [0.7, 0.66, 0.67],
        },
        data_summary={
            split: dict.fromkeys(labels, images)
            for split, images in {"train": 2000, "val": 300, "test": 300}.items()
        },
        lineage={"data": "dataset", "dataset, sha256": "ab" * 32, "baseline": "none yet"},
        settings={"trainer.epochs": "20", "gate.min_slice_accuracy.camera": "0.8"},
        nearest={},
    )


def variant(
    model: ModelFile, right: dict[str, NDArray[np.bool_]], slices: dict[str, NDArray[np.str_]]
) -> VariantVerdict:
    if model.error:
        return VariantVerdict(model.variant, error=model.error)
    lost: NDArray[np.float64] = right["float"].astype(np.float64) - right[model.variant]
    drop, spread = float(lost.mean()), 1.96 * float(lost.std()) / len(lost) ** 0.5
    relative = [
        Check("accuracy drop", OVERALL, drop, 0.02, "max", (drop - spread, drop + spread)),
        Check("agreement", OVERALL, 1 - float(np.abs(lost).mean())),
    ]
    return VariantVerdict(
        model.variant,
        (*checks(right[model.variant], slices), *relative),
        bytes=model.bytes,
        sha256=model.sha256,
        latency_ms={"p50": (model.bytes or 0) / 5e5, "p95": (model.bytes or 0) / 4e5},
        threads=2,
    )


def checks(right: NDArray[np.bool_], slices: dict[str, NDArray[np.str_]]) -> Iterator[Check]:
    yield Check("accuracy", OVERALL, float(right.mean()), 0.8)
    for key, values in slices.items():
        for value in np.unique(values):
            yield Check("accuracy", f"{key}={value}", float(right[values == value].mean()))


def softmax(logits: NDArray[np.float64]) -> NDArray[np.float32]:
    powers = np.exp(logits)
    return (powers / powers.sum(axis=1, keepdims=True)).astype(np.float32)


def thumbnail(generator: np.random.Generator) -> bytes:
    pixels = generator.integers(0, 255, (8, 8, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).resize((96, 96)).save(file, "JPEG")
    return file.getvalue()


def chromium(profile: Path, *arguments: str) -> str:
    return subprocess.run(
        [
            "chromium", "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic",
            "--no-first-run", "--disable-background-networking", "--disable-component-update",
            "--disable-sync", "--allow-file-access-from-files", "--hide-scrollbars",
            f"--user-data-dir={profile}", *arguments,
        ],
        check=True,
        capture_output=True,
        text=True,
        timeout=120,
    ).stdout  # fmt: skip


@pytest.fixture(params=[2, 20, 1000], ids=["2 classes", "20 classes", "1,000 classes"])
def page(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    path = tmp_path / "report.html"
    data = many() if request.param == 1000 else report(classes=request.param)
    path.write_text(render(data), encoding="utf-8")
    return path


def test_it_draws_on_a_phone(page: Path, tmp_path: Path) -> None:
    screenshot = tmp_path / "screenshot.png"
    chromium(
        tmp_path / "profile",
        f"--window-size={WIDTH},{HEIGHT}",
        f"--screenshot={screenshot}",
        page.as_uri(),
    )
    with Image.open(screenshot) as image:
        assert image.height == HEIGHT
        assert len(image.convert("RGB").getcolors(1 << 20) or ()) > 50


def test_it_is_no_wider_than_a_phone(page: Path, tmp_path: Path) -> None:
    frame = tmp_path / "frame.html"
    frame.write_text(FRAME.format(width=WIDTH, height=HEIGHT))
    dom = chromium(tmp_path / "profile", "--virtual-time-budget=5000", "--dump-dom", frame.as_uri())
    measured = {k: int(v) for k, v in re.findall(r'data-(width|height)="(\d+)"', dom)}
    assert measured["width"] == WIDTH
    assert measured["height"] > HEIGHT


def test_it_is_self_contained_and_small(page: Path) -> None:
    content = html.unescape(page.read_text(encoding="utf-8"))
    links = re.findall(r"""(?:src|href|action)\s*=\s*["']?([^"'\s>]*)|url\(([^)]*)\)""", content)
    assert links
    assert all(a.startswith(("#", "data:image/")) for a, url in links if not url)
    assert not [url for _, url in links if url]
    assert "://" not in content
    assert len(content) < 5_000_000
