"""Telling how far something has come that may take a while."""

from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

Notify = Callable[[str], None]

_Item = TypeVar("_Item")


def say_nothing(text: str) -> None:
    """Tell nobody."""


def counted(items: Sequence[_Item], notify: Notify, what: str) -> Iterator[_Item]:
    """Yield items, and tell of each, before it is worked on, which of how many it is."""
    for number, item in enumerate(items, start=1):
        notify(f"{what} {number} of {len(items)}")
        yield item
