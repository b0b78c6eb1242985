"""Compiles the pipeline for Kubeflow Pipelines v2: `python kubeflow/compile.py --help`."""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from edgeline.errors import EdgelineError
from pipeline.config import load_config
from pipeline.console import console
from pipeline.errors import UserError

EXAMPLE = """\
example:
  python kubeflow/compile.py --config cells.toml \\
      --image registry.example/edgeline@sha256:... --output pipeline.yaml

The section [kubeflow] says where data, registry, keys and GPUs are in the cluster; see
KubeflowConfig in pipeline/config.py. kubeflow/submit.py runs the outcome.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Compiles; returns the exit code: 0, or 2 for a user's mistake."""
    options = _parser().parse_args(arguments)
    try:
        config = load_config(options.config, options.set)
        with tempfile.TemporaryDirectory() as scratch, console(Path(scratch) / "chatter"):
            # Here, not above: it takes 20 seconds that no mistake in a file should wait for.
            from pipeline.orchestration.kubeflow.compiler import compile_pipeline

            compiled = compile_pipeline(config, options.image)
        options.output.write_text(compiled.to_yaml(), encoding="utf-8")
    except (UserError, EdgelineError) as error:
        print(error, file=sys.stderr)
        return UserError.exit_code
    except OSError as error:
        print(f"--output: {options.output}: {error.strerror}", file=sys.stderr)
        return UserError.exit_code
    for warning in compiled.warnings:
        print(f"warning: {warning}", file=sys.stderr)
    print(options.output)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python kubeflow/compile.py",
        description="Compile the pipeline for Kubeflow Pipelines v2.",
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--config", type=Path, required=True, metavar="FILE", help="TOML")
    parser.add_argument(
        "--image",
        required=True,
        metavar="IMAGE",
        help="of kubeflow/Dockerfile, as NAME@sha256:...",
    )
    parser.add_argument("--output", type=Path, required=True, metavar="FILE", help="YAML; made")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="override a setting, such as trainer.epochs=3; repeatable",
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
