"""`python -m pipeline ingest` as a user or a script sees it: lines, exit codes, what is left."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pipeline.data.dataset import Dataset
from tests.conftest import odd_checkout
from tests.pipeline.data.test_ingest import save, save_large, two_classes


def command(*arguments: Any, **options: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "pipeline", "ingest", *map(str, arguments)],
        text=True,
        check=False,
        timeout=120,
        **{"cwd": Path(__file__).parents[3], "capture_output": True, **options},
    )


def test_it_says_what_it_does_and_ends_with_a_look_at_the_data(tmp_path: Path) -> None:
    two_classes(tmp_path / "photos")
    done = command(tmp_path / "photos", tmp_path / "dataset")
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert lines[0] == "6 images found in 2 classes"
    assert lines[-1] == f"a look at the data: {tmp_path / 'dataset/data.html'}"
    assert (tmp_path / "dataset/data.html").is_file()


def test_it_loads_neither_tensorflow_nor_beam_nor_pandas(tmp_path: Path) -> None:
    two_classes(tmp_path / "photos")
    script = (
        "import sys; from pipeline.__main__ import main; code = main(sys.argv[1:]); "
        "print([m for m in ('tensorflow', 'apache_beam', 'tfx', 'pandas') if m in sys.modules]); "
        "sys.exit(code)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, "ingest", tmp_path / "photos", tmp_path / "dataset"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "[]"


def test_help_loads_nothing_heavy() -> None:
    script = (
        "import sys; from pipeline.__main__ import main\ntry: main(['ingest', '--help'])\n"
        "finally: print([m for m in ('scipy', 'pyarrow', 'tensorflow') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[-1] == "[]"


def test_a_worker_loads_only_what_photos_need() -> None:
    code = (
        "import sys, pipeline.data.reading, pipeline.data.shards; "
        "print([m for m in ('pydantic', 'pyarrow', 'scipy', 'jinja2') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_mistake_is_one_line_and_exit_code_2(tmp_path: Path) -> None:
    two_classes(tmp_path / "photos")
    (tmp_path / "photos/owl").mkdir()
    done = command(tmp_path / "photos", tmp_path / "dataset")
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert not (tmp_path / "dataset").exists()


def test_a_full_output_is_told_and_the_dataset_is_written(tmp_path: Path) -> None:
    two_classes(tmp_path / "photos")
    with Path("/dev/full").open("w") as full:
        done = command(
            tmp_path / "photos",
            tmp_path / "dataset",
            capture_output=False,
            stdout=full,
            stderr=subprocess.PIPE,
        )
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.endswith("not all that was to be said of it: No space left on device")
    assert sum(Dataset.load(tmp_path / "dataset").counts["train"].values()) == 2


def test_who_stops_reading_loses_nothing(tmp_path: Path) -> None:
    two_classes(tmp_path / "photos")
    with subprocess.Popen(
        [sys.executable, "-m", "pipeline", "ingest", tmp_path / "photos", tmp_path / "dataset"],
        cwd=Path(__file__).parents[3],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        process.stdout.close()
        assert process.stderr is not None
        (line,) = process.stderr.read().splitlines()
    assert line.endswith("not all that was to be said of it: Broken pipe")
    assert Dataset.load(tmp_path / "dataset").labels == ("cat", "dog")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A folder on a disk of one megabyte."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("only root may mount a disk")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk_is_one_line_and_leaves_nothing_half_made(
    small_disk: Path, tmp_path: Path
) -> None:
    for index in range(6):
        save_large(tmp_path / f"photos/{'cat' if index % 2 else 'dog'}/{index}.png", index)
        save_large(
            tmp_path / f"photos/{'cat' if index % 2 else 'dog'}/{index + 10}.bmp", index + 10
        )
    done = command(tmp_path / "photos", small_disk / "dataset")
    assert done.returncode == 2
    assert "the disk is full" in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert [path.name for path in small_disk.iterdir()] == ["dataset.ingest.log"]


def test_a_place_that_takes_no_files_is_one_line(tmp_path: Path) -> None:
    two_classes(tmp_path / "photos")
    done = command(tmp_path / "photos", "/proc/dataset")
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert "/proc/dataset" in done.stderr


def test_records_of_any_kind_are_read_by_naming_their_features(tmp_path: Path) -> None:
    import tensorflow as tf

    with tf.io.TFRecordWriter(str(tmp_path / "x.tfrecord")) as writer:
        for index in range(12):
            save(tmp_path / "photo.png", index)
            features = {
                "picture": tf.train.BytesList(value=[(tmp_path / "photo.png").read_bytes()]),
                "thumbnail": tf.train.BytesList(value=[(tmp_path / "photo.png").read_bytes()]),
            }
            example = tf.train.Example(
                features=tf.train.Features(
                    feature={
                        "kind": tf.train.Feature(int64_list=tf.train.Int64List(value=[index % 2])),
                        **{k: tf.train.Feature(bytes_list=v) for k, v in features.items()},
                    }
                )
            )
            writer.write(example.SerializeToString())
    (tmp_path / "names.txt").write_text("cat\ndog\n")
    arguments = [tmp_path / "x.tfrecord", tmp_path / "dataset"]
    refused = command(*arguments)
    assert refused.returncode == 2
    assert "--feature image=" in refused.stderr
    done = command(
        *arguments, "--feature", "image=picture", "--feature", "label=kind", "--labels",
        tmp_path / "names.txt",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    dataset = Dataset.load(tmp_path / "dataset")
    assert dataset.labels == ("cat", "dog")
    assert sum(sum(counts.values()) for counts in dataset.counts.values()) == 12


def test_the_path_of_the_checkout_may_have_odd_characters(tmp_path: Path) -> None:
    checkout, environment = odd_checkout(tmp_path)
    two_classes(checkout / "photos")
    done = command("photos", "dataset", cwd=checkout, env=environment)
    assert (done.returncode, done.stderr) == (0, "")
    assert (checkout / "dataset/data.html").is_file()
