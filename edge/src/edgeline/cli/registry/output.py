"""What the registry's commands print beside what all do: roles, metrics, and questions."""

import argparse
import math
import sys
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

from edgeline.cli.output import UsageError, answer, note

if TYPE_CHECKING:
    from edgeline.publish.metadata import RoleStatus

_SHORT = 12  # digits of a key's id that tables show


def number(value: float | None) -> str:
    """Return a metric for people; a dash where there is none."""
    return "-" if value is None or math.isnan(value) else f"{value:.4f}"


def day(time: datetime | None) -> str:
    """Return a date for people; a dash where there is none."""
    return "-" if time is None else f"{time:%Y-%m-%d}"


def note_expired(roles: Sequence["RoleStatus"]) -> None:
    """Say on stderr which signatures expired."""
    now = datetime.now(timezone.utc)
    past = (role for role in roles if role.expires is not None and role.expires <= now)
    expired = [f"{role.name} on {day(role.expires)}" for role in past]
    if expired:
        note(
            f"signatures expired, and devices refuse the registry: {', '.join(expired)}; "
            "sign anew with `edgeline registry refresh`"
        )


def answer_roles(
    options: argparse.Namespace,
    document: Mapping[str, Any] | Iterable[Mapping[str, Any]],
    roles: Sequence["RoleStatus"],
) -> int:
    """Print roles, as `answer` does: as a table, or what is said of them for programs."""
    header = ("ROLE", "KEYS", "NEEDED", "VERSION", "EXPIRES")
    return answer(options, document, [header, *map(_role_row, roles)], right=(2, 3))


def role_json(role: "RoleStatus") -> dict[str, Any]:
    """Return a role for programs."""
    return {
        "role": role.name,
        "version": role.version,
        "threshold": role.threshold,
        "keys": [key.keyid for key in role.keys],
        "expires": role.expires.isoformat() if role.expires else None,
    }


def confirmed(question: str, *, yes: bool) -> bool:
    """Ask, unless the answer was given with --yes.

    Raises:
        UsageError: there is no terminal to ask on.
    """
    if yes:
        return True
    if not sys.stdin.isatty():
        raise UsageError("Nothing was signed: without a terminal to ask on, --yes has to say so")
    print(f"{question} [y/N] ", end="", file=sys.stderr, flush=True)
    return sys.stdin.readline().strip().lower() in ("y", "yes")


def _role_row(role: "RoleStatus") -> tuple[str, ...]:
    keys = ", ".join(key.keyid[:_SHORT] for key in role.keys)
    signed = str(role.version) if role.version else "-"
    return role.name, keys, str(role.threshold), signed, day(role.expires)
