"""What the device package costs beside the bare interpreter, in ratios from one run.

Promised: a prediction from a JPEG file within 1.15 times decode, resize and bare invoke; the first
prediction of a new process within 1.5 times importing the interpreter and invoking once; a batch on
two cores at least 1.7 times as fast as on one; memory within 1.2 times the bare interpreter's;
`import edgeline` under 60 ms and `edgeline --help` under 200 ms beyond or with Python's own start;
under 25 MB installed beyond ai-edge-litert and NumPy, 20 of which are Pillow with libavif.
"""

from __future__ import annotations

import io
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from importlib.metadata import distribution
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from tabulate import tabulate

from benchmarks.model_sizes import CHECKED_IMAGES, LABELS, SIDE, noise, save
from benchmarks.wheels import SOURCES, device_files
from components.tflite_rewriter.rewrite import rewrite
from edgeline import Classifier
from edgeline.device.update import Device
from edgeline.key_files import generate_key
from edgeline.publish.keys import Signers
from edgeline.publish.layout import LayoutWriter
from edgeline.publish.release import VariantFiles, publish
from edgeline.publish.repository import Keys, ModelKeys, Repository, initialize
from edgeline.runtime.threads import default_threads
from pipeline.data.preprocessing import contract

VARIANT = "float16"
MODEL = "cells"
MAX_SIDE = 512
SIZES = ((300, 300), (1600, 1200))  # px, of the images
ROUNDS = 30
STARTS = 11
BATCH = 60  # images
BEYOND = ("edgeline", "pillow", "tuf", "securesystemslib", "urllib3")  # LiteRT and NumPy

# Each prints its process's memory in KiB at the end.
MEMORY = """
status = open("/proc/self/status").read()
print(status.partition("VmRSS:")[2].split()[0])
"""
BARE = """
import sys
import numpy as np
from ai_edge_litert.interpreter import Interpreter
interpreter = Interpreter(sys.argv[1], num_threads=int(sys.argv[2]))
interpreter.allocate_tensors()
pixels = np.zeros(interpreter.get_input_details()[0]["shape"], np.float32)
for _ in range(int(sys.argv[3])):
    interpreter.set_tensor(interpreter.get_input_details()[0]["index"], pixels)
    interpreter.invoke()
    interpreter.get_tensor(interpreter.get_output_details()[0]["index"])
"""
OURS = """
import sys
from edgeline import Classifier
classifier = Classifier.from_registry(
    "registry", "cells", root=sys.argv[2], state=sys.argv[1], update="never"
)
for _ in range(int(sys.argv[4])):
    classifier.predict(sys.argv[3])
"""


