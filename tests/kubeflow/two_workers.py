"""Beam's job server with two workers a job, and one address for two pools of workers.

    python -m tests.kubeflow.two_workers JOB_PORT ADDRESS_PORT POOL_PORT...

A cluster of Flink's is alike: a pool beside each TaskManager, and all are `localhost` to the one
beside it. Beam's own job server gives a job one worker, and has no option for more.
"""

from __future__ import annotations

import itertools
import logging
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import grpc
from apache_beam.portability.api import beam_fn_api_pb2, beam_fn_api_pb2_grpc, beam_job_api_pb2
from apache_beam.runners.portability import local_job_service
from apache_beam.runners.portability.fn_api_runner.fn_runner import FnApiRunner
from apache_beam.runners.runner import PipelineResult

WORKERS = 2


class Job(local_job_service.BeamJob):
    def _invoke_runner(self) -> PipelineResult:
        self.set_state(beam_job_api_pb2.JobState.RUNNING)
        runner = FnApiRunner(provision_info=self._provision_info)
        runner._num_workers = WORKERS
        return runner.run_via_runner_api(self._pipeline_proto, self.pipeline_options())


class Pools(beam_fn_api_pb2_grpc.BeamFnExternalWorkerPoolServicer):
    """Has the pools start a worker in turn."""

    def __init__(self, ports: list[str]) -> None:
        channels = [grpc.insecure_channel(f"127.0.0.1:{port}") for port in ports]
        self._turns = itertools.cycle(
            [beam_fn_api_pb2_grpc.BeamFnExternalWorkerPoolStub(channel) for channel in channels]
        )

    def StartWorker(  # noqa: N802
        self, request: beam_fn_api_pb2.StartWorkerRequest, _: object
    ) -> beam_fn_api_pb2.StartWorkerResponse:
        return next(self._turns).StartWorker(request)


def main(job_port: str, address_port: str, *pools: str) -> None:
    logging.basicConfig(level=logging.INFO)
    local_job_service.BeamJob = Job
    server = grpc.server(ThreadPoolExecutor())
    beam_fn_api_pb2_grpc.add_BeamFnExternalWorkerPoolServicer_to_server(Pools([*pools]), server)
    server.add_insecure_port(f"127.0.0.1:{address_port}")
    server.start()
    local_job_service.LocalJobServicer(None).start_grpc_server(int(job_port))
    while True:
        time.sleep(3600)


if __name__ == "__main__":
    main(*sys.argv[1:])
