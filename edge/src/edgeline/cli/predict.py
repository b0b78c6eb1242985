"""`edgeline predict`: classify images with the release of a channel, once verified."""

import argparse
import glob
import json
import sys
from collections import deque
from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeline.cli.device_options import (
    add_device,
    add_variant,
    log_to_stderr,
    registry_and_model,
    state_of_device,
)
from edgeline.cli.options import add_command, at_least
from edgeline.cli.output import UsageError, note, printable, without_remarks
from edgeline.errors import ImageError

if TYPE_CHECKING:
    from edgeline.runtime.classifier import Classifier, Prediction

STDIN = "-"

_MODEL_SUFFIX = ".tflite"
_OF_REGISTRY = ("registry", "model", "root", "state", "variant")  # options for no model file


def add_predict(commands: Any) -> None:
    predict = add_command(commands, "predict", _run, "classify images with a verified release")
    predict.add_argument(
        "images",
        nargs="+",
        metavar="IMAGE",
        help="first a *.tflite, if that predicts; then a JPEG, PNG, WebP, BMP, GIF, TIFF, AVIF "
        "or HEIC; a folder with such files in it; a pattern; or - for paths from the standard "
        "input, a line each",
    )
    add_device(predict)
    add_variant(predict)
    predict.add_argument(
        "--update",
        choices=["try", "never", "require"],
        default="try",
        help="try (default): without an update to be had, go on with what is installed; never: "
        "do not ask the registry, for the fastest start; require: fail then",
    )
    predict.add_argument(
        "--threads",
        type=at_least(1),
        metavar="N",
        help="threads to use: for one image, within its inference, and for several, side by side; "
        "default: one per core, for one image at most 4",
    )
    output = predict.add_mutually_exclusive_group()
    output.add_argument(
        "--top", type=at_least(1), default=1, metavar="K", help="labels per image, default: 1"
    )
    output.add_argument(
        "--json", action="store_true", help="print a line of JSON per image, with every label"
    )


@without_remarks()
def _run(options: argparse.Namespace) -> int:
    """Classify images with the release that a channel names, once verified; or with a model
    file of the pipeline's, named before the images and trusted as it is.
    Prints one line per image: path, label, probability.

    Examples:
    edgeline predict cell.png --registry registry --root root.json --model solar-cells
    edgeline predict model.tflite cell.png
    export EDGELINE_ROOT=root.json
    edgeline predict photos --registry registry --model solar-cells --channel candidate --top 3
    edgeline predict 'photos/**/*.jpg' --registry oci://registry.example/cells --model solar-cells
    find photos -newer last | edgeline predict - --registry registry --model solar-cells --json
    """
    log_to_stderr()
    code = 0
    classifier, images = _classifier(options)
    with classifier:
        paths: Iterator[str] = _paths(images)
        width = 0
        if STDIN not in images:
            known = [*paths]
            paths, width = iter(known), max(map(len, known), default=0)
        columns = width, max(map(len, classifier.labels))
        for path, found in _predict(classifier, paths, options.threads):
            if isinstance(found, ImageError):
                note(str(found))
                code = found.exit_code
            elif options.json:
                print(json.dumps({"path": path, **classifier.described(found)}))
            else:
                print(_prediction_line(printable(path), found.top(options.top), columns))
    return code


def _classifier(options: argparse.Namespace) -> tuple["Classifier", list[str]]:
    """Return what predicts, and the images that it shall predict.

    Raises:
        UsageError: the command line names a model file and a registry, or neither, or no image.
    """
    from edgeline.runtime.classifier import Classifier

    first, *others = options.images
    if not first.endswith(_MODEL_SUFFIX):
        return _of_registry(options), options.images
    of_registry = [each for each in _OF_REGISTRY if getattr(options, each) is not None]
    if of_registry:
        raise UsageError(f"{first} is a model file, to which --{of_registry[0]} does not apply")
    if not others:
        raise UsageError(f"Expected images after {first}")
    return Classifier.from_file(first, num_threads=options.threads), others


def _of_registry(options: argparse.Namespace) -> "Classifier":
    from edgeline.cli.access import connection, required_root
    from edgeline.runtime.classifier import Classifier

    registry, model = registry_and_model(options)
    return Classifier.from_registry(
        registry,
        model,
        options.channel,
        root=required_root(options),
        state=state_of_device(options),
        connection=connection(options),
        variant=options.variant,
        update=options.update,
        num_threads=options.threads,
    )


def _predict(
    classifier: "Classifier", paths: Iterator[str], threads: int | None
) -> "Iterator[tuple[str, Prediction | ImageError]]":
    """Predict images: a single one at once, several side by side."""
    first, second = next(paths, None), next(paths, None)
    if first is None:
        return
    if second is None:
        try:
            yield first, classifier.predict(first)
        except ImageError as error:
            yield first, error
        return
    underway: deque[str] = deque()

    def told() -> Iterator[str]:
        for path in chain((first, second), paths):
            underway.append(path)
            yield path

    for found in classifier.predict_batch(told(), workers=threads):
        yield underway.popleft(), found


def _paths(given: Sequence[str]) -> Iterator[str]:
    """Yield the files that arguments stand for; what stands for none, as it is."""
    from edgeline.image_files import SUFFIXES  # with Pillow, which no other command loads

    for argument in given:
        path = Path(argument)
        if argument == STDIN:
            yield from filter(None, (line.rstrip("\n") for line in sys.stdin))
        elif path.is_dir():
            found = (each for each in path.rglob("*") if each.suffix.lower() in SUFFIXES)
            yield from sorted(map(str, found))
        elif path.exists() or not glob.has_magic(argument):
            yield argument
        else:
            found_by = glob.glob(argument, recursive=True)  # noqa: PTH207 - Path has no absolute ones
            yield from sorted(found_by) or [argument]


def _prediction_line(path: str, top: list[tuple[str, float]], columns: tuple[int, int]) -> str:
    cells = [f"{label:<{columns[1]}}  {probability:.4f}" for label, probability in top]
    return "  ".join([f"{path:<{columns[0]}}", *cells])
