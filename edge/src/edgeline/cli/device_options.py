"""Which model of which registry a device follows: what its commands have in common."""

import argparse
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeline.cli.options import add_connection, add_root, add_state, at_least
from edgeline.cli.output import Progress, UsageError, printable

if TYPE_CHECKING:
    from edgeline.device.state import InstalledModel
    from edgeline.device.update import Device

REGISTRY_VARIABLE = "EDGELINE_REGISTRY"
MODEL_VARIABLE = "EDGELINE_MODEL"
SYSTEMD_STATE_VARIABLE = "STATE_DIRECTORY"  # systemd sets it for a unit with StateDirectory=


def add_device(parser: argparse.ArgumentParser) -> None:
    """Add which model of which registry the device runs, and how it gets there."""
    parser.add_argument(
        "--registry",
        metavar="STORE",
        help=f"a directory, or oci://host[:port]/repository; default: ${REGISTRY_VARIABLE}",
    )
    parser.add_argument(
        "--model",
        metavar="NAME",
        help=f"the model's name in it; default: ${MODEL_VARIABLE}",
    )
    parser.add_argument(
        "--channel", default="production", metavar="NAME", help="default: %(default)s"
    )
    add_root(parser)
    add_state(parser)
    add_connection(parser)


def add_variant(parser: argparse.ArgumentParser) -> None:
    """Add which variants are preferred."""
    parser.add_argument(
        "--variant",
        metavar="NAMES",
        help="the variant to run, or several with commas between them, best first, or auto for "
        "what its publisher prefers; remembered; default: as said last time, at first auto",
    )


def add_group_option(parser: argparse.ArgumentParser) -> None:
    """Add the groups that the device is in."""
    parser.add_argument(
        "--group",
        metavar="NAMES",
        help="the group that this device is in, or several with commas between them, or none; a "
        "rollout may give a group a release first; remembered; default: as said last time",
    )


def _groups(options: argparse.Namespace) -> tuple[str, ...] | None:
    given: str | None = getattr(options, "group", None)
    if given is None:
        return None
    return () if given == "none" else tuple(name.strip() for name in given.split(","))


def add_threads(parser: argparse.ArgumentParser) -> None:
    """Add how many threads an inference takes."""
    parser.add_argument(
        "--threads",
        type=at_least(1),
        metavar="N",
        help="threads per inference, default: one per core, at most 4",
    )


def registry_and_model(options: argparse.Namespace) -> tuple[str, str]:
    """Return where the registry is and the model's name, of the command line or the environment.

    Raises:
        UsageError: one of them is missing.
    """
    registry = options.registry or os.environ.get(REGISTRY_VARIABLE)
    model = options.model or os.environ.get(MODEL_VARIABLE)
    if not registry or not model:
        missing = "--registry" if not registry else "--model"
        variable = MODEL_VARIABLE if registry else REGISTRY_VARIABLE
        raise UsageError(f"Which one? Name it with {missing}, or in ${variable}")
    return registry, model


def open_device(options: argparse.Namespace) -> "Device":
    """Return the device that the command line describes.

    Raises:
        UsageError: there is no registry, no model or no root.
        RegistryError: a name is malformed, or the root cannot be read.
    """
    from edgeline.cli.access import connection, required_root
    from edgeline.device.update import Device

    return Device(
        *registry_and_model(options),
        options.channel,
        root=required_root(options),
        state=state_of_device(options),
        connection=connection(options),
        num_threads=getattr(options, "threads", None),
        groups=_groups(options),
        progress=Progress(),
    )


def state_of_device(options: argparse.Namespace) -> Path | None:
    """Return the state folder that was named, on the command line or in the environment."""
    from edgeline.cli.access import state_folder

    # Of several names, systemd's own first one counts.
    systemd = os.environ.get(SYSTEMD_STATE_VARIABLE, "").partition(":")[0]
    return state_folder(options) or (Path(systemd) if systemd else None)


def preference(options: argparse.Namespace) -> tuple[str, ...] | None:
    """Return the preferred variants, None when nothing is said.

    Raises:
        RegistryError: a name is malformed.
    """
    from edgeline.device.selection import parse_preference

    return None if options.variant is None else parse_preference(options.variant)


def log_to_stderr(*, verbose: bool = False) -> None:
    """Have warnings that the package logs, or all it logs, look like the command line's own."""
    import logging

    class Formatter(logging.Formatter):
        def format(self, record: logging.LogRecord) -> str:
            text = super().format(record)
            return text if record.exc_info else printable(text)

    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(Formatter("edgeline: %(message)s"))
    logger = logging.getLogger("edgeline")
    logger.handlers[:] = [handler]
    logger.setLevel(logging.INFO if verbose else logging.WARNING)
    logger.propagate = False


def model_json(installed: "InstalledModel") -> dict[str, Any]:
    """Return an installed model for programs."""
    return {
        "model": installed.model,
        "version": installed.version,
        "tag": installed.tag,
        "digest": installed.digest,
        "variant": installed.variant,
    }
