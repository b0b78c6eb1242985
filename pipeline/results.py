"""What the commands give in Python: tables, pages, models; `pipeline.api` has the commands.

Heavy libraries are loaded by what needs them, so that `--help` takes half a second.
"""

from __future__ import annotations

import html
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from components.tflite_models import TFLiteModelsFolder
from components.trained_model import HISTORY_FILE
from components.verdict import (
    CHECKS_FILE,
    PREDICTIONS_CSV,
    REPORT_FILE,
    VERDICT_FILE,
    VariantVerdict,
    Verdict,
)
from edgeline._files import write_whole
from pipeline.config import Config
from pipeline.data.dataset import PAGE_FILE, IngestReport
from pipeline.errors import UserError
from pipeline.history.record import RunRecord
from pipeline.history.runs import Runs

if TYPE_CHECKING:
    import keras
    import pandas as pd

    from edgeline import Classifier, ImageError, Prediction
    from edgeline.preprocessing import ImageSource
    from pipeline.search.run import FoundFiles

PAGE_HEIGHT = 700  # pixels of a page in a notebook


@dataclass(frozen=True)
class Page:
    """A page of HTML that needs no other file; a notebook shows it in place."""

    content: str

    @classmethod
    def read(cls, file: Path) -> Page:
        """Reads a file.

        Raises:
            UserError: it can't be read.
        """
        try:
            return cls(file.read_text(encoding="utf-8"))
        except OSError as error:
            raise UserError(f"{file}: can't be read: {error.strerror}") from error

    def save(self, file: str | Path) -> None:
        """Writes it to a file."""
        write_whole(Path(file), self.content.encode())

    def __repr__(self) -> str:
        return f"<a page of {len(self.content):,} characters; save(FILE) writes it>"

    def _repr_html_(self) -> str:
        # In a frame, so that neither its style nor what it says of the data gets at the notebook.
        return (
            f'<iframe sandbox="allow-scripts" srcdoc="{html.escape(self.content)}" '
            f'style="width: 100%; height: {PAGE_HEIGHT}px; border: 1px solid #ccc"></iframe>'
        )


@dataclass(frozen=True)
class Ingested:
    """A dataset that is there now.

    Attributes:
        folder: of the dataset.
        report: what was read, left out, changed and written.
        unsaid: why what was to be said did not reach its reader; empty if it did.
    """

    folder: Path
    report: IngestReport
    unsaid: str = ""

    @property
    def counts(self) -> pd.DataFrame:
        """Images by class, a column a split."""
        import pandas as pd

        return (
            pd.DataFrame(self.report.counts, index=list(self.report.labels)).fillna(0).astype(int)
        )

    @property
    def page(self) -> Page:
        """A look at the data, with warnings.

        Raises:
            UserError: the dataset is gone.
        """
        return Page.read(self.folder / PAGE_FILE)

    def __repr__(self) -> str:
        return f"<{self.folder}: {self.report.images:,} images>"

    def _repr_html_(self) -> str:
        return str(self.counts.to_html())


