"""tuf-conformance, the suite for TUF clients, runs against the device's client.

It is in no package index: `make test-peers TUF_CONFORMANCE=PATH` names a checkout of
https://github.com/theupdateframework/tuf-conformance.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

from tests.peers.test_device_pythons import interpreter

pytestmark = [
    pytest.mark.peers,
    pytest.mark.skipif(
        not os.environ.get("TUF_CONFORMANCE"),
        reason="TUF_CONFORMANCE names no checkout of tuf-conformance",
    ),
]

CLIENT = Path(__file__).with_name("tuf_conformance_client.py")

NAMES = "a role's name is a file's, without anything to quote"
HASHES = "a channel's target has the SHA-256 of a release's index and no other hash"
# What a registry of edgeline has not, so that its client refuses what the suite wants accepted.
REFUSED = {
    "test_unusual_role_name[?]": NAMES,
    "test_unusual_role_name[#]": NAMES,
    "test_unusual_role_name[/delegatedrole]": NAMES,
    "test_unusual_role_name[../delegatedrole]": NAMES,
    "test_download_with_hash_algorithms[hashes1]": HASHES,
    "test_download_with_hash_algorithms[hashes2]": HASHES,
}


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What came of each of the suite's tests: "passed", "failed", "error" or "skipped"."""
    folder = tmp_path_factory.mktemp("tuf-conformance")
    # A copy: an installation leaves files in the checkout.
    suite = shutil.copytree(os.environ["TUF_CONFORMANCE"], folder / "suite")
    environment = folder / "environment"
    subprocess.run([interpreter("3.11"), "-m", "venv", str(environment)], check=True)
    python = str(environment / "bin" / "python")
    pip = ("-m", "pip", "install", "--quiet", "--disable-pip-version-check")
    subprocess.run([python, *pip, "--editable", str(suite)], check=True)
    report = folder / "report.xml"
    done = subprocess.run(
        [
            *(python, "-m", "pytest", "-p", "no:cacheprovider", "--quiet", "tuf_conformance"),
            *("--entrypoint", str(_entrypoint(folder / "client")), f"--junit-xml={report}"),
        ],
        cwd=suite,
        env={name: value for name, value in os.environ.items() if name != "PYTHONPATH"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert report.exists(), done.stdout + done.stderr
    return {
        case.attrib["name"]: _outcome(case) for case in ElementTree.parse(report).iter("testcase")
    }


def test_the_client_conforms(outcomes: dict[str, str]) -> None:
    assert {name for name, outcome in outcomes.items() if outcome != "passed"} == set(REFUSED)
    assert len(outcomes) > 100


def _entrypoint(file: Path) -> Path:
    """Write the program that the suite calls, which finds edgeline where this process does."""
    path = os.pathsep.join(filter(None, sys.path))
    client = shlex.join([sys.executable, str(CLIENT)])
    file.write_text(f'#!/bin/sh\nPYTHONPATH={shlex.quote(path)} exec {client} "$@"\n')
    file.chmod(0o755)
    return file


def _outcome(case: ElementTree.Element) -> str:
    tags = {"failure": "failed", "error": "error", "skipped": "skipped"}
    return next((tags[each.tag] for each in case if each.tag in tags), "passed")
