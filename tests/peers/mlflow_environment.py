"""An environment that has MLflow, and of ours nothing but the code."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

MLFLOW = "mlflow==3.17.2"


def make_mlflow_environment(folder: Path) -> Path:
    """Makes it in a folder; returns its Python."""
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    python = folder / "bin" / "python"
    subprocess.run([str(python), "-m", "pip", "install", "--quiet", MLFLOW], check=True)
    return python