@dataclass(frozen=True)
class Run:
    """A run of the pipeline that has ended.

    Attributes:
        record: what is on record of it: settings, digests, outcome, reason, figures.
        root: where its artifacts are, absolute.
    """

    record: RunRecord
    root: Path

    @property
    def exit_code(self) -> int:
        """Of `python -m pipeline run`: 0, or 3 where the gate was not passed."""
        return 3 if self.record.outcome == "refused" else 0

    @property
    def passed(self) -> bool:
        """Whether there is something that a device may have."""
        return self.record.outcome in ("released", "passed")

    @property
    def verdict(self) -> Verdict:
        """What was measured of each model against which threshold.

        Raises:
            UserError: the run came to none, or it is gone.
        """
        return Verdict.load(self._of_verdict(VERDICT_FILE).parent)

    @property
    def variants(self) -> pd.DataFrame:
        """A row a model, the float model first: whether it passed, and its figures over all images.

        Raises:
            UserError: as `verdict`.
        """
        import pandas as pd

        return pd.DataFrame([_variant(model) for model in self.verdict.models]).set_index("model")

    @property
    def metrics(self) -> pd.DataFrame:
        """A row a model, metric and slice: value, interval and threshold.

        Raises:
            UserError: as `verdict`.
        """
        return self._table(CHECKS_FILE)

    @property
    def predictions(self) -> pd.DataFrame:
        """A row an image that was judged on: its label, and what each model says of it.

        Raises:
            UserError: as `verdict`.
        """
        return self._table(PREDICTIONS_CSV)

    @property
    def curves(self) -> pd.DataFrame:
        """A row an epoch, a column a curve, such as "head/val_loss"; phases start at row 0 each.

        Raises:
            UserError: nothing was trained, or it is gone.
        """
        import pandas as pd

        content = self._artifact(self.record.curves, HISTORY_FILE).read_text(encoding="utf-8")
        return pd.DataFrame({name: pd.Series(curve) for name, curve in json.loads(content).items()})

    @property
    def report(self) -> Page:
        """The report.

        Raises:
            UserError: as `verdict`.
        """
        return Page.read(self._of_verdict(REPORT_FILE))

    @property
    def model(self) -> keras.Model:
        """The float model: pixels, float32 `[batch, height, width, 3]` in [0, 1], to probabilities.

        Raises:
            UserError: nothing was trained, or it is gone.
        """
        from pipeline.training.warm_start import load_model

        return load_model(self._artifact(self.record.trained, "Format-Serving"))

    def classifier(self, variant: str | None = None) -> Classifier:
        """A variant as a device runs it.

        Args:
            variant: which; by default the fastest that passed, or if none did, the first.

        Raises:
            UserError: there is no such variant, or it is gone.
        """
        from edgeline import Classifier

        folder = TFLiteModelsFolder.load(self._artifact(self.record.models))
        made = {model.variant: model for model in folder.models if model.error is None}
        fastest = self.record.judgement.fastest if self.record.judgement else None
        name = variant or fastest or next(iter(made), "TFLite")
        if name not in made:
            raise UserError(f"{name}: no such variant; this run made {', '.join(made) or 'none'}")
        return Classifier.from_file(folder.path(made[name]))

    def predict(self, *images: ImageSource, variant: str | None = None) -> pd.DataFrame:
        """What a variant says of images, as a device would: `edgeline predict` as a table.

        Args:
            images: paths, files' bytes, Pillow images or uint8 arrays.
            variant: as `classifier`.

        Returns:
            A row an image: the image if it is a path, the label, the probability of each class,
            and what is wrong with an image that can't be read.

        Raises:
            UserError: as `classifier`.
        """
        import pandas as pd

        with self.classifier(variant) as classifier:
            found = list(classifier.predict_batch(images))
        rows = [_prediction(image, each) for image, each in zip(images, found, strict=True)]
        return pd.DataFrame(rows)

    def export(self, to: str | Path, *, all_variants: bool = False) -> tuple[str, ...]:
        """Writes the TFLite files that passed into a folder; see `pipeline.release.export.export`.

        Args:
            to: the folder; made, or replaced.
            all_variants: also those that did not pass.

        Returns:
            The variants that were written.

        Raises:
            GateNotPassed: nothing passed.
            UserError: as `verdict`; or in the folder is something else than an earlier export.
        """
        from pipeline.release.export import export_run

        return export_run(self.record, self.root, Path(to), all_variants=all_variants)

    def __repr__(self) -> str:
        reason = f": {self.record.reason}" if self.record.reason else ""
        return f"<run {self.record.id}: {self.record.outcome}{reason}>"

    def _repr_html_(self) -> str:
        said = html.escape(repr(self)[1:-1])
        table = self.variants.to_html() if self.record.judgement else ""
        return f"<pre>{said}</pre>{table}"

    def _of_verdict(self, name: str) -> Path:
        judgement = self.record.judgement
        return self._artifact(judgement.folder if judgement else None, name)

    def _table(self, name: str) -> pd.DataFrame:
        import pandas as pd

        # A class may be called "NA".
        return pd.read_csv(self._of_verdict(name), keep_default_na=False, na_values=[""])

    def _artifact(self, folder: str | None, name: str = "") -> Path:
        """A file of an artifact.

        Raises:
            UserError: the run did not come so far, or it is gone.
        """
        if folder is None:
            why = f": {self.record.reason}" if self.record.reason else ""
            raise UserError(f"the run {self.record.id} did not come so far{why}")
        path = self.root / folder / name
        if not path.exists():
            raise UserError(f"{path} is gone; a new run makes it again")
        return path


