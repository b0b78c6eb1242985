# /// script
# requires-python = ">=3.10"
# dependencies = ["kfp>=2.17,<3"]
# ///
"""Runs a compiled pipeline on Kubeflow: `uv run kubeflow/submit.py --help`.

In an environment of its own: the client needs another protobuf than TFX does. It imports nothing of
the project, so that any machine that can reach the cluster can run it with the YAML file alone.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import logging
import math
import os
import sys
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

if TYPE_CHECKING:
    from kfp import Client

EXAMPLES = """\
examples:
  uv run kubeflow/submit.py --host https://kubeflow.example/pipeline pipeline.yaml
  uv run kubeflow/submit.py --host ... pipeline.yaml --param epochs=20 --param min_accuracy=0.93
  uv run kubeflow/submit.py --host ... pipeline.yaml --schedule "0 0 2 * * *"   every night at 2

exit codes:
  0  the run succeeded, or was started with --no-wait or --schedule
  1  the run failed, was cancelled, or took longer than --timeout
  2  a mistake in the command, or the server refused it
"""

SUCCEEDED = "SUCCEEDED"
ENDED = (SUCCEEDED, "FAILED", "SKIPPED", "CANCELED")
RUN_FAILED = 1
MISTAKE = 2
SINGLE_USER = "kubeflow"  # the client's default
TOKEN_VARIABLE = "KF_PIPELINES_TOKEN"
POD_TOKEN_VARIABLE = "KF_PIPELINES_SA_TOKEN_PATH"  # the client reads it


class SubmitError(Exception):
    """A mistake the user can mend: its message is shown alone."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Submits; returns the exit code."""
    options = _parser().parse_args(arguments)
    logging.disable(logging.WARNING)  # of the client, which warns of its own defaults
    warnings.simplefilter("ignore", FutureWarning)
    try:
        spec = read_spec(options.pipeline)
        parameters = parse_parameters(options.param, spec)
        return _submit(options, spec["pipelineInfo"]["name"], parameters)
    except SubmitError as error:
        print(error, file=sys.stderr)
        return MISTAKE
    except KeyboardInterrupt:
        print("interrupted; the run goes on", file=sys.stderr)
        return RUN_FAILED


