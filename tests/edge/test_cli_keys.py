"""Keys by command: a registry's first ones, and then whose count."""

import json
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edgeline.cli import main
from edgeline.cli.registry import init as registry_init
from edgeline.errors import RegistryError
from edgeline.publish.keys import Signers
from edgeline.publish.repository import Repository
from edgeline.publish.store import open_for_writing
from tests.edge.terminal import Done, Terminal

Run = Callable[..., Done]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Give a command in an empty folder, without anything from the environment."""
    for variable in ("EDGELINE_ROOT", "EDGELINE_KEYS", "EDGELINE_PASSPHRASE"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.chdir(tmp_path)

    def give(command: str, *arguments: str | Path) -> Done:
        capsys.readouterr()
        try:
            code = main(["registry", *command.split(), *map(str, arguments)])
        except SystemExit as wrong:
            code = int(str(wrong.code))
        return Done(code, *capsys.readouterr())

    return give


INIT = "init registry --model pets --model dogs --keys keys --no-passphrase"
NAMES = [
    "root-1",
    "root-2",
    "targets",
    "online",
    "pets-ci",
    "pets-release",
    "dogs-ci",
    "dogs-release",
]
SIGNING = "--root keys/root.json --key keys/targets.pem --key keys/online.pem"


def _roles(folder: Path) -> dict[str, dict[str, Any]]:
    """The roles of the registry in `folder`, by name, from its root."""
    store = open_for_writing(str(folder / "registry"))
    root = (folder / "keys" / "root.json").read_bytes()
    roles = Repository(store, root=root, signers=Signers()).roles()
    return {
        role.name: {"keys": {key.keyid for key in role.keys}, "threshold": role.threshold}
        for role in roles
    }


def test_a_registry_is_made_with_its_keys(run: Run, tmp_path: Path) -> None:
    done = run(INIT)
    assert done.code == 0, done.error
    keys = tmp_path / "keys"
    assert sorted(path.name for path in keys.iterdir()) == sorted(
        ["root.json", *(f"{name}{suffix}" for name in NAMES for suffix in (".pem", ".pub"))]
    )
    for name in NAMES:
        assert stat.S_IMODE((keys / f"{name}.pem").stat().st_mode) == 0o600
        assert f"keys/{name}.pem" in done.out
    for expected in (
        "whose keys count (2 of 2 needed)",
        "on devices and laptops",
        "The keys are not encrypted",
        'export EDGELINE_ROOT=keys/root.json EDGELINE_KEYS="keys/pets-ci.pem keys/online.pem"',
        "edgeline registry promote registry pets --from candidate --to production",
        "edgeline registry refresh registry --root keys/root.json --key keys/online.pem",
    ):
        assert expected in done.out
    assert run("verify registry --root keys/root.json").code == 0


def test_the_new_keys_are_json_for_programs(run: Run, tmp_path: Path) -> None:
    document = run(f"{INIT} --json").document
    assert (document["store"], document["root"]) == ("registry", "keys/root.json")
    assert [key["name"] for key in document["keys"]] == NAMES
    signers = Signers.load([str(tmp_path / "keys")])
    assert {key["key_id"] for key in document["keys"]} == {*signers.key_ids}


def test_numbers_and_times_are_as_asked_for(run: Run, tmp_path: Path) -> None:
    more = "--root-keys 3 --root-threshold 2 --expires timestamp=2 --expires root=700"
    assert run(f"{INIT} {more}").code == 0
    roles = _roles(tmp_path)
    assert (len(roles["root"]["keys"]), roles["root"]["threshold"]) == (3, 2)
    findings = run("verify registry --root keys/root.json --json").document["findings"]
    assert [each["subject"] for each in findings] == ["role timestamp"]


def test_times_are_changed_by_root(run: Run) -> None:
    run(INIT)
    root = "--root keys/root.json --key keys/root-1.pem"
    done = run(f"keys expiry registry {root} --expires timestamp=3 --draft draft.json")
    assert done.code == 0, done.error
    assert "Hand draft.json to their holders" in done.out
    run("keys sign draft.json --root keys/root.json --key keys/root-2.pem --yes")
    done = run("keys apply registry draft.json --root keys/root.json --key keys/online.pem")
    assert done.code == 0, done.error
    assert "timestamp" in done.out
    findings = run("verify registry --root keys/root.json --json").document["findings"]
    assert [each["subject"] for each in findings] == ["role timestamp"]


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ("--model Pets", 3, "A model is named by"),
        ("--root-threshold 3", 2, "--root-threshold is 3, with 2 root keys"),
        ("--root-keys 0", 2, "expected at least 1"),
        ("--expires online=3", 2, "expected ROLE=DAYS"),
        ("--expires root=9999", 2, "1 to 3650 days"),
    ],
)
def test_nothing_is_made_of_what_makes_no_sense(
    arguments: str, code: int, message: str, run: Run, tmp_path: Path
) -> None:
    done = run(f"{INIT} {arguments}")
    assert done.code == code
    assert message in done.error
    assert [*tmp_path.iterdir()] == []


def test_nothing_is_overwritten(run: Run, tmp_path: Path) -> None:
    run(INIT)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    for command, message in (
        (INIT, "keys/root.json exists"),
        (INIT.replace("--keys keys", "--keys others"), "registry is a registry already"),
        (INIT.replace("init registry", "init another"), "keys/root.json exists"),
    ):
        done = run(command)
        assert done.code == 3
        assert message in done.error
    assert before == {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}


def _crash(*_: object) -> None:
    raise RegistryError("the power failed")


@pytest.mark.parametrize("step", ["make_key", "_initialize", "_create"])
def test_an_interrupted_start_is_taken_up(
    step: str, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, calls = registry_init.make_key, 0

    def make_three_keys(file: Path, passphrase: str | None) -> Any:
        nonlocal calls
        calls += 1
        return real(file, passphrase) if calls <= 3 else _crash()

    with monkeypatch.context() as patched:
        patched.setattr(registry_init, step, make_three_keys if step == "make_key" else _crash)
        assert run(INIT).code == 3
    made = {path: path.read_bytes() for path in (tmp_path / "keys").iterdir()}
    assert len(made) == (6 if step == "make_key" else 16)
    done = run(INIT)
    assert done.code == 0, done.error
    assert "keys/root-1.pem is there already, and is used" in done.error
    assert all(path.read_bytes() == content for path, content in made.items())
    assert set(_roles(tmp_path)) >= {"root", "pets-ci", "dogs-release"}


def test_an_interrupted_start_is_not_taken_up_as_another_one(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(registry_init, "_create", _crash)
        run(INIT)
    done = run(f"{INIT} --model birds")
    assert done.code == 3
    assert "registry is a registry already, with other keys" in done.error


@pytest.mark.parametrize("command", [INIT, "keys create anna.pem --no-passphrase"])
def test_without_terminal_a_passphrase_has_to_come_from_elsewhere(command: str, run: Run) -> None:
    done = run(command.replace("--no-passphrase", ""))
    assert done.code == 2
    assert "set EDGELINE_PASSPHRASE" in done.error
    assert "--no-passphrase" in done.error


def test_the_passphrase_may_come_from_the_environment(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDGELINE_PASSPHRASE", "correct horse")
    assert run(INIT.replace("--no-passphrase", "")).code == 0
    for name in NAMES:
        assert b"ENCRYPTED" in (tmp_path / "keys" / f"{name}.pem").read_bytes()
    refresh = "refresh registry --root keys/root.json --key keys/online.pem"
    assert run(refresh).code == 0
    monkeypatch.setenv("EDGELINE_PASSPHRASE", "wrong")
    done = run(refresh)
    assert done.code == 3
    assert "The passphrase of keys/online.pem is wrong" in done.error
    monkeypatch.delenv("EDGELINE_PASSPHRASE")
    assert "set EDGELINE_PASSPHRASE, or run this on a terminal" in run(refresh).error


ASKED = "Passphrase for the new keys: "
AGAIN = "The same once more: "


@pytest.mark.parametrize(
    ("answers", "code", "message"),
    [
        ([(ASKED, "correct horse"), (AGAIN, "correct horse")], 0, "keys/root-1.pem"),
        ([(ASKED, "correct horse"), (AGAIN, "correct mule")], 2, "The two passphrases differ"),
        ([(ASKED, "")], 2, "The passphrase is empty"),
    ],
)
def test_a_passphrase_is_asked_for_twice(
    answers: list[tuple[str, str]],
    code: int,
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("EDGELINE_PASSPHRASE", raising=False)
    command = INIT.replace("--no-passphrase", "").split()
    done = Terminal(tmp_path).run("registry", *command, answers=answers)
    assert done.code == code, done.error
    assert message in done.out + done.error
    assert (tmp_path / "keys").exists() == (code == 0)
    assert "correct horse" not in done.out + done.error


def test_a_key_is_made_and_shown(run: Run, tmp_path: Path) -> None:
    document = run("keys create anna.pem --no-passphrase --json").document
    assert (document["file"], document["public_file"]) == ("anna.pem", "anna.pub")
    done = run("keys create ben.pem --no-passphrase")
    assert done.out.startswith("ben.pem signs as key ")
    shown = run("keys public anna.pem ben.pub --json")
    first, second = (json.loads(line) for line in shown.out.splitlines())
    assert first["key_id"] == document["key_id"]
    assert (second["file"], second["scheme"], len(second["public"])) == ("ben.pub", "ed25519", 64)
    table = run("keys public anna.pem").out.splitlines()
    assert table[0].split() == ["FILE", "KEY", "ID", "KIND", "PUBLIC"]
    assert document["key_id"] in table[1]


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("keys create anna.pem --no-passphrase", "keys are never overwritten"),
        ("keys public nobody.pub", "cannot be read"),
        ("keys public notes.txt", "no public key"),
    ],
)
def test_a_file_that_is_no_help_is_named(
    command: str, message: str, run: Run, tmp_path: Path
) -> None:
    run("keys create anna.pem --no-passphrase")
    (tmp_path / "notes.txt").write_text("call Anna")
    done = run(command)
    assert done.code == 3
    assert message in done.error


def test_roles_are_listed(run: Run) -> None:
    run(INIT)
    header, *lines = run("keys list registry --root keys/root.json").out.splitlines()
    assert header.split() == ["ROLE", "KEYS", "NEEDED", "VERSION", "EXPIRES"]
    assert [line.split()[0] for line in lines] == [
        *("root", "targets", "snapshot", "timestamp"),
        *("pets-ci", "pets-release", "dogs-ci", "dogs-release"),
    ]
    documents = run("keys list registry --root keys/root.json --json").documents
    root, *others = documents
    assert (root["role"], root["version"], root["threshold"]) == ("root", 1, 2)
    assert len(root["keys"]) == 2
    assert root["expires"].startswith("20")
    assert others[-1]["expires"] is None  # nobody signed anything with it yet


def test_a_model_is_added(run: Run, tmp_path: Path) -> None:
    run(INIT)
    for name in ("birds-ci", "birds-release"):
        run(f"keys create keys/{name}.pem --no-passphrase")
    keys = "--ci-key keys/birds-ci.pub --release-key keys/birds-release.pub"
    done = run(f"keys add-model registry birds {keys} {SIGNING}")
    assert done.code == 0, done.error
    assert "keys/birds-release.pub signs birds/production" in done.out
    roles = _roles(tmp_path)
    assert roles["birds-ci"]["keys"].isdisjoint(roles["birds-release"]["keys"])
    done = run(f"keys add-model registry birds {keys} {SIGNING}")
    assert done.code == 3
    assert "is there already" in done.error
    document = run(f"keys add-model registry fish {keys} {SIGNING} --json").document
    assert {*document} == {"model", "ci", "release"}


def test_a_models_key_is_exchanged(run: Run, tmp_path: Path) -> None:
    run(INIT)
    new = run("keys create keys/anna.pem --no-passphrase --json").document["key_id"]
    (old,) = _roles(tmp_path)["pets-release"]["keys"]
    change = f"--add keys/anna.pub --remove {old[:8]}"
    done = run(f"keys rotate registry pets-release {change} {SIGNING}")
    assert done.code == 0, done.error
    assert done.out.startswith("Signed and stored. The roles are now:")
    assert _roles(tmp_path)["pets-release"]["keys"] == {new}
    done = run(f"keys rotate registry pets-release --remove {old} {SIGNING}")
    assert done.code == 3
    assert f"0 of the registry's keys have an id that starts with '{old}'" in done.error


def test_the_online_key_is_exchanged(run: Run, tmp_path: Path) -> None:
    run(INIT)
    new = run("keys create keys/online-2.pem --no-passphrase --json").document["key_id"]
    (old,) = _roles(tmp_path)["timestamp"]["keys"]
    roots = "--key keys/root-1.pem --key keys/root-2.pem --key keys/online-2.pem"
    change = f"--add keys/online-2.pub --remove {old}"
    done = run(f"keys rotate registry online {change} --root keys/root.json {roots} --json")
    document = done.document
    assert document["complete"] is True
    keys = {role["role"]: role["keys"] for role in document["roles"]}
    assert keys["timestamp"] == keys["snapshot"] == [new]


def test_a_root_is_signed_by_several_people(run: Run, tmp_path: Path) -> None:
    run(INIT)
    new = run("keys create keys/anna.pem --no-passphrase --json").document["key_id"]
    rotate = "keys rotate registry root --add keys/anna.pub --root keys/root.json"
    done = run(f"{rotate} --key keys/root-1.pem --key keys/online.pem")
    assert done.code == 3
    assert "The new root needs more signatures" in done.error
    done = run(f"{rotate} --key keys/root-1.pem --key keys/online.pem --draft draft.json")
    assert done.code == 0, done.error
    assert "1 more signature(s) are needed" in done.out
    assert "edgeline registry keys sign draft.json --root root.json --key KEY.pem" in done.out

    apply = "keys apply registry draft.json --root keys/root.json --key keys/online.pem"
    assert "draft.json is not complete" in run(apply).error
    done = run("keys sign draft.json --root keys/root.json --key keys/root-2.pem")
    assert done.code == 2
    assert f"edgeline: root gains key {new}" in done.error
    done = run("keys sign draft.json --root keys/root.json --key keys/root-2.pem --yes --json")
    assert done.document == {"complete": True, "draft": "draft.json", "missing": []}
    done = run("keys sign draft.json --root keys/root.json --key keys/targets.pem --yes")
    assert done.code == 3
    assert "had anything to sign" in done.error

    done = run(apply)
    assert done.code == 0, done.error
    assert new in _roles(tmp_path)["root"]["keys"]
    assert run("verify registry --root keys/root.json").code == 0


def test_a_draft_is_shown_before_it_is_signed(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(INIT)
    rotate = "keys rotate registry root --root keys/root.json --key keys/online.pem"
    assert run(f"{rotate} --draft draft.json").code == 0
    sign = "registry keys sign draft.json --root keys/root.json --key keys/root-1.pem"
    question = "Sign draft.json? [y/N] "
    done = Terminal(tmp_path).run(*sign.split(), answers=[(question, "n")])
    assert done.code == 1
    assert "root becomes version 2" in done.error
    assert done.error.endswith("nothing was signed\n")
    done = Terminal(tmp_path).run(*sign.split(), answers=[(question, "yes")])
    assert done.code == 0
    assert "1 more signature(s) are needed" in done.out


def test_older_metadata_may_be_built_upon(run: Run, tmp_path: Path) -> None:
    run(INIT)
    spoiled = open_for_writing(str(tmp_path / "registry"))
    descriptor, _ = spoiled.read_tag("tuf-1", limit=1 << 20)
    blob = spoiled.put_manifest(b'{"schemaVersion": 2}', descriptor.media_type)
    spoiled.commit([("tuf", blob)], expected={})
    roots = "--root keys/root.json --key keys/root-1.pem --key keys/root-2.pem"
    rotate = f"keys rotate registry online {roots} --key keys/online.pem"
    assert run(rotate).code == 4
    done = run(f"{rotate} --base tuf-1")
    assert done.code == 0, done.error
    assert run("verify registry --root keys/root.json").code == 0


def test_the_environment_may_name_several_keys(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    run(INIT)
    monkeypatch.setenv("EDGELINE_ROOT", "keys/root.json")
    monkeypatch.setenv("EDGELINE_KEYS", "keys/targets.pem\n keys/online.pem")
    run("keys create a.pem --no-passphrase")
    run("keys create b.pem --no-passphrase")
    assert run("keys add-model registry birds --ci-key a.pub --release-key b.pub").code == 0
