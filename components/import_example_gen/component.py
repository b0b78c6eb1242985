"""The ImportExampleGen component: TFX's own, with an executor that moves no data."""

from __future__ import annotations

from tfx.components.example_gen.import_example_gen import component
from tfx.dsl.components.base import executor_spec

from components.import_example_gen.executor import Executor


class ImportExampleGen(component.ImportExampleGen):
    """TFX's ImportExampleGen, of examples that are in splits and in TFRecords already.

    TFX's own executor carries every example through Beam, to write it as it was: with Beam's runner
    for one machine, 4.8 GB of memory for 1 GB of images.
    """

    EXECUTOR_SPEC = executor_spec.BeamExecutorSpec(Executor)
