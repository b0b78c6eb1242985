"""How a dataset on a mounted volume becomes artifacts without being copied.

The Examples artifact is a record of files and digests. A step that takes it mounts the volume, too,
and has the files linked into the folder where the launcher has staged the record: TFX finds its
splits there, and no image goes through the object store.
"""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from pathlib import Path
from typing import Any

from components.folders import Folders
from edgeline._files import sha256_of
from pipeline.data.dataset import SPLITS, Dataset
from pipeline.errors import UserError
from pipeline.orchestration.kubeflow.names import DATASET_DIGEST

RECORD_FILE = "files.json"
SCHEMA_FILE = "schema.pbtxt"  # as TFX names it in its artifact
MAX_RECORD = 1 << 24  # bytes: of some 50,000 files, and a million photos are in 1,000
REPLACED = "{} is not what it was when this run began, the dataset was replaced: start another run"

_LOG = logging.getLogger(__name__)


def import_schema(inputs: Folders, outputs: Folders, settings: Mapping[str, Any], run: str) -> None:
    """Copies the dataset's schema, as TFX's ImportSchemaGen does."""
    shutil.copyfile(settings["schema_file"], outputs["schema"].path / SCHEMA_FILE)


def record_examples(
    inputs: Folders, outputs: Folders, settings: Mapping[str, Any], run: str
) -> None:
    """Writes down which files the splits have, with the properties that TFX looks for."""
    # The setting is a pattern, as TFX takes one: it matches this one folder.
    (dataset,) = Path("/").glob(settings["input_base"].lstrip("/"))
    files = [file for split in SPLITS for file in sorted((dataset / split).iterdir())]
    with ThreadPoolExecutor() as threads:
        digests = dict(zip(map(str, files), threads.map(sha256_of, files), strict=True))
    # Afterwards: an ingest that replaces files replaces the report, too.
    if Dataset.load(dataset).digest != settings[DATASET_DIGEST]:
        raise UserError(REPLACED.format(dataset))
    examples = outputs["examples"]
    (examples.path / RECORD_FILE).write_text(json.dumps(digests, indent=1), encoding="utf-8")
    examples.properties.update(
        split_names=json.dumps(SPLITS),
        file_format="tfrecords_gzip",  # TFX's only name for TFRecords, gzipped or not
        payload_format="FORMAT_TF_EXAMPLE",
        tfx_version=version("tfx"),
        dataset_digest=settings[DATASET_DIGEST],
    )
    size = sum(file.stat().st_size for file in files)
    _LOG.info("recorded %d files with %d bytes", len(files), size)


def link_recorded(folder: Path) -> None:
    """Links the files of a recorded Examples artifact into its folder; does nothing to another.

    Raises:
        UserError: a file is not there, or is not what it was: the dataset was replaced since.
    """
    record = folder / RECORD_FILE
    if not record.is_file():
        return
    if record.stat().st_size > MAX_RECORD:
        raise UserError(f"{record}: expected at most {MAX_RECORD:,} bytes")
    digests = {Path(name): digest for name, digest in json.loads(record.read_bytes()).items()}
    with ThreadPoolExecutor() as threads:
        found = threads.map(lambda file: sha256_of(file) if file.is_file() else None, digests)
        for (file, digest), now in zip(digests.items(), found, strict=True):
            if now != digest:
                raise UserError(REPLACED.format(file))
    for file in digests:
        split = folder / f"Split-{file.parent.name}"
        split.mkdir(exist_ok=True)
        (split / file.name).symlink_to(file)
