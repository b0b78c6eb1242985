"""Text of strangers in messages of ours."""


def one_line(value: object, *, limit: int = 200) -> str:
    """Return `value` as a short line that cannot steer a terminal, whatever it holds."""
    line = " ".join(str(value).split())
    safe = "".join(letter if letter.isprintable() else "\ufffd" for letter in line)
    return safe if len(safe) <= limit else f"{safe[:limit]}..."


def quoted(value: object, *, limit: int = 120) -> str:
    """Return `value` as Python writes it, in quotes if it is text, short and on one line."""
    text = repr(value)
    return text if len(text) <= limit else f"{text[:limit]}..."