def main() -> None:
    """Makes an untrained model, installs it as a device does, and prints the ratios."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model = convert(folder)
        measure(folder, model)


def convert(folder: Path) -> Path:
    """Converts an untrained DenseNet121; what it says changes nothing about how long it takes."""
    saved_model = save("pool", folder / "saved")
    rewrite(
        saved_model, folder / "tflite", (VARIANT,), calibration=noise(CHECKED_IMAGES), timeout=900
    )
    return folder / "tflite" / VARIANT / "model.tflite"


def measure(folder: Path, model: Path) -> None:
    """Prints everything that is promised, and what it was compared with."""
    root = install(folder, model)
    rows: list[Sequence[str]] = []
    threads = default_threads()
    photos = [photo(folder, *size) for size in SIZES]
    with Classifier.from_registry(
        folder / "registry", MODEL, root=root, state=folder / "state", update="never"
    ) as classifier:
        for (width, height), path in zip(SIZES, photos, strict=True):
            bare = bare_prediction(model, path, threads)
            ours, theirs = alternately(partial(classifier.predict, path), bare, ROUNDS)
            rows.append(row(f"predict, {width} x {height} JPEG", ours, theirs, "<= 1.15"))
        one, two = alternately(
            lambda: [*classifier.predict_batch([photos[0]] * BATCH, workers=1)],
            lambda: [*classifier.predict_batch([photos[0]] * BATCH, workers=2)],
            5,
        )
    rows.append(row(f"batch of {BATCH}, 1 worker against 2", one, two, ">= 1.7"))

    ours_start = [OURS, str(folder / "state"), str(folder / "root.json"), str(photos[0])]
    bare_start = [BARE, str(model), str(threads)]
    ours, theirs = alternately(
        lambda: python(*ours_start, "1"), lambda: python(*bare_start, "1"), STARTS
    )
    rows.append(row("first prediction of a process", ours, theirs, "<= 1.5"))

    ours_memory = int(python(ours_start[0] + MEMORY, *ours_start[1:], "50"))
    bare_memory = int(python(bare_start[0] + MEMORY, *bare_start[1:], "50"))
    rows.append(
        ["memory after 50 predictions", f"{ours_memory / 1024:.1f} MiB",
         f"{bare_memory / 1024:.1f} MiB", f"{ours_memory / bare_memory:.2f}", "<= 1.2"]
    )  # fmt: skip

    imported, nothing = alternately(
        lambda: python("import edgeline"), lambda: python("pass"), STARTS
    )
    rows.append(beyond("import edgeline, beyond Python", imported, nothing, "< 60 ms"))
    helped, nothing = alternately(
        lambda: python("from edgeline.cli import main; main(['--help'])"),
        lambda: python("pass"),
        STARTS,
    )
    rows.append(["edgeline --help", milliseconds(helped), milliseconds(nothing), "", "< 200 ms"])

    sizes = {name: installed_size(name) for name in BEYOND}
    told = ", ".join(f"{name} {size / 1e6:.1f}" for name, size in sizes.items())
    rows.append([f"installed ({told})", f"{sum(sizes.values()) / 1e6:.1f} MB", "", "", "< 25 MB"])
    header = ["", "edgeline", "compared with", "ratio", "promised"]
    print(tabulate(rows, headers=header, tablefmt="plain", disable_numparse=True))


def install(folder: Path, model: Path) -> bytes:
    """Publishes the model to a new registry, and installs it on this device; returns the root."""
    names = ("root", "targets", "online", "ci", "release")
    keys = {name: generate_key(folder / "keys" / f"{name}.pem", None) for name in names}
    signers = Signers.load([str(folder / "keys")])
    registry = LayoutWriter(folder / "registry")
    root = initialize(
        registry,
        Keys(
            root=(keys["root"],),
            root_threshold=1,
            targets=keys["targets"],
            online=keys["online"],
            models={MODEL: ModelKeys(ci=keys["ci"], release=keys["release"])},
        ),
        signers,
    )
    publish(
        Repository(registry, root=root, signers=signers),
        model=MODEL,
        channel="production",
        variants=[VariantFiles(VARIANT, model, None)],
        preprocessing=contract(SIDE, SIDE, MAX_SIDE, LABELS),
        verdict=b"{}",
    )
    (folder / "root.json").write_bytes(root)
    Device(str(folder / "registry"), MODEL, root=root, state=folder / "state").update()
    return root


def photo(folder: Path, width: int, height: int) -> Path:
    """Writes a JPEG with smooth and with detailed parts."""
    rng = np.random.default_rng(0)
    coarse = Image.fromarray(rng.integers(0, 256, (12, 16, 3), dtype=np.uint8))
    smooth = np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC)).astype(np.int16)
    pixels = smooth + rng.integers(-12, 13, (height, width, 3), dtype=np.int16)
    path = folder / f"{width}x{height}.jpg"
    Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(path, quality=90)
    return path


def bare_prediction(model: Path, path: Path, threads: int) -> Callable[[], object]:
    """Returns what one would write by hand: Pillow decodes and resizes, LiteRT invokes."""
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(str(model), num_threads=threads)
    interpreter.allocate_tensors()
    given = interpreter.get_input_details()[0]["index"]
    result = interpreter.get_output_details()[0]["index"]

    def predict() -> Any:
        image = Image.open(io.BytesIO(path.read_bytes())).convert("RGB")
        if max(image.size) > MAX_SIDE:
            # What the contract asks for: bilinear sampling alone would skip most pixels.
            scale = MAX_SIDE / max(image.size)
            size = round(image.width * scale), round(image.height * scale)
            image = image.resize(size, Image.Resampling.LANCZOS)
        small = image.resize((SIDE, SIDE), Image.Resampling.BILINEAR)
        interpreter.set_tensor(given, np.asarray(small, np.float32)[None] / np.float32(255))
        interpreter.invoke()
        return interpreter.get_tensor(result)

    return predict


def alternately(
    first: Callable[[], object], second: Callable[[], object], rounds: int
) -> tuple[float, float]:
    """Times two things in turn, so that both see the same machine; returns the best of each.

    What else a machine does only ever makes something slower: the best is what the thing costs.
    """
    taken: tuple[list[float], list[float]] = ([], [])
    for number in range(rounds + 2):
        for work, times in ((first, taken[0]), (second, taken[1])):
            started = time.perf_counter()
            work()
            if number >= 2:
                times.append(time.perf_counter() - started)
    return min(taken[0]), min(taken[1])


def python(code: str, *arguments: str) -> str:
    """Runs code in a new Python, and returns the last line that it printed."""
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "2"},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()[-1] if done.stdout else ""


def installed_size(name: str) -> int:
    """Returns how many bytes a distribution's files have; of edgeline's, those of its wheel."""
    if name == "edgeline":
        return sum((SOURCES / file).stat().st_size for file in device_files())
    found = distribution(name)
    paths = (Path(str(found.locate_file(file))) for file in found.files or ())
    return sum(path.stat().st_size for path in paths if path.exists() and path.suffix != ".pyc")


def row(what: str, ours: float, theirs: float, promised: str) -> Sequence[str]:
    return [what, milliseconds(ours), milliseconds(theirs), f"{ours / theirs:.2f}", promised]


def beyond(what: str, ours: float, theirs: float, promised: str) -> Sequence[str]:
    return [what, milliseconds(ours - theirs), milliseconds(theirs), "", promised]


def milliseconds(seconds: float) -> str:
    return f"{seconds * 1e3:.1f} ms"


if __name__ == "__main__":
    main()
