"""The `edgeline` command.

Heavy imports wait until a subcommand needs them, so that `--help` answers at once.
"""

import argparse
import io
import json
import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from edgeline.errors import EdgelineError, ImageError

if TYPE_CHECKING:
    from edgeline.registry.reader import Release
    from edgeline.runtime.classifier import Classifier, Prediction

_EXIT_CODES = """\
exit codes:
  0  all went well
  1  one image or more could not be read; the others were predicted
  2  the command line is wrong
  3  the registry, the release or the model cannot be used
"""

_PREDICT_EPILOG = f"""\
examples:
  edgeline predict cell.png --registry registry --model solar-cells
  edgeline predict *.jpg --registry registry --model solar-cells --channel candidate --top 3
  edgeline predict *.jpg --registry registry --model solar-cells --json | jq .label

{_EXIT_CODES}"""

_REGISTRY_EPILOG = f"""\
examples:
  edgeline registry list registry
  edgeline registry list registry --json | jq .tag

{_EXIT_CODES}"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    options = _parser().parse_args(arguments)
    if isinstance(sys.stdout, io.TextIOWrapper):
        # A label or a file name that the terminal's encoding lacks must not end a batch.
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        code: int = options.run(options)
        sys.stdout.flush()
    except EdgelineError as error:
        print(f"edgeline: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # The reader, such as `head`, has enough. Python would fail once more flushing at its exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="edgeline",
        description="Verify and run image classifiers from an edge model registry.",
        epilog=_EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(metavar="command", required=True)
    _add_predict(commands)
    _add_registry(commands)
    return parser


def _add_predict(commands: Any) -> None:
    predict = commands.add_parser(
        "predict",
        help="classify images with a verified release",
        description="Classify images with the release that a channel points at, once verified.\n"
        "Prints one line per image: path, label, probability.",
        epilog=_PREDICT_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    predict.add_argument("images", nargs="+", metavar="IMAGE", help="JPEG, PNG, WebP, BMP or GIF")
    predict.add_argument("--registry", required=True, metavar="DIR", help="the registry")
    predict.add_argument("--model", required=True, metavar="NAME", help="the model's name in it")
    predict.add_argument(
        "--channel", default="production", metavar="NAME", help="default: %(default)s"
    )
    predict.add_argument(
        "--variant", metavar="NAME", help="default: the one with the smallest file"
    )
    predict.add_argument(
        "--threads",
        type=_positive,
        metavar="N",
        help="threads per inference, default: one per core, at most 4",
    )
    output = predict.add_mutually_exclusive_group()
    output.add_argument(
        "--top", type=_positive, default=1, metavar="K", help="labels per image, default: 1"
    )
    output.add_argument(
        "--json", action="store_true", help="print a line of JSON per image, with every label"
    )
    predict.set_defaults(run=_predict)


def _add_registry(commands: Any) -> None:
    registry = commands.add_parser("registry", help="look into an edge model registry")
    actions = registry.add_subparsers(metavar="command", required=True)
    listing = actions.add_parser(
        "list",
        help="list releases",
        description="List the releases of a registry, oldest first.",
        epilog=_REGISTRY_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    listing.add_argument(
        "registry", nargs="?", default=".", metavar="REGISTRY", help="default: this directory"
    )
    listing.add_argument("--json", action="store_true", help="print a line of JSON per release")
    listing.set_defaults(run=_list)


def _predict(options: argparse.Namespace) -> int:
    from edgeline.runtime.classifier import Classifier

    code = 0
    with Classifier.from_registry(
        options.registry,
        options.model,
        options.channel,
        variant=options.variant,
        num_threads=options.threads,
    ) as classifier:
        columns = max(map(len, options.images)), max(map(len, classifier.labels))
        for path in options.images:
            try:
                prediction = classifier.predict(path)
            except ImageError as error:
                print(f"edgeline: {error}", file=sys.stderr)
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


def _list(options: argparse.Namespace) -> int:
    from edgeline.registry.reader import LayoutReader

    releases = LayoutReader(options.registry).releases()
    if options.json:
        for release in releases:
            print(json.dumps(_release_json(release)))
    else:
        _print_table([("RELEASE", "MODEL", "CHANNELS", "VARIANTS"), *map(_release_row, releases)])
    return 0


def _release_row(release: "Release") -> tuple[str, ...]:
    variants = (f"{each.name} ({each.model.size / 1e6:.1f} MB)" for each in release.variants)
    channels = ", ".join(release.channels)
    return release.tag, release.model, channels or "-", ", ".join(variants)


def _release_json(release: "Release") -> dict[str, Any]:
    return {
        "tag": release.tag,
        "version": release.version,
        "model": release.model,
        "digest": release.digest,
        "channels": list(release.channels),
        "variants": {each.name: each.model.size for each in release.variants},
    }


def _print_table(rows: Sequence[Sequence[str]]) -> None:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = (f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True))
        print("  ".join(cells).rstrip())


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"expected at least 1, got {value}")
    return value
