"""The names that folders, files and columns give to splits."""

from __future__ import annotations

import re
from pathlib import PurePosixPath

_NAMES = {
    "train": "train",
    "training": "train",
    "val": "eval",
    "valid": "eval",
    "validation": "eval",
    "eval": "eval",
    "evaluation": "eval",
    "dev": "eval",
    "test": "test",
    "testing": "test",
}
_SUFFIX = re.compile("[-_ ]?(data|set|images|split)$")


def split_of_name(name: str) -> str:
    """Returns "train", "eval" or "test" for a split's name, or the empty string for any other."""
    name = name.casefold()
    return _NAMES.get(name) or _NAMES.get(_SUFFIX.sub("", name), "")


def split_of_file(source: str) -> str:
    """Returns the split that a file of records belongs to by its path, empty if that tells none.

    The name tells it (`train-00000-of-00010`, `cifar10-test.tfrecord-00000-of-00001`), by its last
    word that is a split's name, or else the nearest folder whose name does.

    Args:
        source: The path within the data, with slashes; the data's own folder is not part of it.
    """
    for name in reversed(PurePosixPath(source).parts):
        # A word has no digit: the 2017 of train2017, or a shard's number.
        splits = [split_of_name(word) for word in re.findall(r"[^\W\d_]+", name)]
        if found := [split for split in splits if split]:
            return found[-1]
    return ""
