import pytest

from pipeline.data.split_names import split_of_file, split_of_name


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("train", "train"),
        ("Training", "train"),
        ("train_data", "train"),
        ("train_set", "train"),
        ("val", "eval"),
        ("valid", "eval"),
        ("VALIDATION", "eval"),
        ("validation_data", "eval"),
        ("dev", "eval"),
        ("eval", "eval"),
        ("test", "test"),
        ("testing", "test"),
        ("test_data", "test"),
        ("test-set", "test"),
        ("", ""),
        ("data", ""),
        ("contest", ""),
        ("trains", ""),
        ("train_station", ""),
    ],
)
def test_a_name_tells_a_split(name: str, split: str) -> None:
    assert split_of_name(name) == split


@pytest.mark.parametrize(
    ("source", "split"),
    [
        ("train-00000-of-00010", "train"),
        ("validation-00000-of-00010.gz", "eval"),
        ("cifar10-test.tfrecord-00000-of-00001", "test"),
        ("mnist_train.tfrecord", "train"),
        ("val2017.tfrecord", "eval"),
        ("data/train-00000-of-00002-1a2b.parquet", "train"),
        ("default/train/0000.parquet", "train"),
        ("default/partial-test/0000.parquet", "test"),
        ("eval/examples-00000-of-00003.tfrecord", "eval"),
        ("test/train-00000-of-00010", "train"),
        ("test_site-train.tfrecord-00000-of-00001", "train"),
        ("train-00000-of-00010/records.tfrecord", "train"),
        ("flowers.tfrecord", ""),
        ("contest.tfrecord", ""),
        ("svhn_cropped-extra.tfrecord-00000-of-00001", ""),
    ],
)
def test_a_file_tells_a_split_by_its_name_or_its_folders(source: str, split: str) -> None:
    assert split_of_file(source) == split
