"""Hard examples: the images that the model is least sure of, kept here for the device's owner.

    examples = HardExamples(base / FOLDER, per_day=20)
    examples.offer(image, guess, max_side=512)      # now and then kept in memory
    examples.save()                                 # and written at each check

Only where its user has asked for it. A day's images are those on which the two most probable labels
were closest (margin sampling: Scheffer et al., "Active Hidden Markov Models for Information
Extraction", 2001), and first of all those to which a model in the shadow gave another label; at
most one of each minute, so that a scene that stays does not fill the day. The last `DAYS` days are
kept. An image is scaled down to what the model's contract reads, and written as a PNG of its
pixels.
"""

import hashlib
import io
import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from edgeline._files import locked, read_bounded, write_whole
from edgeline._json import parse_object
from edgeline._records import Sha256, read, save
from edgeline.errors import EdgelineError, ImageError
from edgeline.telemetry.examples import MAX_SIDE, Guess

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from edgeline.preprocessing import ImageSource

FOLDER = "examples"  # of the state folder of a model's channel
DAYS = 7  # that images are kept for
MAX_PER_DAY = 200

_INDEX = "examples.json"
_MAX_INDEX = 4 << 20  # bytes
_MAX_IMAGE = 8 << 20  # bytes
_MAX_PENDING = 16  # images in memory until the next check
_MINUTE = 60.0
_DAY = 86_400.0
_LOCK_SECONDS = 10.0

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Kept:
    """An image in the ring."""

    image: Sha256  # of its PNG: its file's name
    guess: Guess

    @property
    def day(self) -> int:
        """Days since 1970."""
        return int(self.guess.time // _DAY)

    @property
    def minute(self) -> int:
        """Minutes since 1970."""
        return int(self.guess.time // _MINUTE)


@dataclass(frozen=True)
class _Index:
    examples: list[Kept]


def hardness(guess: Guess) -> tuple[bool, float]:
    """Return what sorts guesses: those that two models disagree on last, the least sure last."""
    return guess.shadow is not None, -guess.margin


class HardExamples:
    """The ring of images on disk. Any number of threads and processes may use it.

    Args:
        folder: Where it is; made when the first image comes.
        per_day: Images that are kept of a day at most.
    """

    def __init__(self, folder: Path, per_day: int = MAX_PER_DAY) -> None:
        self._folder = folder
        self._per_day = per_day
        self._lock = threading.Lock()
        self._pending: dict[int, tuple[Guess, NDArray[np.uint8]]] = {}  # by minute

    def offer(self, image: "ImageSource", guess: Guess, *, max_side: int) -> None:
        """Take an image if it is the hardest of its minute so far."""
        from edgeline.preprocessing import load_limited

        minute = int(guess.time // _MINUTE)
        with self._lock:
            before = self._pending.get(minute)
            if before is not None and hardness(before[0]) >= hardness(guess):
                return
        try:
            pixels = load_limited(image, min(max_side, MAX_SIDE))
        except ImageError:
            return  # it was read once; its file is gone
        with self._lock:
            self._pending[minute] = guess, pixels.copy()
            if len(self._pending) > _MAX_PENDING:
                del self._pending[min(self._pending, key=lambda m: hardness(self._pending[m][0]))]

    def save(self) -> None:
        """Write what was taken, and let go of what is too much or too old.

        Raises:
            OSError: the folder cannot be used.
        """
        with self._lock:
            pending, self._pending = self._pending, {}
        if not pending:
            return
        with self._locked():
            kept = self.kept()
            images = {}
            for guess, pixels in pending.values():
                png = _png(pixels)
                name = hashlib.sha256(png).hexdigest()
                images[name] = png
                kept = [each for each in kept if each.image != name]
                kept.append(Kept(name, guess))
            chosen = self._chosen(kept)
            for each in chosen:
                if each.image in images:
                    write_whole(self._path(each.image), images[each.image])
            self._replace(chosen)

    def kept(self) -> list[Kept]:
        """Return what is kept, oldest first; nothing where the list of it is missing or damaged."""
        try:
            index = read(_Index, parse_object(read_bounded(self._folder / _INDEX, _MAX_INDEX)))
        except (FileNotFoundError, NotADirectoryError):
            return []
        except (ValueError, EdgelineError) as error:
            _log.warning("%s is damaged, and begun anew: %s", self._folder / _INDEX, str(error))
            return []
        return sorted(index.examples, key=lambda each: each.guess.time)

    def read(self, kept: Kept) -> bytes | None:
        """Return the PNG of an image; None when it is gone or damaged."""
        try:
            png = read_bounded(self._path(kept.image), _MAX_IMAGE)
        except (OSError, ValueError):
            return None
        return png if hashlib.sha256(png).hexdigest() == kept.image else None

    def forget(self, images: set[str]) -> None:
        """Remove images, by their names.

        Raises:
            OSError: the folder cannot be used.
        """
        with self._locked():
            self._replace([each for each in self.kept() if each.image not in images])

    def _chosen(self, kept: list[Kept]) -> list[Kept]:
        """Return the hardest of each minute, of those the hardest of each day, of the last days."""
        ordered = sorted(kept, key=lambda each: hardness(each.guess), reverse=True)
        by_minute: dict[int, Kept] = {}
        for each in ordered:
            by_minute.setdefault(each.minute, each)
        by_day: dict[int, list[Kept]] = {}
        for each in by_minute.values():
            by_day.setdefault(each.day, []).append(each)
        days = sorted(by_day, reverse=True)[:DAYS]
        return [each for day in days for each in by_day[day][: self._per_day]]

    def _replace(self, kept: list[Kept]) -> None:
        """Keep these and nothing else: first the list of them, then the files that are in none."""
        save(self._folder / _INDEX, _Index(kept))
        names = {f"{each.image}.png" for each in kept}
        for path in self._folder.iterdir():
            if path.suffix in (".png", ".part") and path.name not in names:
                path.unlink(missing_ok=True)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        # Others on this machine have no business with what its camera sees.
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with locked(self._folder / "lock", _LOCK_SECONDS):
            yield

    def _path(self, image: str) -> Path:
        return self._folder / f"{image}.png"


def _png(pixels: "NDArray[np.uint8]") -> bytes:
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()