@dataclass(frozen=True)
class History:
    """The runs that are on record, the oldest first; `[-1]`, or by the beginning of an id."""

    found: Runs
    root: Path

    def __len__(self) -> int:
        return len(self.found.records)

    def __getitem__(self, which: int | str) -> Run:
        """A run by its place, or by its id or the beginning of it.

        Raises:
            IndexError: there are not so many.
            UserError: no run, or several, have an id that begins so.
        """
        if isinstance(which, str):
            return Run(self.found.find(which), self.root)
        return Run(self.found.records[which], self.root)

    def __iter__(self) -> Iterator[Run]:
        return (Run(record, self.root) for record in self.found.records)

    def last_judged(self) -> Run:
        """The last run that came to a verdict.

        Raises:
            UserError: none did.
        """
        return Run(self.found.last_judged(), self.root)

    @property
    def table(self) -> pd.DataFrame:
        """A row a run, the newest first, with what changed from one to the next."""
        import pandas as pd

        from pipeline.history.tables import LIST_HEAD, list_rows

        head = [name.lower() for name in LIST_HEAD]
        return pd.DataFrame(list_rows(self.found), columns=head).set_index(head[0])

    def __repr__(self) -> str:
        return f"<{len(self)} runs below {self.root}>"

    def _repr_html_(self) -> str:
        return str(self.table.to_html())


@dataclass(frozen=True)
class Searched:
    """What a search found.

    Attributes:
        found: every file that was measured, and where the page is.
    """

    found: FoundFiles

    @property
    def config(self) -> Config:
        """The settings that won, ready to run."""
        return self.found.config

    @property
    def table(self) -> pd.DataFrame:
        """A row a file, the most accurate first."""
        import pandas as pd

        from pipeline.search.plan import ranked

        rows = [
            {
                "base": point.candidate.base,
                "side": point.candidate.side,
                "variant": point.variant,
                "size_mb": point.cost.bytes / 1e6,
                "latency_ms": point.cost.ms,
                "accuracy": point.accuracy,
                "within_budgets": point.fits,
            }
            for point in ranked(self.found.points)
        ]
        return pd.DataFrame(rows)

    @property
    def page(self) -> Page:
        """The picture of what was found."""
        from pipeline.search.run import PAGE_FILE as SEARCH_PAGE

        return Page.read(self.found.folder / SEARCH_PAGE)

    def __repr__(self) -> str:
        return f"<{len(self.found.points)} files of a search; config has the settings that won>"

    def _repr_html_(self) -> str:
        return self.page._repr_html_()


def _variant(model: VariantVerdict) -> dict[str, Any]:
    overall = {check.metric: check.value for check in model.checks if not check.of_part}
    return {"model": model.variant, "passed": model.passed, **overall}


def _prediction(image: ImageSource, found: Prediction | ImageError) -> dict[str, Any]:
    path = {"image": str(image)} if isinstance(image, str | Path) else {}
    if isinstance(found, Exception):
        return {**path, "error": str(found)}
    probabilities = dict(zip(found.labels, found.probabilities.tolist(), strict=True))
    return {**path, "label": found.label, **probabilities}
