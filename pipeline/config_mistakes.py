"""How a mistake in a configuration is told: in plain words and TOML, with what may be meant."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, get_args

from pydantic import BaseModel

MOST_MEANT = 3  # suggestions
SHORTEST_PART = 4  # characters of a part of a name that is taken for the name
FEW_CHOICES = 4  # of which none is suggested: all are named

# What pydantic expected, by its name for the mistake; in braces, a bound.
_EXPECTED: Mapping[str, str] = {
    "int_type": "a whole number",
    "int_parsing": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "float_parsing": "a number",
    "finite_number": "a finite number",
    "bool_type": "true or false",
    "bool_parsing": "true or false",
    "string_type": "a text in quotes",
    "path_type": "a path in quotes",
    "dict_type": "a table of settings",
    "model_type": "a section of settings",
    "model_attributes_type": "a section of settings",
    "list_type": "a list in brackets",
    "tuple_type": "a list in brackets",
    "greater_than": "more than {gt:g}",
    "greater_than_equal": "at least {ge:g}",
    "less_than": "less than {lt:g}",
    "less_than_equal": "at most {le:g}",
    "string_too_short": "a text that is not empty",
}


def describe(problem: Any, root: type[BaseModel], at: Sequence[str] = ()) -> str:
    """One problem found by pydantic, as `key: expected ..., received ...`.

    Args:
        problem: one of a ValidationError's `errors()`.
        root: the model of a whole configuration.
        at: where in it the checked part is.
    """
    location = [*at, *(part for part in problem["loc"] if part != "[key]")]
    key = _key(location)
    names = [part for part in location if isinstance(part, str)]
    if problem["type"] == "extra_forbidden":
        return f"{key}: unknown key; {_suggestion(names, root)}"
    if problem["type"] == "missing":
        return f"{key}: missing; expected {_in_a_sentence(_documentation(names, root))}"
    if problem["type"] == "value_error":
        return f"{key}: {problem['msg'].removeprefix('Value error, ')}"
    received = in_toml(problem["input"])
    if problem["type"] == "literal_error":
        choices = str(problem["ctx"]["expected"]).replace("'", '"')
        return f"{key}: expected {choices}; received {received}{_choice(problem['input'], choices)}"
    expected = _EXPECTED.get(problem["type"], "").format(**problem.get("ctx", {}))
    expected = expected or problem["msg"].removeprefix("Input should be ")
    return f"{key}: expected {expected}; received {received}{_percent(problem)}"


def did_you_mean(text: str, known: Sequence[str]) -> str:
    """A question that names what may be meant, or nothing."""
    names = {name.casefold(): name for name in known}
    wanted = text.casefold().strip()
    begin = [name for name in names if wanted and name.startswith(wanted)]
    within = [name for name in names if len(wanted) >= SHORTEST_PART and wanted in name]
    meant = begin or within or difflib.get_close_matches(wanted, names, n=1)
    return (
        f"did you mean {' or '.join(names[name] for name in meant[:MOST_MEANT])}?" if meant else ""
    )


def in_toml(value: Any) -> str:
    """A value as a TOML file has it, on one line."""
    if isinstance(value, Mapping):
        items = (f"{_toml_key(key)} = {in_toml(each)}" for key, each in value.items())
        return f"{{ {', '.join(items)} }}" if value else "{}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(in_toml, value))}]"
    if isinstance(value, float):
        return repr(value)
    return "nothing" if value is None else json.dumps(value, ensure_ascii=False, default=str)


def _toml_key(key: str) -> str:
    return key if re.fullmatch("[A-Za-z0-9_-]+", key) else json.dumps(key)


def _key(location: Sequence[str | int]) -> str:
    """The key as in a file, and which item of a list, counted from 1."""
    key = ".".join(part for part in location if isinstance(part, str))
    return key + "".join(f", item {part + 1}" for part in location if isinstance(part, int))


def _choice(received: Any, choices: str) -> str:
    known = re.findall('"([^"]*)"', choices)
    few = len(known) <= FEW_CHOICES
    meant = did_you_mean(received, known) if isinstance(received, str) and not few else ""
    return f"; {meant}" if meant else ""


def _percent(problem: Any) -> str:
    """What may be meant by a share above 1."""
    is_share = problem["type"] == "less_than_equal" and problem["ctx"]["le"] == 1
    share = problem["input"] / 100 if is_share else 0
    return f"; did you mean {share:g}?" if 0.01 <= share <= 1 else ""


def _in_a_sentence(text: str) -> str:
    """A text with its first letter small, unless an acronym begins with it."""
    return text[0].lower() + text[1:] if text[1:2].islower() else text


def _suggestion(names: Sequence[str], root: type[BaseModel]) -> str:
    *section, name = names
    known = list(_section_at(section, root).model_fields)
    if meant := did_you_mean(name, known):
        return meant
    elsewhere = list(_places(name, root))[:MOST_MEANT]
    place = f"; or is it {' or '.join(elsewhere)}?" if elsewhere else ""
    return f"expected one of: {', '.join(known)}{place}"


def _places(name: str, root: type[BaseModel]) -> Iterator[str]:
    """Keys of that name, by their whole names, in the sections at the top."""
    for section, field in root.model_fields.items():
        for model in _models(field.annotation):
            if name in model.model_fields:
                yield f"{section}.{name}"


def _documentation(names: Sequence[str], root: type[BaseModel]) -> str:
    *section, name = names
    field = _section_at(section, root).model_fields.get(name)
    text = (field.description or f"the section [{name}]") if field else "a value"
    return " ".join(text.split())


def _section_at(names: Sequence[str], root: type[BaseModel]) -> type[BaseModel]:
    section = root
    for name in names:
        if name in section.model_fields:  # else a key, of which there are several
            section = next(_models(section.model_fields[name].annotation))
    return section


def _models(annotation: Any) -> Iterator[type[BaseModel]]:
    """The models in an annotation, such as `Section`, `Section | None`, `dict[str, Section]`."""
    for candidate in (annotation, *get_args(annotation)):
        if isinstance(candidate, type) and issubclass(candidate, BaseModel):
            yield candidate
