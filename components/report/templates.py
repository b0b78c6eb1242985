"""Jinja templates of pages that are one file: the report's style, tables and charts are in each."""

from __future__ import annotations

from pathlib import Path

import jinja2


def environment(*folders: Path) -> jinja2.Environment:
    """An environment that looks for templates in folders, and then among the report's.

    What a template inserts is escaped, and a name that nobody gave is an error.
    """
    return jinja2.Environment(
        loader=jinja2.FileSystemLoader([*folders, Path(__file__).parent]),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
