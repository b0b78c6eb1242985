"""Images that devices sent home: shown, labelled, and added to what is trained on, no more."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from edgeline.errors import RegistryError
from edgeline.fleet.inbox import TABLE, Entry, read_inbox, write_inbox
from pipeline.__main__ import main
from pipeline.config import IngestConfig
from pipeline.data.ingest import ingest
from pipeline.errors import UserError
from tests.pipeline.data.test_ingest import splits_by_source
from tests.pipeline.data.test_layouts import save_picture, ten_of_each

IMAGES = 4


@pytest.fixture
def inbox(tmp_path: Path) -> Path:
    """Four images that came home, the first two with a label."""
    folder = tmp_path / "inbox"
    entries = []
    for number in range(IMAGES):
        path = f"images/{number:064x}.png"
        save_picture(folder / path, 900 + number)
        label = "cat" if number < 2 else ""
        taken = "2026-11-27 12:00"
        entry = Entry(path, label, "dog", "0.5500", f"0.{number}", "", "1" * 32, "sha256:1", taken)
        entries.append(entry)
    write_inbox(folder, entries)
    return folder


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    ten_of_each(tmp_path / "photos")
    return tmp_path / "photos"


def relabelled(inbox: Path, **labels: str) -> None:
    """Label images by their numbers, such as _3="dog"."""
    entries = read_inbox(inbox)
    for number, label in labels.items():
        place = int(number[1:])
        entries[place] = replace(entries[place], label=label)
    write_inbox(inbox, entries)


def test_what_has_a_label_is_trained_on_and_nothing_is_judged_by_it(
    photos: Path, inbox: Path, tmp_path: Path
) -> None:
    ingest(photos, tmp_path / "data")
    before = splits_by_source(tmp_path / "data")
    classes = sorted(path.name for path in photos.iterdir())
    relabelled(inbox, _0=classes[0], _1=classes[1])
    options = IngestConfig(inbox=inbox)
    report = ingest(photos, tmp_path / "data", options)
    after = splits_by_source(tmp_path / "data")
    added = {source: split for source, split in after.items() if source.startswith("inbox/")}
    assert [*added.values()] == ["train", "train"]
    assert {source: after[source] for source in before} == before, "no other image moves"
    assert any("2 of 4 images" in note for note in report.notes)
    assert ingest(photos, tmp_path / "data", options).reused
    relabelled(inbox, _2=classes[0])
    assert not ingest(photos, tmp_path / "data", options).reused


def test_a_copy_of_a_held_out_image_is_not_trained_on(
    photos: Path, inbox: Path, tmp_path: Path
) -> None:
    ingest(photos, tmp_path / "data")
    held_out = next(
        source for source, split in splits_by_source(tmp_path / "data").items() if split == "test"
    )
    label = held_out.partition("/")[0]
    (inbox / read_inbox(inbox)[0].path).write_bytes((photos / held_out).read_bytes())
    relabelled(inbox, _0=label, _1=label)
    ingest(photos, tmp_path / "data", IngestConfig(inbox=inbox))
    after = splits_by_source(tmp_path / "data")
    assert after[held_out] == "test"
    assert f"inbox/{read_inbox(inbox)[0].path}" not in after


def test_a_label_that_no_other_image_has_is_a_mistake(
    photos: Path, inbox: Path, tmp_path: Path
) -> None:
    relabelled(inbox, _0="catt")
    with pytest.raises(UserError, match="'catt', and no other image has"):
        ingest(photos, tmp_path / "data", IngestConfig(inbox=inbox))
    assert not (tmp_path / "data").exists()


def test_an_inbox_that_is_none_is_a_mistake(photos: Path, inbox: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="has no images"):
        ingest(photos, tmp_path / "data", IngestConfig(inbox=tmp_path / "no"))
    (inbox / TABLE).write_text("path,label\n")
    with pytest.raises(RegistryError, match="other columns"):
        ingest(photos, tmp_path / "data", IngestConfig(inbox=inbox))
    records = tmp_path / "records"
    ingest(photos, records)
    with pytest.raises(UserError, match="adds to photos or a CSV file"):
        ingest(records, tmp_path / "data", IngestConfig(inbox=inbox))


def test_the_page_shows_images_and_takes_labels(
    inbox: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    entries = read_inbox(inbox)
    evil = "<script>alert(1)</script>"
    write_inbox(inbox, [*entries[:3], replace(entries[3], guess=evil, shadow="bird")])
    (inbox / entries[2].path).write_bytes(b"damaged")
    labels = tmp_path / "labels.csv"
    labels.write_text(f"path,label,by\n{entries[3].path},dog,anna\n{entries[2].path},,anna\n")
    assert main(["inbox", str(inbox), "--labels", str(labels)]) == 0
    said = capsys.readouterr().out
    assert "1 labels taken" in said
    assert [entry.label for entry in read_inbox(inbox)] == ["cat", "cat", "", "dog"]
    page = (inbox / "inbox.html").read_text()
    assert said.strip().endswith("inbox.html")
    assert "<script" not in page
    assert "&lt;script&gt;" in page
    assert page.count("data:image/jpeg") == 3
    assert "gone or damaged" in page
    assert "in the shadow: bird" in page
    assert "://" not in page
    labels.write_text("path,label\nimages/other.png,dog\n")
    assert main(["inbox", str(inbox), "--labels", str(labels)]) == 2
    assert "has no image 'other'" in capsys.readouterr().err
    assert main(["inbox", str(tmp_path / "nowhere")]) == 2
    assert "has no images to label" in capsys.readouterr().err
