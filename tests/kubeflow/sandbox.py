"""Runs a command as a pod would: `python sandbox.py SPEC.json` inside `unshare --mount`.

A file system of its own with nothing but what is named: the machine's programs, this project, and
the volumes. What another step left in a folder is not there, and neither is the test's own folder.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[2]
# What programs and libraries need; the rest of the machine is not there.
SYSTEM = ("bin", "lib", "lib32", "lib64", "libx32", "sbin", "usr", "opt", "dev", "proc", "sys")
SETTINGS = ("group", "hosts", "ld.so.cache", "localtime", "nsswitch.conf", "passwd", "ssl")
TIMEOUT = 900.0  # seconds


@dataclass(frozen=True)
class Pod:
    """What a step's container gets.

    Attributes:
        command: with its arguments.
        environment: all of it.
        mounts: folders of this machine, by where the pod sees them.
        root: the file system of its image; by default, this machine's programs and this project.
        user: "uid:gid" to run as, without capabilities; by default, whoever runs the test.
    """

    command: Sequence[str]
    environment: Mapping[str, str]
    mounts: Mapping[str, str]
    root: str | None = None
    user: str | None = None


def run(pod: Pod, log: Path) -> int:
    """Runs a pod; its output goes to a file. Returns its exit code."""
    with tempfile.TemporaryDirectory() as folder:
        spec = Path(folder) / "pod.json"
        spec.write_text(json.dumps(asdict(pod)))
        isolate = ["unshare", "--mount"]
        if pod.user is None:  # another user's rights can be taken on by root alone
            isolate += ["--user", "--map-root-user"]
        with (
            log.open("wb") as output,
            subprocess.Popen(
                [*isolate, sys.executable, __file__, str(spec)],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # it can be killed whole, and nothing else with it
            ) as process,
        ):
            try:
                return process.wait(TIMEOUT)
            except BaseException:
                os.killpg(process.pid, signal.SIGKILL)
                raise


def _enter(spec: Path) -> None:
    pod = Pod(**json.loads(spec.read_text()))
    root = Path(tempfile.mkdtemp())
    if pod.root:
        _image(Path(pod.root), root, pod)
    else:
        _this_machine(root, pod)
    os.chroot(root)
    os.chdir("/tmp")
    os.environ["PATH"] = pod.environment["PATH"]
    command = [*(_without_rights(pod.user) if pod.user else ()), *pod.command]
    os.execvpe(command[0], command, dict(pod.environment))


def _this_machine(root: Path, pod: Pod) -> None:
    _mount("-t", "tmpfs", "pod", str(root))
    for name in SYSTEM:
        _bind(Path("/", name), root)
    for name in SETTINGS:
        _bind(Path("/etc", name), root)
    for there, here in pod.mounts.items():
        _bind(Path(here), root, Path(there))
    for path in {PROJECT, Path(sys.prefix).resolve(), Path(sys.base_prefix).resolve()}:
        _bind(path, root)
    _mount("-o", "remount,ro", str(root))
    _give_to(pod)


def _image(image: Path, root: Path, pod: Pod) -> None:
    for there in pod.mounts:  # as a container runtime makes mount points
        (image / there.lstrip("/")).mkdir(parents=True, exist_ok=True)
    _mount("--bind", str(image), str(root))
    _mount("-o", "remount,bind,ro", str(root))
    for name in ("dev", "proc"):
        _mount("--rbind", f"/{name}", str(root / name))
    for there, here in pod.mounts.items():
        _mount("--rbind", here, str(root / there.lstrip("/")))
    _give_to(pod)


def _give_to(pod: Pod) -> None:
    """Makes what is mounted the user's, as Kubernetes does with volumes."""
    if pod.user is None:
        return
    for here in map(Path, pod.mounts.values()):
        for path in (here, *here.rglob("*")):
            os.chown(path, *map(int, pod.user.split(":")), follow_symlinks=False)


def _without_rights(user: str) -> Sequence[str]:
    number, group = user.split(":")
    drop = ["--clear-groups", "--inh-caps=-all", "--bounding-set=-all", "--no-new-privs"]
    return ("setpriv", f"--reuid={number}", f"--regid={group}", *drop, "--")


def _bind(source: Path, root: Path, target: Path | None = None) -> None:
    if not source.exists():
        return
    there = root / (target or source).relative_to("/")
    if source.is_symlink():
        there.symlink_to(source.readlink())
        return
    there.parent.mkdir(parents=True, exist_ok=True)
    if source.is_dir():
        there.mkdir(exist_ok=True)
    else:
        there.touch()
    _mount("--rbind", str(source), str(there))


def _mount(*arguments: str) -> None:
    subprocess.run(["mount", *arguments], check=True)


if __name__ == "__main__":
    _enter(Path(sys.argv[1]))
