"""The layouts of the field: splits that the data brings, groups, copies, odd folders."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline.config import IngestConfig
from pipeline.data.ingest import ingest
from pipeline.errors import UserError
from tests.pipeline.data.test_ingest import save, splits_by_source, table_of


def picture(seed: int, size: tuple[int, int] = (96, 72)) -> Image.Image:
    """A picture with content, unlike any other."""
    cells = np.random.default_rng(seed).integers(0, 256, (9, 12, 3), dtype=np.uint8)
    return Image.fromarray(cells).resize(size, Image.Resampling.BICUBIC)


def save_picture(path: Path, seed: int, size: tuple[int, int] = (96, 72)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    picture(seed, size).save(path)


LAYOUTS = {
    "TensorFlow's tutorial": ("train", "validation", "test"),
    "Keras' recipe": ("train_data", "validation_data", "test_data"),
    "Kaggle's": ("Train", "Valid", "Test"),
    "PyTorch's": ("train", "val", "test"),
    "ours": ("train", "eval", "test"),
}


@pytest.mark.parametrize("names", LAYOUTS.values(), ids=LAYOUTS)
def test_folders_of_splits_are_read_as_such(names: tuple[str, str, str], tmp_path: Path) -> None:
    seed = 0
    for name in names:
        for label in ("cat", "dog"):
            for index in range(3):
                save(tmp_path / f"photos/{name}/{label}/{index}.png", seed := seed + 1)
    report = ingest(tmp_path / "photos", tmp_path / "dataset")
    assert report.labels == ("cat", "dog")
    splits = splits_by_source(tmp_path / "dataset")
    for name, split in zip(names, ("train", "eval", "test"), strict=True):
        assert {s for source, s in splits.items() if source.startswith(f"{name}/")} == {split}
    assert report.notes[0].startswith("read as splits: ")


def test_a_test_split_that_is_missing_is_taken_from_train(tmp_path: Path) -> None:
    """The classic two-folder layout trains with its validation folder as eval."""
    for label in ("cat", "dog"):
        for index in range(20):
            save(tmp_path / f"photos/train/{label}/{index}.png", hash((label, index)) % 2**32)
        for index in range(5):
            save(
                tmp_path / f"photos/validation/{label}/{index}.png",
                100 + hash(label) % 2**31 + index,
            )
    said: list[str] = []
    report = ingest(tmp_path / "photos", tmp_path / "dataset", progress=said.append)
    assert report.counts == {
        "train": {"cat": 18, "dog": 18},
        "eval": {"cat": 5, "dog": 5},
        "test": {"cat": 2, "dog": 2},
    }
    line = "no test split is given: 4 images of train are taken for it"
    assert line in said
    assert line in report.notes
    before = splits_by_source(tmp_path / "dataset")
    save(tmp_path / "photos/train/cat/20.png", 7)
    ingest(tmp_path / "photos", tmp_path / "dataset")
    assert before.items() <= splits_by_source(tmp_path / "dataset").items()


def test_a_contests_unlabelled_test_images_are_left_out(tmp_path: Path) -> None:
    for index in range(24):
        save(tmp_path / f"photos/train/{'cat' if index % 2 else 'dog'}.{index}.jpg", index)
    save(tmp_path / "photos/test/1.jpg", 100)
    report = ingest(tmp_path / "photos", tmp_path / "dataset")
    assert "test/ holds no labelled image and is left out" in report.notes
    assert report.images == 24
    assert min(report.counts["test"].values()) == 1


def test_classes_that_are_called_like_splits_are_classes_beside_others(tmp_path: Path) -> None:
    for index, label in enumerate(("bus", "car", "train")):
        for number in range(3):
            save(tmp_path / f"photos/{label}/{number}.png", 10 * index + number)
    assert ingest(tmp_path / "photos", tmp_path / "dataset").labels == ("bus", "car", "train")


@pytest.mark.parametrize(("column", "split_by"), [("split", None), ("subset", "subset")])
def test_a_column_of_a_table_has_the_splits(
    column: str, split_by: str | None, tmp_path: Path
) -> None:
    rows = [f"path,label,{column}"]
    names = ["train", "Validation", "test", ""]
    for index in range(48):
        save(tmp_path / f"{index}.png", index)
        rows.append(f"{index}.png,{'cat' if index % 2 else 'dog'},{names[index // 2 % 4]}")
    (tmp_path / "labels.csv").write_text("\n".join(rows))
    options = IngestConfig(split_by=split_by)
    report = ingest(tmp_path / "labels.csv", tmp_path / "dataset", options)
    assert report.slice_keys == ()
    splits = splits_by_source(tmp_path / "dataset")
    for index in range(48):
        given = {"train": "train", "Validation": "eval", "test": "test"}.get(names[index // 2 % 4])
        assert given in (None, splits[f"{index}.png"])


def test_a_pattern_finds_groups_in_paths(tmp_path: Path) -> None:
    for patient in range(12):
        for index in range(4):
            label = "ill" if index % 2 else "well"
            save(tmp_path / f"photos/{label}/patient{patient}-{index}.png", 10 * patient + index)
    options = IngestConfig(group_pattern="(?P<group>patient[0-9]+)-")
    ingest(tmp_path / "photos", tmp_path / "dataset", options)
    by_patient: dict[str, set[str]] = {}
    for source, split in splits_by_source(tmp_path / "dataset").items():
        by_patient.setdefault(Path(source).name.partition("-")[0], set()).add(split)
    assert len(by_patient) == 12
    assert all(len(splits) == 1 for splits in by_patient.values())
    assert set.union(*by_patient.values()) == {"train", "eval", "test"}


@pytest.mark.parametrize("pattern", ["patient[0-9]+", "(?P<group>["])
def test_a_pattern_without_a_group_is_refused(pattern: str) -> None:
    with pytest.raises(ValueError, match="expected a"):
        IngestConfig(group_pattern=pattern)


def ten_of_each(photos: Path) -> None:
    for index in range(10):
        save_picture(photos / f"cat/{index}.png", index)
        save_picture(photos / f"dog/{index}.png", 100 + index)


def test_the_same_pixels_in_another_file_are_the_same_image(tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    ten_of_each(photos)
    Image.open(photos / "cat/3.png").save(photos / "cat/copy.bmp")
    report = ingest(photos, tmp_path / "dataset")
    assert report.duplicates == 1
    rows = {row["source"]: row for row in table_of(tmp_path / "dataset")}
    assert rows["cat/copy.bmp"]["duplicate_of"] == "cat/3.png"


def test_what_looks_alike_is_in_one_split(tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    ten_of_each(photos)
    for index in range(10):
        picture(index, (48, 36)).save(photos / f"cat/{index} small.jpg", quality=80)
    report = ingest(photos, tmp_path / "dataset")
    assert report.near_duplicates == 20
    splits = splits_by_source(tmp_path / "dataset")
    for index in range(10):
        assert splits[f"cat/{index}.png"] == splits[f"cat/{index} small.jpg"]
    assert report.images == 30


def test_near_duplicates_can_be_ignored(tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    ten_of_each(photos)
    picture(0, (48, 36)).save(photos / "cat/small.png")
    report = ingest(photos, tmp_path / "dataset", IngestConfig(near_duplicates="ignore"))
    assert report.near_duplicates == 0


def test_a_copy_under_another_label_leaves_both_out_and_names_both(tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    ten_of_each(photos)
    picture(5).save(photos / "dog/torn.bmp")
    report = ingest(photos, tmp_path / "dataset")
    reasons = {item["source"]: item["reason"] for item in report.quarantined}
    assert set(reasons) == {"cat/5.png", "dog/torn.bmp"}
    for reason in reasons.values():
        assert "same image under labels 'cat' and 'dog'" in reason
        assert "cat/5.png" in reason
        assert "dog/torn.bmp" in reason


def test_a_held_out_copy_stays_and_the_training_one_goes(tmp_path: Path) -> None:
    for split in ("train", "val", "test"):
        for index in range(3):
            for label in ("cat", "dog"):
                name = tmp_path / f"photos/{split}/{label}/{index}.png"
                save_picture(name, len(list((tmp_path / "photos").rglob("*.png"))))
    leak = tmp_path / "photos/train/cat/leak.png"
    shutil.copy(tmp_path / "photos/test/cat/0.png", leak)
    ingest(tmp_path / "photos", tmp_path / "dataset")
    rows = {row["source"]: row for row in table_of(tmp_path / "dataset")}
    assert rows["train/cat/leak.png"]["duplicate_of"] == "test/cat/0.png"
    assert rows["test/cat/0.png"]["split"] == "test"


def test_near_duplicates_across_given_splits_are_a_warning(tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    seed = 0
    for split in ("train", "val", "test"):
        for index in range(3):
            for label in ("cat", "dog"):
                save_picture(photos / f"{split}/{label}/{index}.png", seed := seed + 1)
    Image.open(photos / "test/cat/0.png").resize((48, 36)).save(photos / "train/cat/leak.png")
    report = ingest(photos, tmp_path / "dataset")
    assert any("near-duplicates" in line and "train" in line for line in report.warnings)


@pytest.mark.parametrize("name", ["[a]", "a*", "what?", "{a,b}", "[!x]", "a b\nc"])
def test_any_character_may_be_in_a_path(name: str, tmp_path: Path) -> None:
    photos, out = tmp_path / name / "photos", tmp_path / name / f"data{name}"
    for index in range(3):
        save(photos / f"cat/{name}{index}.png", index)
        save(photos / f"dog/{index}.png", 10 + index)
    assert ingest(photos, out).images == 6
    assert ingest(photos, out).reused
    assert {path.name for path in out.parent.iterdir()} == {"photos", out.name}


def test_what_systems_leave_among_photos_is_passed_over_and_counted(tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    for index in range(3):
        save(photos / f"cat/{index}.png", index)
        save(photos / f"dog/{index}.png", 10 + index)
        save(photos / f"cat/@eaDir/{index}.png/SYNOPHOTO_THUMB_S.jpg", index)
    for name in ("lost+found", "System Volume Information", "$RECYCLE.BIN", "__MACOSX"):
        save(photos / name / "1.png", 50)
    (photos / "dog/Thumbs.db").write_bytes(b"x")
    (photos / "dog/notes.txt").write_text("not an image")
    said: list[str] = []
    report = ingest(photos, tmp_path / "dataset", progress=said.append)
    assert said[0] == "6 images found in 2 classes"
    assert report.ignored == {
        "$RECYCLE.BIN": 1,
        "@eaDir": 1,
        "System Volume Information": 1,
        "Thumbs.db": 1,
        "__MACOSX": 1,
        "lost+found": 1,
    }
    assert report.quarantined == (
        {"source": "dog/notes.txt", "reason": report.quarantined[0]["reason"]},
    )


def test_folders_may_be_nested_deep(tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    for index in range(3):
        save(photos / "cat" / "/".join("d" * 400) / f"{index}.png", index)
        save(photos / f"dog/{index}.png", 10 + index)
    assert ingest(photos, tmp_path / "dataset").images == 6


def test_a_path_with_backslashes_gets_a_hint(tmp_path: Path) -> None:
    rows = ["path,label"]
    for index in range(8):
        save(tmp_path / f"images/{index}.png", index)
        rows.append(f"images/{index}.png,{'cat' if index % 2 else 'dog'}")
    rows.append("images\\0.png,cat")
    (tmp_path / "labels.csv").write_text("\n".join(rows))
    report = ingest(tmp_path / "labels.csv", tmp_path / "dataset")
    (item,) = report.quarantined
    assert item["reason"].endswith("its path has backslashes: expected /")


def test_a_pipe_or_a_device_is_no_photo(tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    for index in range(3):
        save(photos / f"cat/{index}.png", index)
        save(photos / f"dog/{index}.png", 10 + index)
    os.mkfifo(photos / "cat/pipe.png")
    (photos / "cat/zeros").symlink_to("/dev/zero")
    report = ingest(photos, tmp_path / "dataset")
    assert report.quarantined == (
        {"source": "cat/pipe.png", "reason": "is not a regular file"},
        {"source": "cat/zeros", "reason": "is not a regular file"},
    )


def test_a_group_of_all_of_a_class_is_an_error_that_says_why(tmp_path: Path) -> None:
    for index in range(6):
        save(tmp_path / f"photos/cat/only-{index}.png", index)
        save(tmp_path / f"photos/dog/{index}.png", 10 + index)
    options = IngestConfig(group_pattern="(?P<group>only)")
    with pytest.raises(UserError, match=r"'cat' \(6 usable, none in .*in as many groups"):
        ingest(tmp_path / "photos", tmp_path / "dataset", options)
