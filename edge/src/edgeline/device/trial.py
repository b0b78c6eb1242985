"""Trying a model before it is served, in a process of its own.

    try_model(files, threads=4)

The child loads the model as the device will, and compares what it says of the golden images.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeline.device.child import answer_parent, ask_child
from edgeline.device.state import CONTRACT_FILE, GOLDEN_FILE, MODEL_FILE

if TYPE_CHECKING:
    from edgeline.contract import PreprocessingContract
    from edgeline.runtime.interpreter import PixelModel

TRIAL_SECONDS = 120.0


def try_model(files: Mapping[str, Path], *, threads: int, seconds: float = TRIAL_SECONDS) -> None:
    """Load a model in a child process, and check its golden pair.

    Args:
        files: The paths of its files, by the names that `state` gives them.
        threads: Threads for one inference.
        seconds: How long it may take.

    Raises:
        ChildError: it failed.
        DeviceError: no process can be started.
    """
    request = {
        "files": {name: str(path.resolve()) for name, path in files.items()},
        "threads": threads,
    }
    ask_child(__name__, request, folder=files[MODEL_FILE].parent, seconds=seconds)


def load_files(
    files: Mapping[str, str], threads: int
) -> tuple["PixelModel", "PreprocessingContract"]:
    """Load a model and its contract, in the child.

    Raises:
        EdgelineError: they cannot be used.
    """
    from edgeline.contract import PreprocessingContract
    from edgeline.runtime.interpreter import PixelModel

    contract = PreprocessingContract.from_json(Path(files[CONTRACT_FILE]).read_bytes())
    model = PixelModel(
        Path(files[MODEL_FILE]).read_bytes(),
        height=contract.height,
        width=contract.width,
        classes=len(contract.labels),
        num_threads=threads,
    )
    return model, contract


def main() -> None:
    """Be the child."""
    answer_parent(_try)


def _try(request: Mapping[str, Any]) -> Mapping[str, Any]:
    import numpy as np

    from edgeline import golden

    files = request["files"]
    model, contract = load_files(files, request["threads"])
    if GOLDEN_FILE in files:
        pair = golden.Golden.from_json(Path(files[GOLDEN_FILE]).read_bytes())
        golden.check(model, contract, pair)
    # Without a golden pair, that it runs at all is what there is to find out.
    model(np.random.default_rng(0).random((contract.height, contract.width, 3), np.float32))
    return {}
