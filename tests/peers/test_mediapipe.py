"""MediaPipe Tasks, which knows nothing of this project, classifies by a file's own metadata."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from components.tflite_models import TFLiteModelsFolder
from edgeline import Classifier

pytestmark = pytest.mark.peers

MEDIAPIPE = "mediapipe==1.2.2"
# Of the label's probability: what quantizes, or rounds otherwise, must not decide which it is.
CLEAR = 0.9

# Prints the label it finds for each image, a line a model.
SCRIPT = """\
import json, sys
import mediapipe
from mediapipe.tasks.python import vision

models, images = json.loads(sys.argv[1]), json.loads(sys.argv[2])
for model in models:
    with vision.ImageClassifier.create_from_model_path(model) as classifier:
        results = [classifier.classify(mediapipe.Image.create_from_file(i)) for i in images]
    print(json.dumps([r.classifications[0].categories[0].category_name for r in results]))
"""


@pytest.fixture(scope="module")
def mediapipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of an environment that has MediaPipe, and nothing of ours."""
    folder = tmp_path_factory.mktemp("mediapipe")
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    python = folder / "bin" / "python"
    subprocess.run([str(python), "-m", "pip", "install", "--quiet", MEDIAPIPE], check=True)
    return python


def test_it_names_the_class_that_the_device_package_names(
    mediapipe: Path, models: TFLiteModelsFolder, classified: dict[Path, str], tmp_path: Path
) -> None:
    script = tmp_path / "classify.py"
    script.write_text(SCRIPT)
    photos, labels = [*map(str, classified)], [*classified.values()]
    files = [str(models.path(model)) for model in models.models]
    done = subprocess.run(
        [str(mediapipe), str(script), json.dumps(files), json.dumps(photos)],
        check=False,
        capture_output=True,
        text=True,
        env={k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "VIRTUAL_ENV")},
    )
    assert done.returncode == 0, done.stderr
    assert (len(labels), len(set(labels))) == (20, 2)
    for file, line in zip(files, done.stdout.splitlines(), strict=True):
        with Classifier.from_file(file, models.contract) as classifier:
            ours = [classifier.predict(photo) for photo in photos]
        assert [prediction.label for prediction in ours] == labels
        assert min(prediction.probability for prediction in ours) > CLEAR
        assert json.loads(line) == labels
