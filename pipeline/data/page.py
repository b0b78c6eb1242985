"""The page that shows a dataset before anything is trained on it: `data.html` in its folder.

    table = ImageTable.read(folder, labels)
    write_page(folder, table, source="photos", warnings=advise(table))

One HTML file that needs nothing beside itself: no network, no script, pictures and charts inside.
What comes from the data (labels, paths, slice values, reasons) is escaped. It stays below 5 MB
whatever the number of images, classes and slices: what is too much is counted, and only some of it
shown, chosen so that the same dataset gives the same bytes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from components.report.templates import environment
from pipeline.data import histograms, thumbnails
from pipeline.data.advice import percent, quoted, wide
from pipeline.data.dataset import PAGE_FILE, SPLITS, what_was_done
from pipeline.data.histograms import Histogram
from pipeline.data.image_table import MAX_VALUES, ImageTable, SliceCounts

SAMPLED_CLASSES = 36  # the smallest ones
SAMPLES = 216  # pictures on the sample sheets, and of these
SAMPLES_OF_A_CLASS = (6, 18)  # at least and at most
SHOWN_CLUSTERS = 8
SHOWN_OF_A_CLUSTER = 6
SHOWN_EXTREMES = 6

_UNFOLDED = 40  # rows of a count; of more, only the ends are shown at once
_END = 12  # rows of each end
_MAX_CLASSES = 1_000  # rows of classes
_MAX_VALUES = 200  # rows of a slice key's values
_MAX_KEYS = 20  # slice keys that are shown
_OPEN_KEYS = 4  # unfolded
_MAX_KINDS = 25  # rows of formats, changes and reasons
_EXAMPLES = 5  # of each reason
_COPIES = 8
_MAX_WARNINGS = 50
_TEXT, _LONG_TEXT = 60, 300  # characters of a name and of a sentence
_FILE_NAME = 26  # characters of what is below a picture


@dataclass(frozen=True)
class CountRow:
    """How many images of each split are of a class or have a value of a slice key."""

    name: str
    counts: tuple[int, ...]  # by split
    stops: tuple[str, ...]  # where each split's part of the bar ends, in percent

    @property
    def total(self) -> int:
        """The images of all splits."""
        return sum(self.counts)


@dataclass(frozen=True)
class Counts:
    """Rows of counts, or of many both ends and the middle, the largest first in each."""

    title: str
    what: str  # a row is
    number: int
    rows: tuple[CountRow, ...]
    smallest: tuple[CountRow, ...]
    between: tuple[CountRow, ...]
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Share:
    """One line of a list of shares."""

    name: str
    images: int
    share: float
    note: str = ""
    examples: tuple[str, ...] = ()


@dataclass(frozen=True)
class Picture:
    """A thumbnail; `source` is a data: URI."""

    source: str
    alternative: str
    path: str
    name: str  # the end of the path
    lines: tuple[str, ...]


@dataclass(frozen=True)
class Gallery:
    """Pictures that belong together, and how many there are in all."""

    title: str
    total: int
    pictures: tuple[Picture, ...]


def write_page(folder: Path, table: ImageTable, *, source: str, warnings: Sequence[str]) -> None:
    """Writes `data.html` into a dataset folder; see `render`."""
    page = render(folder, table, source=source, warnings=warnings)
    (folder / PAGE_FILE).write_text(page, encoding="utf-8")


def render(folder: Path, table: ImageTable, *, source: str, warnings: Sequence[str]) -> str:
    """The page, as HTML.

    Args:
        folder: A dataset folder whose shards, `labels.txt` and `images.parquet` are written.
        table: Of its `images.parquet`.
        source: What the dataset was made from, as the user gave it.
        warnings: What the user should know, the most important first, such as `advise` says.

    Raises:
        ValueError: A row names a shard that no dataset has.
        RecordError: A shard has not the record that a row names.
        OSError: A file cannot be read, or an image in it cannot be decoded.
    """
    left_out = table.split < 0
    galleries = _Galleries.of(folder, table)
    return _TEMPLATES.get_template("data.html.jinja").render(
        source=_short(source, _LONG_TEXT),
        splits=SPLITS,
        found=len(table.split),
        kept=len(table.kept),
        split_counts=table.counts.sum(axis=1).tolist(),
        copies=int(table.copy.sum()),
        left_out=int((left_out & ~table.copy).sum()),
        warnings=[_short(warning, _LONG_TEXT) for warning in warnings[:_MAX_WARNINGS]],
        more_warnings=max(0, len(warnings) - _MAX_WARNINGS),
        classes=_class_counts(table),
        slices=[_slice_counts(counts) for counts in table.slices[:_MAX_KEYS]],
        open_keys=_OPEN_KEYS,
        more_keys=[_short(counts.key) for counts in table.slices[_MAX_KEYS:]][:_MAX_KINDS],
        charts=_charts(table),
        wide=len(wide(table)),
        extremes=galleries.extremes(),
        formats=_formats(table),
        changed=table.changed,
        changes=_changes(table),
        clusters=galleries.clusters(),
        repeats=_repeats(table),
        reasons=_reasons(table, left_out & ~table.copy),
        copy_examples=_copy_examples(table),
        samples=galleries.samples(),
    )


# Counts


def _class_counts(table: ImageTable) -> Counts:
    rows = _count_rows(table.labels, table.counts)
    return _folded("Images by class and split", "class", "classes", rows, _MAX_CLASSES, sort=False)


def _slice_counts(counts: SliceCounts) -> Counts:
    rows = _count_rows(counts.values, counts.counts)
    name = f"Images by {quoted(counts.key)} and split"
    folded = _folded(name, "value", "values", rows, _MAX_VALUES, sort=True)
    if not counts.further:
        return folded
    more = f"There are more than {MAX_VALUES:,} values: only the first {MAX_VALUES:,} are counted."
    return Counts(**{**vars(folded), "notes": (*folded.notes, more)})


def _count_rows(names: Sequence[str], counts: NDArray[np.int64]) -> list[CountRow]:
    most = max(int(counts.sum(axis=0).max(initial=0)), 1)
    stops = np.cumsum(counts, axis=0) * 100 / most
    return [
        CountRow(_short(name) or "(empty)", tuple(images), tuple(f"{stop:.4g}%" for stop in ends))
        for name, images, ends in zip(names, counts.T.tolist(), stops.T.tolist(), strict=True)
    ]


def _folded(
    title: str, one: str, many: str, rows: Sequence[CountRow], limit: int, *, sort: bool
) -> Counts:
    """Rows of which many are folded; few keep their order unless they are to be sorted."""
    number = len(rows)
    ordered = sorted(rows, key=lambda row: -row.total)
    if number <= _UNFOLDED:
        shown = ordered if sort else rows
        return Counts(title, one, number, tuple(shown), (), (), ())
    middle = ordered[_END:-_END]
    between, rest = middle[: limit - 2 * _END], middle[limit - 2 * _END :]
    notes = (
        (f"And {len(rest):,} more {many} with {sum(row.total for row in rest):,} images.",)
        if rest
        else ()
    )
    return Counts(
        title,
        one,
        number,
        tuple(ordered[:_END]),
        tuple(ordered[-_END:]),
        tuple(between),
        notes,
    )


def _formats(table: ImageTable) -> list[Share]:
    codes = table.format[table.kept]
    counts = np.bincount(codes[codes >= 0], minlength=len(table.formats)).tolist()
    return _shares(dict(zip(table.formats, counts, strict=True)), len(table.kept))


def _changes(table: ImageTable) -> list[Share]:
    return _shares(table.changes, len(table.kept))


def _shares(counts: Mapping[str, int], total: int) -> list[Share]:
    """The counts that are not zero, the largest first."""
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return [
        Share(_short(name), images, images / total, what_was_done(name))
        for name, images in ordered[:_MAX_KINDS]
        if images
    ]


def _reasons(table: ImageTable, left_out: NDArray[np.bool_]) -> list[Share]:
    """Why images were left out, the most frequent reason first, with examples."""
    codes = table.reason[left_out]
    # The last count is of those that have none of the reasons.
    counts = np.bincount(np.where(codes < 0, len(table.reasons), codes))
    kinds = [kind for kind in np.argsort(-counts, kind="stable").tolist() if counts[kind]]
    examples = {
        kind: np.flatnonzero(
            left_out & (table.reason == (kind if kind < len(table.reasons) else -1))
        )
        for kind in kinds[:_MAX_KINDS]
    }
    texts = table.texts(
        np.concatenate([rows[:_EXAMPLES] for rows in examples.values()] or [np.zeros(0, np.int64)]),
        ("source", "reason"),
    )
    shares = [
        Share(
            _short(table.reasons[kind]) if kind < len(table.reasons) else "other reasons",
            int(counts[kind]),
            counts[kind] / len(table.split),
            examples=tuple(_left_out_line(texts[row]) for row in rows[:_EXAMPLES].tolist()),
        )
        for kind, rows in examples.items()
    ]
    if rest := kinds[_MAX_KINDS:]:
        images = int(counts[rest].sum())
        shares.append(Share(f"{len(rest):,} more reasons", images, images / len(table.split)))
    return shares


def _left_out_line(texts: Mapping[str, Any]) -> str:
    source = _short(texts["source"])
    return f"{source}: {_short(texts['reason'], _LONG_TEXT)}" if texts["reason"] else source


def _copy_examples(table: ImageTable) -> list[tuple[str, str]]:
    rows = _spread_out(np.flatnonzero(table.copy), _COPIES)
    texts = table.texts(rows, ("source", "duplicate_of"))
    return [
        (_short(texts[row]["source"]), _short(texts[row]["duplicate_of"])) for row in rows.tolist()
    ]


def _repeats(table: ImageTable) -> dict[str, int]:
    clusters = table.clusters
    return {
        "groups": len(clusters),
        "images": len(clusters.rows),
        "largest": int(clusters.sizes.max(initial=0)),
        "mixed": int(clusters.mixed.sum()),
        "leaking": int(clusters.leaking.sum()),
    }


# Charts


def _charts(table: ImageTable) -> list[Histogram]:
    width, height = table.width[table.kept], table.height[table.kept]
    encoded = table.size[table.kept]
    known = (width > 0) & (height > 0)
    width, height, encoded = width[known], height[known], encoded[encoded > 0]
    charts = []
    if len(width):
        charts += [
            histograms.of_whole_numbers("Width", "pixels", width, _pixels),
            histograms.of_whole_numbers("Height", "pixels", height, _pixels),
            histograms.of_aspect_ratios("Aspect ratio", "width to height", width / height),
        ]
    if len(encoded):
        charts.append(
            histograms.of_whole_numbers("Encoded size", "of the original file", encoded, _bytes)
        )
    return charts


def _pixels(value: float) -> str:
    return f"{value:,.0f}"


def _bytes(value: float) -> str:
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if value >= factor:
            return f"{value / factor:.3g} {unit}"
    return f"{value:.0f} B"


# Pictures


@dataclass(frozen=True)
class _Galleries:
    """Chooses the images that are shown, and makes pictures of them."""

    folder: Path
    table: ImageTable
    clusters_shown: tuple[int, ...]
    classes_shown: Mapping[int, NDArray[np.int64]]  # rows by class
    smallest: NDArray[np.int64]
    longest: NDArray[np.int64]
    texts: Mapping[int, Mapping[str, Any]]  # by row

    @classmethod
    def of(cls, folder: Path, table: ImageTable) -> _Galleries:
        clusters, classes = _shown_clusters(table), _shown_classes(table)
        smallest, longest = _smallest(table), _longest(table)
        rows = (smallest, longest, *classes.values(), *(_members(table, i) for i in clusters))
        texts = table.texts(np.concatenate(rows), ("source", "shard", "offset"))
        return cls(folder, table, clusters, classes, smallest, longest, texts)

    def samples(self) -> list[Gallery]:
        """Some images of each class, the smallest class first."""
        totals = self.table.counts.sum(axis=0)
        return [
            Gallery(
                _short(self.table.labels[label]),
                int(totals[label]),
                tuple(self._picture(row, self._split(row)) for row in rows.tolist()),
            )
            for label, rows in self.classes_shown.items()
        ]

    def clusters(self) -> list[Gallery]:
        """Some groups of near-duplicates."""
        clusters = self.table.clusters
        galleries = []
        for cluster in self.clusters_shown:
            total = int(clusters.sizes[cluster])
            title = f"{total:,} images"
            title += ", more than one label" * bool(clusters.mixed[cluster])
            title += ", train and another split" * bool(clusters.leaking[cluster])
            pictures = tuple(
                self._picture(row, self._label(row), f"{self._split(row)}, {self._side(row)}")
                for row in _members(self.table, cluster).tolist()
            )
            galleries.append(Gallery(title, total, pictures))
        return galleries

    def extremes(self) -> list[Gallery]:
        """The smallest images, and the longest of those that are beyond 2:1."""
        return [
            Gallery(
                title,
                len(rows),
                tuple(
                    self._picture(row, self._side(row), self._label(row)) for row in rows.tolist()
                ),
            )
            for title, rows in (
                ("The smallest images", self.smallest),
                ("The longest images", self.longest),
            )
            if len(rows)
        ]

    def _picture(self, row: int, *lines: str) -> Picture:
        texts = self.texts[row]
        source = _short(texts["source"])
        return Picture(
            thumbnails.data_uri(self.folder, texts["shard"], texts["offset"]),
            f"{self._label(row)}: {source}",
            source,
            _short(texts["source"].rsplit("/", 1)[-1], _FILE_NAME),
            lines,
        )

    def _label(self, row: int) -> str:
        code = int(self.table.label[row])
        return _short(self.table.labels[code]) if code >= 0 else "no class"

    def _split(self, row: int) -> str:
        return SPLITS[self.table.split[row]]

    def _side(self, row: int) -> str:
        return f"{self.table.width[row]} x {self.table.height[row]}"


def _shown_classes(table: ImageTable) -> dict[int, NDArray[np.int64]]:
    """Rows of the smallest classes, the smallest first."""
    totals = table.counts.sum(axis=0)
    smallest = np.argsort(totals, kind="stable")
    shown = smallest[totals[smallest] > 0][:SAMPLED_CLASSES].tolist()
    low, high = SAMPLES_OF_A_CLASS
    number = min(max(SAMPLES // max(len(shown), 1), low), high)
    labels = table.label[table.kept]
    return {i: _spread_out(table.kept[labels == i], number) for i in shown}


def _shown_clusters(table: ImageTable) -> tuple[int, ...]:
    """Some clusters: of those where something may be wrong, the largest, and others."""
    clusters = table.clusters
    largest = np.argsort(-clusters.sizes, kind="stable")
    few = SHOWN_CLUSTERS // 3
    chosen = dict.fromkeys(
        [
            *_spread_out(largest[clusters.mixed[largest]], few).tolist(),
            *_spread_out(largest[clusters.leaking[largest]], few).tolist(),
            *_spread_out(largest, SHOWN_CLUSTERS).tolist(),
        ]
    )
    return tuple(chosen)[:SHOWN_CLUSTERS]


def _members(table: ImageTable, cluster: int) -> NDArray[np.int64]:
    return _spread_out(table.clusters.members(cluster), SHOWN_OF_A_CLUSTER)


def _smallest(table: ImageTable) -> NDArray[np.int64]:
    width, height = table.width[table.kept].astype(np.int64), table.height[table.kept]
    return table.kept[np.argsort(width * height, kind="stable")[:SHOWN_EXTREMES]]


def _longest(table: ImageTable) -> NDArray[np.int64]:
    rows = wide(table)
    width, height = table.width[rows], table.height[rows]
    ratio = np.maximum(width, height) / np.maximum(np.minimum(width, height), 1)
    return rows[np.argsort(-ratio, kind="stable")[:SHOWN_EXTREMES]]


def _spread_out(values: NDArray[np.int64], number: int) -> NDArray[np.int64]:
    """At most so many of the values, evenly spread over them: neighbours are often alike."""
    if len(values) <= number:
        return values
    return values[np.linspace(0, len(values) - 1, number).round().astype(np.int64)]


# Text


def _short(text: str, characters: int = _TEXT) -> str:
    """A text without its middle, if it is too long: paths differ at their ends."""
    if len(text) <= characters:
        return text
    head = (characters - 1) // 2
    return f"{text[:head]}…{text[len(text) - (characters - 1 - head) :]}"


_TEMPLATES = environment(Path(__file__).parent)
_TEMPLATES.globals |= {"geometry": histograms, "percent": percent}
