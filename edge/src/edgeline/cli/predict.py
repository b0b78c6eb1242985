"""`edgeline predict`: classify images with the release of a channel, once verified."""

import argparse
import json
from typing import TYPE_CHECKING, Any

from edgeline.cli.options import add_command, add_connection, add_root, add_state, at_least
from edgeline.cli.output import note
from edgeline.errors import ImageError

if TYPE_CHECKING:
    from edgeline.runtime.classifier import Classifier, Prediction

_EXAMPLES = """\
  edgeline predict cell.png --registry registry --root root.json --model solar-cells
  export EDGELINE_ROOT=root.json
  edgeline predict *.jpg --registry registry --model solar-cells --channel candidate --top 3
  edgeline predict *.jpg --registry oci://registry.example/cells --model solar-cells --json
"""


def add_predict(commands: Any) -> None:
    """Add the command to the parser."""
    predict = add_command(
        commands,
        "predict",
        run=_run,
        summary="classify images with a verified release",
        description="Classify images with the release that a channel names, once verified.\n"
        "Prints one line per image: path, label, probability.",
        examples=_EXAMPLES,
    )
    predict.add_argument("images", nargs="+", metavar="IMAGE", help="JPEG, PNG, WebP, BMP or GIF")
    predict.add_argument(
        "--registry",
        required=True,
        metavar="STORE",
        help="a directory, or oci://host[:port]/repository",
    )
    predict.add_argument("--model", required=True, metavar="NAME", help="the model's name in it")
    predict.add_argument(
        "--channel", default="production", metavar="NAME", help="default: %(default)s"
    )
    add_root(predict)
    add_state(predict)
    predict.add_argument(
        "--variant", metavar="NAME", help="default: the one with the smallest file"
    )
    predict.add_argument(
        "--threads",
        type=at_least(1),
        metavar="N",
        help="threads per inference, default: one per core, at most 4",
    )
    output = predict.add_mutually_exclusive_group()
    output.add_argument(
        "--top", type=at_least(1), default=1, metavar="K", help="labels per image, default: 1"
    )
    output.add_argument(
        "--json", action="store_true", help="print a line of JSON per image, with every label"
    )
    add_connection(predict)


def _run(options: argparse.Namespace) -> int:
    """Predict every image that can be read."""
    from edgeline.cli.access import connection, required_root, state_folder
    from edgeline.runtime.classifier import Classifier

    code = 0
    with Classifier.from_registry(
        options.registry,
        options.model,
        options.channel,
        root=required_root(options),
        state=state_folder(options),
        connection=connection(options),
        variant=options.variant,
        num_threads=options.threads,
    ) as classifier:
        columns = max(map(len, options.images)), max(map(len, classifier.labels))
        for path in options.images:
            try:
                prediction = classifier.predict(path)
            except ImageError as error:
                note(str(error))
                code = error.exit_code
                continue
            if options.json:
                print(json.dumps(_prediction_json(path, prediction, classifier)))
            else:
                print(_prediction_line(path, prediction.top(options.top), columns))
    return code


def _prediction_line(path: str, top: list[tuple[str, float]], columns: tuple[int, int]) -> str:
    cells = [f"{label:<{columns[1]}}  {probability:.4f}" for label, probability in top]
    return "  ".join([f"{path:<{columns[0]}}", *cells])


def _prediction_json(
    path: str, prediction: "Prediction", classifier: "Classifier"
) -> dict[str, Any]:
    probabilities = prediction.probabilities.tolist()
    return {
        "path": path,
        "label": prediction.label,
        "probability": prediction.probability,
        "probabilities": dict(zip(prediction.labels, probabilities, strict=True)),
        "model": classifier.model,
        "version": classifier.version,
        "digest": classifier.digest,
        "variant": classifier.variant,
    }
