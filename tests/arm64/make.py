"""What arm64 is tested with, made on this machine: `python -m tests.arm64.make FOLDER`.

It takes the model that `make demo` trained, publishes it as every variant that needs no search, and
notes what each says of some of the demo's photos. FOLDER then holds

    models/     small models of the device package's own tests
    registry/   one release with every variant; root.json beside it is what it is trusted by
    photos/     JPEG files
    said.json   by variant and photo, what it says here
    pixels.json by photo, the SHA-256 of what a model is given
"""

from __future__ import annotations

import json
import shutil
import sys
from hashlib import sha256
from pathlib import Path

from PIL import Image

from components.folders import split_files
from components.tflite_models import TFLiteModelsFolder
from components.tflite_rewriter.choose import balanced_images
from components.tflite_rewriter.rewrite import rewrite
from components.tflite_rewriter.variants import VARIANTS
from edgeline import Classifier
from edgeline.preprocessing import load_pixels
from pipeline.config import load_config
from pipeline.data.dataset import Dataset
from pipeline.demo import CONFIG_FILE, held_out
from tests.conftest import make_registry, publish_release
from tests.edge.models import make_models

MODEL = "cells"
MADE = [name for name, variant in VARIANTS.items() if not variant.searched]
CALIBRATION_IMAGES = 100
PHOTOS_PER_CLASS = 5
RUN = Path("runs/cells")


def main(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "models").mkdir(parents=True)
    make_models(folder / "models")
    print("making every variant, and its golden pair: about a minute", flush=True)
    made = every_variant(folder / "variants")
    failed = [f"{model.variant}: {model.error}" for model in made.models if model.error]
    assert not failed, failed
    make_registry(folder, MODEL)
    shutil.copy(folder / "keys" / "root.json", folder)
    contents = {model.variant: made.path(model).read_bytes() for model in made.models}
    publish_release(folder, MODEL, contents, made.contract, channel="production")
    photos = write_photos(folder / "photos")
    pixels = {photo.name: load_pixels(made.contract, photo).tobytes() for photo in photos}
    write(folder / "pixels.json", {name: sha256(each).hexdigest() for name, each in pixels.items()})
    said = {name: answers(folder / f"{name}.tflite", photos) for name in contents}
    write(folder / "said.json", said)


def every_variant(folder: Path) -> TFLiteModelsFolder:
    """The demo's model, rewritten as the pipeline would."""
    examples = newest("ImportExampleGen/examples")
    return rewrite(
        newest("Trainer/model") / "Format-Serving",
        folder,
        MADE,
        calibration=balanced_images(split_files(examples, "train"), CALIBRATION_IMAGES),
        timeout=600,
    )


def newest(output: str) -> Path:
    """The artifact that the demo's last run made of an output, `<step>/<output>`."""
    return max((RUN / output).iterdir(), key=lambda path: int(path.name))


def write_photos(folder: Path) -> list[Path]:
    """Photos that the model was not trained on, as JPEG, whose decoding is compared, too."""
    folder.mkdir()
    dataset = Dataset.load(load_config(CONFIG_FILE).data.path)
    for number, (path, label) in enumerate(held_out(dataset, PHOTOS_PER_CLASS)):
        with Image.open(path) as image:
            image.save(folder / f"{number}-{label}.jpg", quality=92)
    return sorted(folder.iterdir())


def answers(model: Path, photos: list[Path]) -> dict[str, list[float]]:
    """The probabilities of each photo, in the order of the labels."""
    with Classifier.from_file(model) as classifier:
        return {photo.name: classifier.predict(photo).probabilities.tolist() for photo in photos}


def write(file: Path, document: object) -> None:
    file.write_text(json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
