"""Digests change with what they stand for, and with nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.content_digest import file_digest, source_digest, tree_digest


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "some_package"
    folder.mkdir()
    (folder / "__init__.py").write_text("")
    (folder / "code.py").write_text("x = 1\n")
    monkeypatch.syspath_prepend(tmp_path)
    return folder


def test_a_package_s_digest_changes_with_any_of_its_modules(package: Path) -> None:
    before = source_digest("some_package")
    assert source_digest("some_package") == before
    (package / "notes.txt").write_text("not code")
    assert source_digest("some_package") == before
    (package / "code.py").write_text("x = 2\n")
    assert source_digest("some_package") != before


def test_a_module_s_digest_is_its_own(package: Path) -> None:
    before = source_digest("some_package.code")
    (package / "other.py").write_text("y = 1\n")
    assert source_digest("some_package.code") == before


def test_a_module_that_does_not_exist_is_an_error() -> None:
    with pytest.raises(ModuleNotFoundError):
        source_digest("pipeline.nothing")


def test_a_file_s_digest_is_that_of_its_content(tmp_path: Path) -> None:
    file = tmp_path / "weights.h5"
    assert file_digest(str(file)) == ""
    file.write_bytes(b"1")
    before = file_digest(str(file))
    file.write_bytes(b"2")
    assert file_digest(str(file)) != before


def test_a_folder_s_digest_is_that_of_all_in_it(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    assert tree_digest(str(folder)) == tree_digest("") == ""
    (folder / "variables").mkdir(parents=True)
    digests = set()
    for name, content in (("a", b"1"), ("a", b"2"), ("variables/a", b"2")):
        (folder / name).write_bytes(content)
        digests.add(tree_digest(str(folder)))
    assert len(digests) == 3
