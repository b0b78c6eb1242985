"""`edgeline watch`: keep this device up to date until it is told to stop."""

import argparse
import os
import signal
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from edgeline.cli.device_options import (
    add_device,
    add_group_option,
    add_threads,
    add_variant,
    log_to_stderr,
    open_device,
    preference,
)
from edgeline.cli.options import add_command, at_least, within
from edgeline.errors import DeviceError

if TYPE_CHECKING:
    from edgeline.device.examples import HardExamples
    from edgeline.device.reporting import Reporter
    from edgeline.device.state import InstalledModel
    from edgeline.device.update import Device

HOOK_SECONDS = 60.0
REPORTS_VARIABLE = "EDGELINE_REPORTS"

_DAY = 86_400.0


def add_watch(commands: Any) -> None:
    parser = add_command(commands, "watch", _run, "keep the model on this device up to date")
    add_device(parser)
    add_variant(parser)
    add_group_option(parser)
    add_threads(parser)
    parser.add_argument(
        "--interval",
        type=within(float, 1, _DAY),
        default=300.0,
        metavar="SECONDS",
        help="between two checks, give or take a fifth, default: 300",
    )
    parser.add_argument(
        "--port",
        type=within(int, 0, 65_535),
        metavar="PORT",
        help="serve health and predictions on 127.0.0.1",
    )
    parser.add_argument(
        "--report",
        metavar="PLACE",
        help="report how this device does, once an hour at most: to a folder, or to the reports "
        "beside the registry at oci://host[:port]/repository; needs `edgeline enrol`; default: "
        f"${REPORTS_VARIABLE}, and without it nothing is reported",
    )
    parser.add_argument(
        "--shadow",
        type=at_least(1),
        metavar="N",
        help="have a new model predict N images beside the one that is served before it takes "
        "over, or as many as come in a day, in a quarter of the time at most; how they compare is "
        "reported; needs --port, and memory for both; default: it takes over at once",
    )
    parser.add_argument(
        "--drift",
        type=at_least(100),
        metavar="N",
        help="compare each N predictions with the release's test split, and say in `edgeline "
        "status`, the metrics and reports what has drifted; choose N so that it lasts as long as "
        "what is seen takes to vary, such as a day; needs --port; default: off",
    )
    parser.add_argument(
        "--keep-hard",
        type=_images_a_day,
        metavar="N",
        help="keep at most N images a day on this device, for a week, that the model is least sure "
        "of, or to which the model in the shadow gives another label; `edgeline examples` exports "
        "them, sealed to their owner; who is in the pictures has to agree; needs --port; default: "
        "none",
    )
    parser.add_argument(
        "--on-update",
        nargs=argparse.REMAINDER,
        metavar="COMMAND",
        help="run a program after each switch, with the arguments that follow, so that this option "
        f"is the last one; without a shell, for at most {HOOK_SECONDS:.0f} seconds, and with "
        "EDGELINE_MODEL, EDGELINE_VERSION, EDGELINE_VARIANT, EDGELINE_DIGEST and EDGELINE_PATH in "
        "its environment",
    )


def _run(options: argparse.Namespace) -> int:
    """Check the channel now and then, and switch to what it serves, once verified
    and tried. SIGTERM ends it, and SIGHUP has it check at once.

    With --port it answers on the loopback interface: GET /metrics for Prometheus,
    GET /healthz, and POST /predict with the bytes of an image.

    Examples:
    edgeline watch --registry oci://registry.example/cells --root root.json --model solar-cells
    edgeline watch --registry registry --model solar-cells --port 9464
    edgeline watch --registry registry --model solar-cells --port 9464 --drift 500
    edgeline watch --registry registry --model solar-cells --report /var/spool/edgeline
    edgeline watch --registry registry --model solar-cells --on-update systemctl restart camera
    """
    from edgeline.cli.output import UsageError, note
    from edgeline.device.health import HOST, HealthServer
    from edgeline.device.shadow import ShadowSettings
    from edgeline.device.watch import Watcher

    log_to_stderr(verbose=True)
    if options.on_update is not None and not options.on_update:
        raise UsageError("--on-update: expected a program to run")
    for option in ("shadow", "drift", "keep_hard"):
        if getattr(options, option) and options.port is None:
            raise UsageError(
                f"--{option.replace('_', '-')}: expected --port, too: without it nothing is "
                "predicted here"
            )
    device = open_device(options)
    watcher = Watcher(
        device,
        preference=preference(options),
        interval=options.interval,
        on_update=_hook(options.on_update, device) if options.on_update else None,
        predicts=options.port is not None,
        reporter=_reporter(options, device),
        shadow=ShadowSettings(predictions=options.shadow) if options.shadow else None,
        drift=options.drift,
        hard_examples=_hard_examples(options, device),
    )
    # A download that is broken off is resumed, so that there is nothing to wait for.
    signal.signal(signal.SIGTERM, _leave)
    signal.signal(signal.SIGHUP, lambda *_: watcher.wake())
    if options.port is None:
        watcher.run()
        return 0
    try:
        server = HealthServer(watcher, options.port)
    except OSError as error:
        raise DeviceError(
            f"Port {options.port} cannot be listened on: {error.strerror}. Name another --port"
        ) from None
    note(f"listening on http://{HOST}:{server.port}")
    try:
        watcher.run()
    finally:
        server.close()
    return 0


def _reporter(options: argparse.Namespace, device: "Device") -> "Reporter | None":
    place = options.report or os.environ.get(REPORTS_VARIABLE)
    if not place:
        return None
    from edgeline.device.reporting import Reporter

    return Reporter(device, place)


def _hard_examples(options: argparse.Namespace, device: "Device") -> "HardExamples | None":
    if not options.keep_hard:
        return None
    from edgeline.device.examples import FOLDER, HardExamples

    return HardExamples(device.folder.path / FOLDER, options.keep_hard)


def _leave(*_: object) -> None:
    raise SystemExit(0)


def _hook(command: Sequence[str], device: "Device") -> Callable[["InstalledModel"], None]:
    import subprocess

    path = str(device.folder.current.absolute())

    def run(installed: "InstalledModel") -> None:
        environment = {
            **os.environ,
            "EDGELINE_MODEL": installed.model,
            "EDGELINE_VERSION": installed.tag,
            "EDGELINE_VARIANT": installed.variant,
            "EDGELINE_DIGEST": installed.digest,
            "EDGELINE_PATH": path,
        }
        try:
            # A session of its own, so that its children go with it when its time is over.
            process = subprocess.Popen(
                command, env=environment, stdin=subprocess.DEVNULL, start_new_session=True
            )
        except OSError as error:
            raise DeviceError(f"{command[0]} cannot be run: {error.strerror}") from None
        try:
            code = process.wait(HOOK_SECONDS)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            raise DeviceError(f"{command[0]} took more than {HOOK_SECONDS:.0f} seconds") from None
        if code != 0:
            raise DeviceError(f"{command[0]} ended with exit code {code}")

    return run


def _images_a_day(text: str) -> int:
    from edgeline.device.examples import MAX_PER_DAY

    return within(int, 1, MAX_PER_DAY)(text)