def read_spec(file: Path) -> dict[str, Any]:
    """The specification in a compiled pipeline.

    Raises:
        SubmitError: the file can't be read or has none.
    """
    try:
        documents = list(yaml.safe_load_all(file.read_text(encoding="utf-8")))
    except OSError as error:
        raise SubmitError(f"{file}: can't be read: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise SubmitError(f"{file}: not valid YAML: {' '.join(str(error).split())}") from error
    for document in documents:
        if isinstance(document, dict) and "pipelineInfo" in document:
            return document
    raise SubmitError(f"{file}: no pipeline; expected what kubeflow/compile.py wrote")


def parse_parameters(given: Sequence[str], spec: Mapping[str, Any]) -> dict[str, Any]:
    """Reads NAME=VALUE by the types that the pipeline declares.

    Raises:
        SubmitError: the pipeline has no such parameter, or the value is of another type.
    """
    declared = spec["root"].get("inputDefinitions", {}).get("parameters", {})
    parameters = {}
    for each in given:
        name, equals, text = each.partition("=")
        if not equals:
            raise SubmitError(f"--param {each}: expected NAME=VALUE, such as epochs=20")
        if name not in declared:
            raise SubmitError(
                f"--param {each}: no such parameter; expected one of: {', '.join(sorted(declared))}"
            )
        parameters[name] = _parse(each, text, declared[name]["parameterType"])
    return parameters


def _parse(given: str, text: str, kind: str) -> Any:
    try:
        return _READERS[kind](text)
    except ValueError:
        raise SubmitError(
            f"--param {given}: expected {_EXPECTED[kind]}; received {json.dumps(text)}"
        ) from None


def _number(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError  # JSON has no such number
    return value


def _struct(text: str) -> dict[str, Any]:
    value = json.loads(text)
    if not isinstance(value, dict):
        raise ValueError
    return value


_READERS: Mapping[str, Callable[[str], Any]] = {
    "NUMBER_INTEGER": int,
    "NUMBER_DOUBLE": _number,
    "STRING": str,
    "STRUCT": _struct,
}
_EXPECTED = {
    "NUMBER_INTEGER": "a whole number",
    "NUMBER_DOUBLE": "a number",
    "STRUCT": 'a JSON object, such as {"camera": 0.9}',
}


def _submit(options: argparse.Namespace, name: str, parameters: Mapping[str, Any]) -> int:
    # Here, not above: `--help` and mistakes should not wait for it.
    import kfp
    import kfp_server_api
    import urllib3

    try:
        client = kfp.Client(
            host=options.host,
            namespace=options.namespace or SINGLE_USER,
            existing_token=os.environ.get(TOKEN_VARIABLE),
            credentials=_pod_credentials(),
            ssl_ca_cert=str(options.ca_file) if options.ca_file else None,
        )
        pipeline_id, version_id = upload(client, name, options.pipeline, options.namespace)
        experiment = client.create_experiment(
            options.experiment or name, namespace=options.namespace
        )
        target = {
            "experiment_id": experiment.experiment_id,
            "job_name": options.name or f"{name} {time.strftime('%Y-%m-%d %H:%M:%S')}",
            "params": dict(parameters),
            "pipeline_id": pipeline_id,
            "version_id": version_id,
            "pipeline_root": options.pipeline_root,
            "service_account": options.service_account,
        }
        if options.schedule:
            return _schedule(client, options, target)
        run = client.run_pipeline(**target)
        page = f"{options.host.rstrip('/')}/#/runs/details/{run.run_id}"
        return 0 if options.no_wait else wait(client, run.run_id, page, options.timeout)
    except kfp_server_api.ApiException as error:
        raise SubmitError(f"{options.host}: {error.status} {_said(error.body)}") from error
    except urllib3.exceptions.HTTPError as error:
        reason = getattr(error, "reason", None) or error
        raise SubmitError(f"{options.host}: no answer: {reason}") from error


def _pod_credentials() -> Any:
    """In a pod of the cluster: the service account's token, which is renewed while it waits."""
    from kfp.client import ServiceAccountTokenVolumeCredentials

    return ServiceAccountTokenVolumeCredentials() if POD_TOKEN_VARIABLE in os.environ else None


def upload(client: Client, name: str, file: Path, namespace: str | None) -> tuple[str, str]:
    """Uploads a pipeline, or a version of it; the same content is uploaded once.

    Returns:
        The ids of the pipeline and of the version.
    """
    version = hashlib.sha256(file.read_bytes()).hexdigest()[:12]
    named = {"operation": "EQUALS", "key": "display_name", "stringValue": name}
    found = client.list_pipelines(namespace=namespace, filter=json.dumps({"predicates": [named]}))
    if found.pipelines:
        pipeline_id = found.pipelines[0].pipeline_id
    else:
        pipeline_id = client.upload_pipeline(str(file), name, namespace=namespace).pipeline_id
    known = client.list_pipeline_versions(pipeline_id, page_size=100, sort_by="created_at desc")
    for each in known.pipeline_versions or ():
        if each.display_name == version:
            return pipeline_id, each.pipeline_version_id
    uploaded = client.upload_pipeline_version(str(file), version, pipeline_id=pipeline_id)
    return pipeline_id, uploaded.pipeline_version_id


def _schedule(client: Client, options: argparse.Namespace, target: Mapping[str, Any]) -> int:
    recurring = client.create_recurring_run(
        **target,
        cron_expression=options.schedule,
        max_concurrency=1,
        # A night that was missed is not made up for: the next run has newer data.
        no_catchup=True,
    )
    print(f"Recurring run: {options.host}/#/recurringrun/details/{recurring.recurring_run_id}")
    return 0


def wait(client: Client, run_id: str, page: str, timeout: float, interval: float = 10.0) -> int:
    """Waits until a run has ended and says how; returns the exit code.

    Args:
        client: of the cluster.
        run_id: of the run.
        page: its address, for whoever wants to know more.
        timeout: seconds.
        interval: seconds between two looks.
    """
    end = time.monotonic() + timeout
    while (run := client.get_run(run_id)).state not in ENDED:
        if time.monotonic() > end:
            print(f"not done after {timeout:g} s; the run goes on", file=sys.stderr)
            return RUN_FAILED
        time.sleep(interval)
    print(f"Outcome: {run.state.lower()}")
    details = run.run_details.task_details if run.run_details else None
    for task in details or ():
        if task.state == "FAILED" and not task.child_tasks:
            print(f"  {task.display_name} failed; its log says why")
    print(page)
    return 0 if run.state == SUCCEEDED else RUN_FAILED


def _said(body: Any) -> str:
    """The server's message, in one line."""
    try:
        message = json.loads(body)["message"]
    except (TypeError, ValueError, KeyError):
        message = body or "no reason given"
    return " ".join(str(message).split())[:500]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="submit.py",
        description="Run a compiled pipeline on Kubeflow and wait for its outcome.",
        epilog=f"{EXAMPLES}\nA token is read from the variable {TOKEN_VARIABLE},\n"
        f"or, in a pod, from the file that {POD_TOKEN_VARIABLE} names.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("pipeline", type=Path, metavar="PIPELINE", help="what compile.py wrote")
    parser.add_argument("--host", required=True, metavar="URL", help="of Kubeflow Pipelines")
    parser.add_argument("--namespace", help="yours, on a cluster with profiles")
    parser.add_argument(
        "--param", action="append", default=[], metavar="NAME=VALUE", help="repeatable"
    )
    parser.add_argument("--pipeline-root", metavar="URI", help="minio://, s3:// or gs://")
    parser.add_argument("--experiment", metavar="NAME", help="the pipeline's name by default")
    parser.add_argument("--name", metavar="NAME", help="of the run")
    parser.add_argument("--service-account", metavar="NAME", help="that the steps run as")
    parser.add_argument("--schedule", metavar="CRON", help="run again and again: six fields")
    parser.add_argument("--no-wait", action="store_true", help="only start it")
    parser.add_argument(
        "--timeout", type=float, default=86400.0, metavar="SECONDS", help="to wait; a day"
    )
    parser.add_argument("--ca-file", type=Path, metavar="FILE", help="certificates to trust, PEM")
    return parser


if __name__ == "__main__":
    sys.exit(main())
