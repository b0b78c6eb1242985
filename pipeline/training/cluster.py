"""The processes that train together, as the environment variable TF_CONFIG names them.

Without TensorFlow, so that a mistake in it is found before anything is loaded. Each process is
given the same `cluster` and a `task` of its own:

    {"cluster": {"worker": ["10.0.0.1:12345", "10.0.0.2:12345"]},
     "task": {"type": "worker", "index": 0}}
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from pipeline.errors import UserError

VARIABLE = "TF_CONFIG"
SETTING = 'trainer.strategy = "multi_worker"'
EXAMPLE = (
    '{"cluster": {"worker": ["HOST:PORT", "HOST:PORT"]}, "task": {"type": "worker", "index": 0}}'
)

Address = Annotated[str, Field(pattern=r"^.+:\d+$")]


@dataclass(frozen=True)
class Cluster:
    """The processes, and which of them this one is.

    Attributes:
        addresses: "host:port" of each, the chief's first.
        index: of this process among them.
    """

    addresses: tuple[str, ...]
    index: int

    @classmethod
    def of_environment(cls, environment: Mapping[str, str] = os.environ) -> Cluster:
        """Reads TF_CONFIG.

        Raises:
            UserError: it is not set, not as TensorFlow expects it, or names a single process.
        """
        if not environment.get(VARIABLE):
            raise UserError(
                f"{SETTING} needs {VARIABLE} in the environment of every process, such as {EXAMPLE}"
            )
        try:
            found = _TfConfig.model_validate_json(environment[VARIABLE])
        except ValidationError as error:
            problem = error.errors()[0]
            place = ".".join(str(part) for part in problem["loc"])
            raise UserError(
                f"{VARIABLE}{': ' + place if place else ''}: {problem['msg']}; expected such as "
                f"{EXAMPLE}"
            ) from None
        return found.cluster_of_task()

    @property
    def is_chief(self) -> bool:
        """Whether this process is the one that runs the pipeline and keeps what comes of it."""
        return self.index == 0


class _Section(BaseModel):
    # TensorFlow's own tools add further keys, such as `environment`.
    model_config = ConfigDict(extra="ignore", frozen=True)


class _Jobs(BaseModel):
    """Training knows no parameter servers or evaluators."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    chief: Annotated[tuple[Address, ...], Field(max_length=1)] = ()
    worker: tuple[Address, ...] = ()


class _Task(_Section):
    type: Literal["chief", "worker"]
    index: Annotated[int, Field(ge=0)]


class _TfConfig(_Section):
    cluster: _Jobs
    task: _Task

    def cluster_of_task(self) -> Cluster:
        addresses = (*self.cluster.chief, *self.cluster.worker)
        of_type = getattr(self.cluster, self.task.type)
        if self.task.index >= len(of_type):
            raise UserError(
                f"{VARIABLE}: task.index: expected less than the {len(of_type)} addresses of "
                f"cluster.{self.task.type}; received {self.task.index}"
            )
        if len(addresses) < 2 or len(set(addresses)) < len(addresses):
            raise UserError(
                f"{VARIABLE}: cluster: expected at least two addresses, each once (one machine "
                f'trains with trainer.strategy = "none" or "mirrored"); received '
                f"{', '.join(addresses)}"
            )
        before = len(self.cluster.chief) if self.task.type == "worker" else 0
        return Cluster(addresses, before + self.task.index)
