"""What is said in messages: text of strangers, and times."""

from datetime import datetime, timezone


def one_line(value: object, *, limit: int = 200) -> str:
    """Return `value` as a short line that cannot steer a terminal, whatever it holds."""
    line = " ".join(str(value).split())
    safe = "".join(letter if letter.isprintable() else "\ufffd" for letter in line)
    return safe if len(safe) <= limit else f"{safe[:limit]}..."


def in_utc(moment: datetime) -> str:
    """Say a moment, which knows its time zone, to the minute: "2027-01-31 09:05 UTC"."""
    return f"{moment.astimezone(timezone.utc):%Y-%m-%d %H:%M} UTC"


def quoted(value: object, *, limit: int = 120) -> str:
    """Return `value` as Python writes it, in quotes if it is text, short and on one line."""
    text = repr(value)
    return text if len(text) <= limit else f"{text[:limit]}..."
