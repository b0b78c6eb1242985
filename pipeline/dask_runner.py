"""Beam on a Dask cluster: `--runner=pipeline.dask_runner.DaskRunner --dask_client_address=...`.

Beam's own runner hands every option that was set to Dask's client, which refuses those that aren't
Dask's, such as `--runner`: it can't be chosen by options. This one hands over Dask's alone.
"""

from __future__ import annotations

from typing import Any

from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.runners.dask import dask_runner

_OPTIONS = (
    "address",
    "timeout",
    "scheduler_file",
    "name",
    "connection_limit",
    "npartitions",
    "partition_size",
)


class _Result(dask_runner.DaskRunnerResult):
    """Lets go of the cluster when the work is done, which Beam's own does not."""

    def wait_until_finish(self, duration: float | None = None) -> str:
        """See the base class."""
        try:
            return str(super().wait_until_finish(duration))
        finally:
            self.client.close()


class DaskRunner(dask_runner.DaskRunner):
    """Runs a pipeline on the workers of a Dask cluster, which have this project installed."""

    def run_pipeline(self, pipeline: Any, options: PipelineOptions) -> Any:
        """See the base class."""
        given = options.view_as(dask_runner.DaskOptions).get_all_options(drop_default=True)
        of_dask = {name: given[name] for name in _OPTIONS if name in given}
        result = super().run_pipeline(pipeline, PipelineOptions([], **of_dask))
        return _Result(result.client, result.futures)
