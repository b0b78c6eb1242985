"""The command line: `python -m pipeline ingest | search | run | runs | export | report`.

It reads arguments and prints; `pipeline.api` does what they ask for.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import webbrowser
from collections.abc import Sequence
from pathlib import Path

from edgeline._files import write_whole
from edgeline.cli.output import print_json, print_table
from edgeline.errors import EdgelineError
from pipeline import api
from pipeline.config import load_config, parse_ingest_config
from pipeline.data.work import Engine
from pipeline.errors import RunFailed, UserError
from pipeline.orchestration.run import report_file

OUTPUT_LOST = 1
INTERRUPTED = 130  # 128 + SIGINT, as shells report it

EPILOG = """\
exit codes:
  0  done
  1  a step failed
  2  a mistake in the command, the configuration or the data
  3  the gate was not passed; nothing was published
"""

INGEST_EXAMPLES = """\
examples:
  python -m pipeline ingest photos data/cells            photos/<class>/*.jpg
  python -m pipeline ingest dogs-vs-cats/train data/pets  train/cat.0.jpg, train/dog.0.jpg, ...
  python -m pipeline ingest flowers data/flowers          flowers/train/<class>/*.jpg, .../val/...
  python -m pipeline ingest labels.csv data/cells         columns path,label[,split][,slice...]
  python -m pipeline ingest tfds/cifar10/3.0.2 data/cifar TFRecord files, or Parquet
  python -m pipeline ingest records data/x --feature image=jpeg --feature label=class
  python -m pipeline ingest photos data/cells --set ingest.max_side=1024
"""

REPORT_EXAMPLES = """\
examples:
  python -m pipeline report --config configs/demo.toml
  python -m pipeline report --config configs/demo.toml --output cells.html
"""

RUN_EXAMPLES = """\
examples:
  python -m pipeline run --config configs/demo.toml
  python -m pipeline run --config configs/demo.toml --set trainer.epochs=3 -v

Every setting, with its unit and default, is described in pipeline/config.py.
"""


EXPORT_EXAMPLES = """\
examples:
  python -m pipeline export --config configs/demo.toml --to cells       what passed in the last run
  python -m pipeline export --config configs/demo.toml --to cells --run 20260102
  python -m pipeline export --config configs/demo.toml --to cells --all  also what did not pass

The folder has <variant>.tflite, preprocessing.json, labels.txt, verdict.json and report.html.
"""

INBOX_EXAMPLES = """\
examples:
  python -m pipeline inbox inbox                        writes inbox/inbox.html
  python -m pipeline inbox inbox --labels labels.csv    path,label; or fill in inbox/guesses.csv
  python -m pipeline ingest photos data/cells --inbox inbox

What has a label is added to the train split, and to no other. docs/fleet.md has the rest.
"""

SEARCH_EXAMPLES = """\
examples:
  python -m pipeline search --config cells.toml --bases mobilenetv3small densenet121 --sides 96 150
  python -m pipeline search --config cells.toml --max-size-mb 4 --max-ms 5 --minutes 30
  python -m pipeline search --config cells.toml --max-ms 20 --device pi.json   milliseconds there

Candidates train a head on a quarter of the images, the better half of them on half, and the better
half of these on all; the variants of these are made and measured on the eval split. pi.json is what
`edgeline benchmark --json` said on the device. The folder <run root>/<name>/search then has a page
with a picture, and winner.toml, ready to run. A search that was ended goes on where it was.
"""

RUNS_EXAMPLES = """\
examples:
  python -m pipeline runs --config configs/demo.toml                     the newest first
  python -m pipeline runs compare --config configs/demo.toml             the last two
  python -m pipeline runs compare 20260102-0304 20260103 --config configs/demo.toml
  python -m pipeline runs compare 20260102 --config configs/demo.toml --html changes.html
  python -m pipeline runs --config configs/demo.toml --json | jq .runs[-1].outcome

A run is named by its id, or the beginning of it; with one name, it is compared with the last.
Runs on Kubeflow are on its own pages, which list and compare them by the same figures.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command; returns its exit code."""
    options = _parser().parse_args(arguments)
    try:
        return int(options.command(options))
    except (UserError, EdgelineError) as error:
        print(error, file=sys.stderr)
        return UserError.exit_code
    except KeyboardInterrupt:
        print("interrupted; a rerun picks up", file=sys.stderr)
        return INTERRUPTED


def _ingest(options: argparse.Namespace) -> int:
    overrides = [*options.set, *(f"ingest.features.{each}" for each in options.feature)]
    if options.labels is not None:
        overrides.append(f"ingest.labels={json.dumps(str(options.labels))}")
    if options.inbox is not None:
        overrides.append(f"ingest.inbox={json.dumps(str(options.inbox))}")
    config = parse_ingest_config(options.config, overrides)
    engine = Engine(tuple(options.beam_arg), options.dask)
    ingested = api.ingest(
        options.photos, options.out, config, verbose=options.verbose, engine=engine
    )
    if ingested.unsaid:
        print(
            f"{options.out} is written, but not all that was to be said of it: {ingested.unsaid}",
            file=sys.stderr,
        )
        return OUTPUT_LOST
    return 0


def _run(options: argparse.Namespace) -> int:
    try:
        return api.run(load_config(options.config, options.set), verbose=options.verbose).exit_code
    except RunFailed as failed:  # which the run has said
        return failed.exit_code


def _inbox(options: argparse.Namespace) -> int:
    from pipeline.data.inbox import take_labels, write_inbox_page

    if options.labels is not None:
        print(f"{take_labels(options.inbox, options.labels):,} labels taken from {options.labels}")
    print(write_inbox_page(options.inbox))
    return 0


def _search(options: argparse.Namespace) -> int:
    api.search(
        load_config(options.config, options.set),
        bases=options.bases,
        sides=options.sides,
        variants=options.variants,
        max_size_mb=options.max_size_mb,
        max_ms=options.max_ms,
        device=options.device,
        minutes=options.minutes,
        verbose=options.verbose,
    )
    return 0


def _export(options: argparse.Namespace) -> int:
    from components.edge_pusher.push import GateNotPassed
    from pipeline.orchestration.summary import export_line

    history = api.runs(load_config(options.config, options.set))
    run = history[options.run] if options.run else history.last_judged()
    try:
        variants = run.export(options.to, all_variants=options.all)
    except GateNotPassed as error:
        print(f"{error}\n--all writes all variants all the same", file=sys.stderr)
        return error.exit_code
    print(export_line(variants, options.to))
    return 0


def _report(options: argparse.Namespace) -> int:
    file = report_file(load_config(options.config, options.set))
    if options.output:
        shutil.copyfile(file, options.output)
        print(options.output)
    elif not webbrowser.open(file.absolute().as_uri()):
        print(f"no browser here; the report is {file}")
    return 0


def _runs(options: argparse.Namespace) -> int:
    # Here, not above: SciPy's second is for those who compare.
    from pipeline.history.comparison import compare
    from pipeline.history.tables import LIST_HEAD, LIST_RIGHT, comparison_tables, list_rows, page

    runs = api.runs(load_config(options.config, options.set)).found
    for problem in runs.unreadable:
        print(f"warning: {problem}", file=sys.stderr)
    if options.action == "list":
        if options.runs or options.html:
            raise UserError("expected `runs compare` before the names of runs and --html")
        if options.json:
            print_json({"runs": [run.model_dump(mode="json") for run in runs.records]})
        else:
            print_table([LIST_HEAD, *list_rows(runs)], right=LIST_RIGHT)
        return 0
    comparison = compare(*runs.pair(options.runs))
    if options.html:
        write_whole(options.html, page(comparison).encode())
    if options.json:
        print_json(comparison.as_json())
    elif options.html:
        print(options.html)
    else:
        for table in comparison_tables(comparison):
            print(f"{table.caption}\n")
            rows = [[cell.text for cell in row] for row in table.rows]
            print_table([table.head, *rows])
            print()
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m pipeline",
        description="From a folder of labelled images to a gated TFLite classifier in a registry.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(metavar="COMMAND", required=True)

    ingest = _add_command(
        commands, "ingest", "turn labelled images into a dataset", INGEST_EXAMPLES
    )
    ingest.add_argument(
        "photos",
        type=Path,
        metavar="PHOTOS",
        help="a folder, a CSV file, or a TFRecord or Parquet file",
    )
    ingest.add_argument("out", type=Path, metavar="OUT", help="the dataset's folder; made")
    ingest.add_argument("--config", type=Path, metavar="FILE", help="TOML; only [ingest] is used")
    ingest.add_argument(
        "--feature",
        action="append",
        default=[],
        metavar="image=NAME",
        help="what holds the image or the label in records of a kind that is not known; repeatable",
    )
    ingest.add_argument(
        "--labels",
        type=Path,
        metavar="FILE",
        help="names of the classes, a line each, where records have them by number",
    )
    ingest.add_argument(
        "--inbox",
        type=Path,
        metavar="FOLDER",
        help="add the labelled images that devices sent home, to train on only",
    )
    ingest.add_argument(
        "--dask",
        metavar="ADDRESS",
        help="work on a Dask cluster: its scheduler, such as tcp://scheduler:8786",
    )
    ingest.add_argument(
        "--beam-arg",
        action="append",
        default=[],
        metavar="ARG",
        help="an Apache Beam option, such as --beam-arg=--runner=FlinkRunner; repeatable",
    )
    _add_common(ingest)
    ingest.set_defaults(command=_ingest)

    inbox = _add_command(
        commands, "inbox", "show images that devices sent home, to label them", INBOX_EXAMPLES
    )
    inbox.add_argument(
        "inbox", type=Path, metavar="INBOX", help="what `edgeline registry fleet open` wrote"
    )
    inbox.add_argument(
        "--labels", type=Path, metavar="FILE", help="a CSV file with path,label to take labels from"
    )
    inbox.set_defaults(command=_inbox)

    run = _add_command(commands, "run", "train, judge and publish", RUN_EXAMPLES)
    run.add_argument("--config", type=Path, required=True, metavar="FILE", help="TOML")
    _add_common(run)
    run.set_defaults(command=_run)

    runs = _add_command(
        commands, "runs", "list the runs there were, or compare two of them", RUNS_EXAMPLES
    )
    runs.add_argument("action", nargs="?", choices=("list", "compare"), default="list")
    runs.add_argument("runs", nargs="*", metavar="RUN", help="to compare (default: the last two)")
    runs.add_argument("--config", type=Path, required=True, metavar="FILE", help="TOML")
    runs.add_argument("--json", action="store_true", help="print it for programs")
    runs.add_argument("--html", type=Path, metavar="FILE", help="write the comparison as a page")
    _add_set(runs)
    runs.set_defaults(command=_runs)

    search = _add_command(
        commands, "search", "look for a base, an input size and a variant", SEARCH_EXAMPLES
    )
    search.add_argument("--config", type=Path, required=True, metavar="FILE", help="TOML")
    search.add_argument(
        "--bases",
        nargs="+",
        default=list(api.SEARCHED_BASES),
        metavar="BASE",
        help=f"as trainer.base; default: {' '.join(api.SEARCHED_BASES)}",
    )
    search.add_argument(
        "--sides",
        nargs="+",
        type=_whole_number,
        default=list(api.SEARCHED_SIDES),
        metavar="PIXELS",
        help=f"of square inputs; default: {' '.join(map(str, api.SEARCHED_SIDES))}",
    )
    search.add_argument(
        "--variants",
        nargs="+",
        default=list(api.SEARCHED_VARIANTS),
        metavar="VARIANT",
        help=f"as rewriter.variants; default: {' '.join(api.SEARCHED_VARIANTS)}",
    )
    search.add_argument("--max-size-mb", type=_number, metavar="MB", help="that a file may have")
    search.add_argument(
        "--max-ms", type=_number, metavar="MS", help="that an image may take, at the median"
    )
    search.add_argument(
        "--device", type=Path, metavar="FILE", help="figures of a device, which --max-ms is then of"
    )
    search.add_argument(
        "--minutes",
        type=_number,
        default=15.0,
        metavar="N",
        help="after which nothing else is begun, default: 15",
    )
    _add_common(search)
    search.set_defaults(command=_search)

    export = _add_command(
        commands, "export", "write the TFLite files of a run into a folder", EXPORT_EXAMPLES
    )
    export.add_argument("--config", type=Path, required=True, metavar="FILE", help="TOML")
    export.add_argument(
        "--to", type=Path, required=True, metavar="DIR", help="the folder; made, or replaced"
    )
    export.add_argument("--run", metavar="RUN", help="which run (default: the last judged one)")
    export.add_argument(
        "--all", action="store_true", help="also the variants that did not pass the gate"
    )
    _add_set(export)
    export.set_defaults(command=_export)

    report = _add_command(
        commands, "report", "open or write the last run's report", REPORT_EXAMPLES
    )
    report.add_argument("--config", type=Path, required=True, metavar="FILE", help="TOML")
    report.add_argument(
        "--output", type=Path, metavar="FILE", help="write it there instead of opening a browser"
    )
    _add_set(report)
    report.set_defaults(command=_report)
    return parser


def _add_command(
    commands: argparse._SubParsersAction[argparse.ArgumentParser],
    name: str,
    does: str,
    examples: str,
) -> argparse.ArgumentParser:
    return commands.add_parser(
        name,
        help=does,
        description=f"{does[0].upper()}{does[1:]}.",
        epilog=examples,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def _add_common(parser: argparse.ArgumentParser) -> None:
    _add_set(parser)
    _add_verbose(parser)


def _add_verbose(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "-v",
        "--verbose",
        action="store_true",
        help="show the libraries' output instead of writing it to a log file",
    )


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f'expected a number; received "{text}"') from None


def _whole_number(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f'expected a whole number; received "{text}"') from None


def _add_set(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="override a setting, such as trainer.epochs=3; repeatable",
    )


if __name__ == "__main__":
    sys.exit(main())
