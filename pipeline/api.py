"""The command line's words in Python, for notebooks and scripts.

    from pipeline import api

    api.ingest("photos", "data/cells")
    config = api.configure(
        name="cells", data={"path": "data/cells"}, gate={"min_accuracy": 0.92}
    )
    run = api.run(config)
    run.metrics  # a DataFrame
    run.report  # shown in the notebook
    run.predict("photo.jpg")
    run.export("cells")

Mistakes are raised as `pipeline.errors.UserError`, whose message says what to do; a notebook shows
that alone. `docs/notebook.ipynb` goes through all of it. What they give is in
`pipeline.results`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pipeline.config import (
    Config,
    IngestConfig,
    parse_config,
    parse_ingest_settings,
    read_toml,
)
from pipeline.console import console
from pipeline.data.work import THIS_MACHINE, Engine
from pipeline.errors import RunFailed
from pipeline.history.runs import Runs
from pipeline.orchestration import run as running
from pipeline.results import History, Ingested, Page, Run, Searched

__all__ = [
    "History",
    "Ingested",
    "Page",
    "Run",
    "Searched",
    "compare",
    "configure",
    "ingest",
    "run",
    "runs",
    "search",
]

DEFAULTS = IngestConfig()
# What `search` looks at where it is not told: from small to large.
SEARCHED_BASES = ("mobilenetv3small", "mobilenetv3large", "efficientnetv2-b0", "densenet121")
SEARCHED_SIDES = (96, 150)
SEARCHED_VARIANTS = ("float16", "dynamic", "int8")


def ingest(
    photos: str | Path,
    out: str | Path,
    config: Config | IngestConfig = DEFAULTS,
    *,
    verbose: bool = False,
    engine: Engine = THIS_MACHINE,
    **settings: Any,
) -> Ingested:
    """Turns labelled images into a dataset: `python -m pipeline ingest`.

    Args:
        photos: a folder, a CSV file, or a TFRecord or Parquet file.
        out: the dataset's folder; made, or brought up to date.
        config: whose `[ingest]` is used.
        verbose: show the libraries' output instead of writing it to a log file.
        engine: what does the work; by default all cores of this machine.
        settings: of `[ingest]`, instead of those in `config`; such as `max_side=1024`.

    Raises:
        UserError: a setting is wrong, or the images can't be used; as `pipeline.data.ingest`.
    """
    options = config.ingest if isinstance(config, Config) else config
    if settings:
        given = options.model_dump(mode="json") | settings
        options = parse_ingest_settings(given, "ingest()")
    folder = Path(out)
    with console(None if verbose else running.ingest_log(folder)) as screen:
        report = running.ingest_for_a_person(Path(photos), folder, options, screen, engine)
    return Ingested(folder, report, screen.lost)


def configure(file: str | Path | None = None, /, **sections: Any) -> Config:
    """A configuration: of a file, of keywords, or of a file with keywords in its place.

    configure("cells.toml", trainer={"epochs": 3})

    Args:
        file: TOML.
        sections: as in the file: `name="cells"`, `gate={"min_accuracy": 0.9}`.

    Raises:
        UserError: as `pipeline.config.load_config`.
    """
    document = read_toml(Path(file)) if file else {}
    return parse_config(_merged(document, sections), str(file or "configure()"))


def run(config: Config, *, verbose: bool = False) -> Run:
    """Trains, judges and publishes: `python -m pipeline run`.

    Steps whose inputs, settings and code are unchanged are reused.

    Args:
        config: all the settings.
        verbose: show the libraries' output instead of writing it to a log file.

    Returns:
        The run, also where the gate was not passed.

    Raises:
        UserError: the settings don't fit the data, or something the run needs is missing.
        RunFailed: a step failed, which has been said.
    """
    ending = running.run(config, verbose=verbose)
    if ending.record is None or ending.record.outcome not in ("released", "passed", "refused"):
        raise RunFailed(ending.reason or "the run left no record", ending.code or 1)
    return Run(ending.record, _root(config))


def search(
    config: Config,
    *,
    bases: Sequence[str] = SEARCHED_BASES,
    sides: Sequence[int] = SEARCHED_SIDES,
    variants: Sequence[str] = SEARCHED_VARIANTS,
    max_size_mb: float | None = None,
    max_ms: float | None = None,
    device: str | Path | None = None,
    minutes: float = 15.0,
    verbose: bool = False,
) -> Searched:
    """Looks for a base, an input size and a variant: `python -m pipeline search`.

    Args:
        config: what the data is, and how candidates are trained and converted.
        bases: as `trainer.base`.
        sides: of square inputs, in pixels.
        variants: as `rewriter.variants`.
        max_size_mb: MB (10^6 bytes) that a file may have.
        max_ms: milliseconds that an image may take, at the median.
        device: the file of a device's `edgeline benchmark --json`, which `max_ms` is then of.
        minutes: after which nothing else is begun; what has begun is finished.
        verbose: show the libraries' output instead of writing it to a log file.

    Raises:
        UserError: a base, a size or a variant can't be, or nothing is within the budgets.
    """
    from pipeline.search.plan import Plan
    from pipeline.search.run import search_for_a_person

    plan = Plan(bases, sides, variants, max_size_mb, max_ms, minutes)
    file = Path(device) if device else None
    return Searched(search_for_a_person(config, plan, device=file, verbose=verbose))


def runs(config: Config) -> History:
    """The runs there were: `python -m pipeline runs`.

    Raises:
        UserError: no run is on record.
    """
    root = _root(config)
    return History(Runs.load(root), root)


def compare(before: Run, after: Run) -> Page:
    """What differs between two runs: `python -m pipeline runs compare`."""
    from pipeline.history.comparison import compare
    from pipeline.history.tables import page

    return Page(page(compare(before.record, after.record)))


def _root(config: Config) -> Path:
    return (config.run.root / config.name).absolute()


def _merged(table: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(table)
    for key, value in changes.items():
        before = table.get(key)
        if isinstance(before, Mapping) and isinstance(value, Mapping):
            merged[key] = _merged(before, value)
        else:
            merged[key] = value
    return merged
