"""What a class may be called: clean names, which a reader can tell apart."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable

from pipeline.errors import UserError


def normal_label(label: str) -> str:
    """Returns a label composed (Unicode NFC) and without blanks around it."""
    return unicodedata.normalize("NFC", label.strip())


def check_labels(spellings: Iterable[str]) -> None:
    """Checks the labels as they were found, before `normal_label`.

    Raises:
        UserError: there are fewer than two, or one is empty, holds a line break, control or broken
            character, or looks like another.
    """
    by_key: dict[str, str] = {}
    for label in sorted(spellings):
        if not label.strip():
            raise UserError("a label is empty: every image needs the name of its class")
        if any(unicodedata.category(c) in ("Cc", "Cs", "Zl", "Zp") for c in label):
            raise UserError(f"the label {label!r} holds a line break, control or broken character")
        other = by_key.setdefault(_as_seen(label), label)
        if other != label:
            # The two may look the same to the last pixel: then show their characters.
            show = ascii if _visible(label) == _visible(other) else repr
            raise UserError(
                f"the labels {show(other)} and {show(label)} differ only in case, blanks, "
                "invisible characters or Unicode form: spell the class in one way"
            )
    if len(by_key) < 2:
        found = f"1 class: {next(iter(by_key.values()))!r}" if by_key else "no class"
        raise UserError(f"found {found}; a classifier needs at least two")


def _as_seen(label: str) -> str:
    return normal_label(_visible(label).casefold())


def _visible(label: str) -> str:
    """A label without its characters of no width: joiners, marks of direction, soft hyphens."""
    return normal_label("".join(c for c in label if unicodedata.category(c) != "Cf"))
