"""What Kubeflow hands to a step, and what it wants back: ExecutorInput and ExecutorOutput."""

from __future__ import annotations

import json
import logging
import os
import re
import sys
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from edgeline.key_files import PASSPHRASE_VARIABLE
from pipeline.errors import UserError
from pipeline.orchestration.kubeflow.names import PASSPHRASE_FILE

STEP_FAILED = 1
# Fields of ExecutorInput's two sides, by the field of the component's specification.
_DECLARED_AS = {
    "artifacts": "artifacts",
    "parameters": "parameters",
    "parameterValues": "parameters",
}
_OURS = ("__main__", "components", "edgeline", "pipeline")
_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


class ExecutorInput:
    """A step's inputs and where its outputs go.

    Attributes:
        document: the ExecutorInput message, as JSON.
    """

    def __init__(self, text: str) -> None:
        """Reads what Kubeflow puts in the place of `{{$}}`."""
        self.document: dict[str, Any] = json.loads(text)

    @property
    def parameters(self) -> Mapping[str, Any]:
        """The input parameters' values by name."""
        values: Mapping[str, Any] = self.document.get("inputs", {}).get("parameterValues", {})
        return values

    @property
    def inputs(self) -> dict[str, Any]:
        """The input artifacts by name."""
        return self._artifacts("inputs")

    @property
    def outputs(self) -> dict[str, Any]:
        """The output artifacts by name."""
        return self._artifacts("outputs")

    @property
    def output_file(self) -> str:
        """Where the ExecutorOutput message is expected."""
        return str(self.document["outputs"]["outputFile"])

    def keep_declared(self, inputs: Mapping[str, Any], outputs: Mapping[str, Any]) -> None:
        """Leaves out whatever the component did not declare: drivers add to what they hand over.

        Args:
            inputs: the component's ComponentInputsSpec message, as JSON.
            outputs: the component's ComponentOutputsSpec message, as JSON.
        """
        for side, specification in (("inputs", inputs), ("outputs", outputs)):
            received = self.document.get(side, {})
            for field, kind in _DECLARED_AS.items():
                if field in received:
                    declared = specification.get(kind, {})
                    received[field] = {k: v for k, v in received[field].items() if k in declared}

    def log(self, logger: logging.Logger) -> None:
        """Says what the step reads and writes."""
        for verb, artifacts in (("reads", self.inputs), ("writes", self.outputs)):
            for name, listed in sorted(artifacts.items()):
                for artifact in listed.get("artifacts", []):
                    logger.info("%s %s: %s", verb, name, artifact["uri"])

    def uri(self, side: str, name: str) -> str:
        """The URI of the one artifact of that name among the "inputs" or "outputs"."""
        return str(self._artifacts(side)[name]["artifacts"][0]["uri"])

    @property
    def run_id(self) -> str | None:
        """The run's id: Kubeflow has it in the URI of every artifact that a step makes."""
        for listed in self.outputs.values():
            for artifact in listed["artifacts"]:
                for part in artifact["uri"].split("/"):
                    if _UUID.fullmatch(part):
                        return str(part)
        return None

    @property
    def run_name(self) -> str:
        """The run's id, or, where there is none, the name of the folder of the output message."""
        return self.run_id or Path(self.output_file).parent.name

    def _artifacts(self, side: str) -> dict[str, Any]:
        artifacts: dict[str, Any] = self.document.get(side, {}).get("artifacts", {})
        return artifacts

    def write_output(self, output: Mapping[str, Any]) -> None:
        """Writes an ExecutorOutput message to where it is expected."""
        file = Path(self.output_file)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(output))


def main_of(work: Callable[[list[str]], None]) -> None:
    """Runs a step as a program and exits: our own errors are a message, others have a trace."""
    # By force: libraries that log as they are imported have set up the log by now.
    logging.basicConfig(
        level=logging.INFO, format="%(levelname)s %(name)s: %(message)s", force=True
    )
    logging.getLogger().handlers[0].addFilter(_is_worth_reading)
    logging.getLogger("tensorflow").handlers.clear()  # which says everything a second time
    _export_passphrase()
    try:
        work(sys.argv[1:])
    except Exception as error:
        code = getattr(error, "exit_code", None)
        if code is None:
            traceback.print_exc()
            sys.exit(STEP_FAILED)
        print(error, file=sys.stderr)
        sys.exit(int(code))


def _is_worth_reading(record: logging.LogRecord) -> bool:
    """Whether it is a warning, or of our own; TFX and Beam print whole messages otherwise."""
    return record.levelno >= logging.WARNING or record.name.partition(".")[0] in _OURS


def _export_passphrase() -> None:
    """A passphrase comes as a file of the signing keys' secret, never as a parameter.

    Raises:
        UserError: there is such a file, and it can't be read.
    """
    if PASSPHRASE_VARIABLE in os.environ or not PASSPHRASE_FILE.exists():
        return
    try:
        os.environ[PASSPHRASE_VARIABLE] = PASSPHRASE_FILE.read_text(encoding="utf-8").rstrip("\n")
    except OSError as error:
        raise UserError(f"{PASSPHRASE_FILE} can't be read: {error.strerror}") from error
