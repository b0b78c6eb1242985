"""What a phase needs to go on after its process was killed, written at the end of an epoch.

Keras' BackupAndRestore keeps weights and the epoch. A run that resumes must end like one that was
never stopped, so this also keeps the optimizer, the seeds, the best epoch so far with its weights,
how long early stopping and the schedule have been waiting, and the curves. The file is NumPy's npz:
arrays and one JSON document, no pickles.
"""

from __future__ import annotations

import io
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from edgeline._files import write_whole
from pipeline.training.keras_internals import remembered, remind

SAVE_SECONDS = 30.0  # between two checkpoints, so that epochs of a second are not slowed down

Curves = dict[str, list[float]]


@dataclass
class State:
    """A phase between two epochs, or at its end.

    Attributes:
        epochs: that are over.
        finished: whether the phase is; then `weights` are its outcome.
        curves: a value an epoch, by name.
        callbacks: what each callback remembers, in order.
        weights: every variable of the model, and the seeds of its random layers.
        optimizer: every variable of the optimizer.
        best: the model's weights at its best epoch so far; empty before the first.
    """

    epochs: int = 0
    finished: bool = False
    curves: Curves = field(default_factory=dict)
    callbacks: list[dict[str, Any]] = field(default_factory=list)
    weights: list[NDArray[Any]] = field(default_factory=list)
    optimizer: list[NDArray[Any]] = field(default_factory=list)
    best: list[NDArray[Any]] = field(default_factory=list)

    @classmethod
    def load(cls, path: Path) -> State:
        """Reads a state; what was never written is the state before the first epoch."""
        return cls.of_bytes(path.read_bytes() if path.is_file() else b"")

    @classmethod
    def of_bytes(cls, content: bytes) -> State:
        """Reads what a state's file contains, or the state before the first epoch from nothing."""
        if not content:
            return cls()
        with np.load(io.BytesIO(content), allow_pickle=False) as file:
            document = json.loads(str(file["state"]))
            for name, count in document.pop("arrays").items():
                document[name] = [file[f"{name}/{index}"] for index in range(count)]
        return cls(**document)

    def save(self, path: Path) -> None:
        """Writes the state in the place of the one before."""
        document = vars(self).copy()
        named = {name: document.pop(name) for name in ("weights", "optimizer", "best")}
        document["arrays"] = {name: len(arrays) for name, arrays in named.items()}
        arrays = {
            f"{name}/{index}": array
            for name, group in named.items()
            for index, array in enumerate(group)
        }
        content = io.BytesIO()
        np.savez(content, state=np.array(json.dumps(document)), **arrays)
        write_whole(path, content.getvalue())


class Checkpoint(keras.callbacks.Callback):
    """Writes a phase's state at the ends of epochs, and puts it back where training begins.

    Must be the last callback: what the others remember is read after their epoch has ended, and
    restored after they have begun.
    """

    def __init__(
        self, path: Path, state: State, others: Sequence[keras.callbacks.Callback]
    ) -> None:
        """Sets out from a state.

        Args:
            path: of the file.
            state: that was loaded from there.
            others: callbacks to remember, the one for early stopping among them.
        """
        super().__init__()
        self.curves = {name: list(values) for name, values in state.curves.items()}
        self._path = path
        self._state = state
        self._others = others
        self._saved = time.monotonic()

    def on_train_begin(self, logs: dict[str, float] | None = None) -> None:
        """Restores model, optimizer and callbacks, unless the phase is at its beginning."""
        if not self._state.epochs:
            return
        restore(self.model, self._state)
        _assign(self.model.optimizer.variables, self._state.optimizer)
        for callback, values in zip(self._others, self._state.callbacks, strict=True):
            remind(callback, values)
            if isinstance(callback, keras.callbacks.EarlyStopping):
                callback.best_weights = self._state.best or None
        self._state = State()  # Arrays as large as the model, not needed again.

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        """Adds to the curves, and now and then writes the state."""
        for name, value in (logs or {}).items():
            self.curves.setdefault(name, []).append(float(value))
        last = self.model.stop_training or epoch + 1 == self.params["epochs"]
        if not last and time.monotonic() - self._saved >= SAVE_SECONDS:
            self._state_after(epoch + 1).save(self._path)
            self._saved = time.monotonic()

    def finish(self, model: keras.Model) -> None:
        """Writes that the phase is over, and its outcome."""
        weights = [variable.numpy() for variable in model.variables]
        State(finished=True, curves=self.curves, weights=weights).save(self._path)

    def _state_after(self, epochs: int) -> State:
        best: list[NDArray[Any]] = []
        for callback in self._others:
            if isinstance(callback, keras.callbacks.EarlyStopping):
                best = callback.best_weights or []
        return State(
            epochs=epochs,
            curves=self.curves,
            callbacks=[remembered(callback) for callback in self._others],
            weights=[variable.numpy() for variable in self.model.variables],
            optimizer=[variable.numpy() for variable in self.model.optimizer.variables],
            best=best,
        )


def restore(model: keras.Model, state: State) -> None:
    """Puts a state's weights and seeds into a model of the same structure."""
    _assign(model.variables, state.weights)


def _assign(variables: Sequence[keras.Variable], values: Sequence[NDArray[Any]]) -> None:
    for variable, value in zip(variables, values, strict=True):
        variable.assign(value)
