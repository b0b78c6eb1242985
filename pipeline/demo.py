"""`make demo`: real images, from the package index to a verified prediction at the edge.

Its registry is signed with throwaway keys, which lie in the open and without a passphrase.

The data is ELPV, electroluminescence images of solar cells (Buerhop-Lux et al. 2018; CC BY-NC-SA
4.0), which its package brings along. A cell counts as defective where the experts' probability is
above 0.5.
"""

from __future__ import annotations

import csv
import importlib.util
import json
import shlex
import subprocess
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from tabulate import tabulate

from edgeline.errors import RegistryError
from edgeline.registry.format import TUF_TAG
from edgeline.registry.store import open_store
from pipeline.config import Config, load_config
from pipeline.console import console
from pipeline.data.dataset import Dataset
from pipeline.errors import UserError
from pipeline.orchestration.run import ingest_for_a_person, ingest_log, run
from pipeline.orchestration.summary import next_commands
from pipeline.training.base_weights import check_imagenet_weights
from pipeline.training.bases import BASES

CONFIG_FILE = Path("configs/demo.toml")
FOLDER = Path("demo")
DEFECTIVE_ABOVE = 0.5  # probability
HELD_OUT_PER_CLASS = 3


def main(overrides: Sequence[str]) -> int:
    """Runs the demo; returns the exit code of `python -m pipeline run`.

    Args:
        overrides: of settings, `section.key=value`.

    Raises:
        UserError: as the commands it stands for.
    """
    overrides = [*overrides, *_base_weights(overrides)]
    config = load_config(CONFIG_FILE, overrides)
    table = write_table(FOLDER / "elpv")
    log = ingest_log(config.data.path)
    with console(log) as screen:
        if make_registry(config):
            screen.say(
                f"{config.publishing.location}: made, with THROWAWAY KEYS in "
                f"{config.publishing.root.parent}: in the open, without a passphrase"
            )
        ingest_for_a_person(table, config.data.path, config.ingest, screen)
        screen.say()
    code = run(config, verbose=False).code
    if code == 0:
        with console(log) as screen:
            screen.say(f"\nPromotion\n  {_promote(config)}")
            images = held_out(Dataset.load(config.data.path), HELD_OUT_PER_CLASS)
            screen.say("\nPredictions of the device package, on held-out images, from production")
            screen.say(_predict(images, config))
            screen.say(f"\n{next_commands(config, CONFIG_FILE, overrides, images[0][0])}")
    return code


def make_registry(config: Config) -> bool:
    """Makes the demo's registry and its throwaway keys, or returns False if they are there.

    Raises:
        UserError: what is there is something else, or has lost its keys.
    """
    location, root = config.publishing.location, config.publishing.root
    try:
        store = open_store(location, config.publishing.connection)
        tags = store.tags()
    except RegistryError:
        tags = []  # Nothing there yet; or something else, which `init` refuses.
    if TUF_TAG in tags and root.is_file():
        return False
    if TUF_TAG in tags:
        raise UserError(f"{location}: {root}, its trusted root, is gone; move {location} away")
    if tags:
        raise UserError(f"{location}: made before releases were signed; move {location} away")
    if root.is_file():
        raise UserError(f"{location}: gone, and its keys are not; move {root.parent} away")
    arguments = [location, "--model", config.name, "--keys", str(root.parent), "--no-passphrase"]
    _edgeline("registry", "init", *arguments)
    return True


def write_table(folder: Path) -> Path:
    """Writes `labels.csv` (path, label, cell_type) beside a link to ELPV's images.

    Raises:
        UserError: the package that has the images is not installed.
    """
    spec = importlib.util.find_spec("elpv_dataset")
    if spec is None or spec.origin is None:
        raise UserError("the demo's images are not installed: pip install elpv-dataset")
    source = Path(spec.origin).parent / "data"
    folder.mkdir(parents=True, exist_ok=True)
    link = folder / "images"
    if link.is_symlink():
        link.unlink()
    link.symlink_to(source / "images")
    table = folder / "labels.csv"
    with table.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["path", "label", "cell_type"])
        for line in (source / "labels.csv").read_text(encoding="utf-8").splitlines():
            path, probability, cell_type = line.split()
            label = "defective" if float(probability) > DEFECTIVE_ABOVE else "functional"
            writer.writerow([path, label, cell_type])
    return table


def held_out(dataset: Dataset, per_class: int) -> list[tuple[Path, str]]:
    """Some images of the test split and their labels, the same ones each time."""
    import tensorflow as tf

    files = sorted(str(file) for file in (dataset.path / "test").iterdir())
    found: dict[str, list[str]] = {label: [] for label in dataset.labels}
    for record in tf.data.TFRecordDataset(files).as_numpy_iterator():
        features = tf.train.Example.FromString(record).features.feature
        label = features["label"].bytes_list.value[0].decode()
        found[label].append(features["source"].bytes_list.value[0].decode())
    return [
        (FOLDER / "elpv" / source, label)
        for label, sources in found.items()
        for source in sorted(sources)[:per_class]
    ]


def _base_weights(overrides: Sequence[str]) -> list[str]:
    """Falls back to an untrained base where ImageNet weights can't be had; only the demo does."""
    if any(override.startswith("trainer.base_weights") for override in overrides):
        return []
    try:
        base = load_config(CONFIG_FILE, overrides).trainer.base
        check_imagenet_weights(BASES[base])
    except UserError as error:
        problem = str(error).splitlines()[0]
        print(f"{problem}: the demo goes on with an untrained base")
        return ["trainer.base_weights=random"]
    return []


def _promote(config: Config) -> str:
    """Has production serve what the channel does, by the command that a person would type."""
    settings = config.publishing
    outcome = json.loads(
        _edgeline(
            *("registry", "promote", settings.location, config.name),
            *("--from", settings.channel, "--to", "production", "--yes", "--json"),
            *("--root", str(settings.root), "--key", str(settings.root.parent)),
        )
    )
    since = "already" if outcome["outcome"] == "unchanged" else f"now, as {settings.channel} does"
    return f"{config.name}/production serves {outcome['tag']} {since}"


def _predict(images: Iterable[tuple[Path, str]], config: Config) -> str:
    """Predicts in a process of its own, as a device would, through the command line."""
    images = list(images)
    lines = _edgeline(
        *("predict", *(str(path) for path, _ in images), "--json"),
        *("--registry", config.publishing.location, "--model", config.name),
        *("--root", str(config.publishing.root)),
    )
    predictions = [json.loads(line) for line in lines.splitlines()]
    rows = [
        [path.name, label, said["label"], f"{said['probability']:.3f}", said["variant"]]
        for (path, label), said in zip(images, predictions, strict=True)
    ]
    headers = ["image", "is", "predicted", "probability", "variant"]
    text = tabulate(rows, headers=headers, tablefmt="plain", disable_numparse=True)
    return "\n".join(f"  {line}" for line in text.splitlines())


def _edgeline(*arguments: str) -> str:
    """Runs the command line of the device package; returns what it prints."""
    command = [sys.executable, "-m", "edgeline", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        said = done.stderr.strip()
        raise UserError(f"{shlex.join(['edgeline', *arguments])}\nfailed: {said}")
    return done.stdout


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except UserError as error:
        print(error, file=sys.stderr)
        sys.exit(UserError.exit_code)
