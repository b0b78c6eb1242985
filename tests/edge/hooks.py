"""Stores that something happens to at each step of whoever writes to them."""

from collections.abc import Callable
from typing import Any, cast

from edgeline.publish.store import WriteStore

STEPS = ("put_blob", "put_files", "put_manifest", "commit", "remove", "collect")

Hook = Callable[[str, Any], None]  # gets the step's name and its first argument


def nothing(step: str, argument: Any) -> None:
    """What happens by default."""


def hooked(store: WriteStore, before: Hook = nothing, after: Hook = nothing) -> WriteStore:
    """Return `store` with something happening before and after each step."""
    return cast(WriteStore, _Hooked(store, before, after))


class _Hooked:
    def __init__(self, store: WriteStore, before: Hook, after: Hook) -> None:
        self._store = store
        self._before = before
        self._after = after

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._store, name)
        if name not in STEPS:
            return method

        def step(*arguments: Any, **options: Any) -> Any:
            argument = arguments[0] if arguments else None
            self._before(name, argument)
            result = method(*arguments, **options)
            self._after(name, argument)
            return result

        return step
