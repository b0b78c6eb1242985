"""The registry's commands as people use them: what they print, and how they end."""

import re
import shlex
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timezone
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from edgeline.cli import _parser, main
from edgeline.cli.output import Progress
from edgeline.cli.registry.output import note_expired
from edgeline.publish import provenance
from edgeline.publish.release import Published
from tests.edge.judged import judged
from tests.edge.terminal import Done, Terminal

if TYPE_CHECKING:
    from tests.edge.conftest import Store

Run = Callable[..., Done]


@pytest.fixture
def registry(store: "Store", monkeypatch: pytest.MonkeyPatch) -> "Store":
    """A registry with v1 of pets in candidate, and an environment that trusts and may sign."""
    root = store.files / "root.json"
    root.write_bytes(store.root)
    monkeypatch.setenv("EDGELINE_ROOT", str(root))
    monkeypatch.setenv("EDGELINE_KEYS", str(store.authority.files))
    monkeypatch.delenv("EDGELINE_PASSPHRASE", raising=False)
    publish(store, b"first")
    return store


@pytest.fixture
def run(registry: "Store", capsys: pytest.CaptureFixture[str]) -> Run:
    """Give a command on the registry."""

    def give(command: str, *arguments: str | Path) -> Done:
        options = ["registry", *command.split(), registry.location, *map(str, arguments)]
        try:
            code = main(options)
        except SystemExit as wrong:
            code = int(str(wrong.code))
        out, error = capsys.readouterr()
        return Done(code, out, error)

    return give


def publish(store: "Store", content: bytes, accuracy: float = 0.9, **layers: Any) -> Published:
    """Publish a release of two variants that passed with this accuracy."""
    variants = {"float32": content * 1000, "int8": content * 100}
    return store.publish(variants, verdict=judged(variants, accuracy), **layers)


def test_releases_are_listed_newest_first(run: Run, registry: "Store") -> None:
    publish(registry, b"second")
    run("promote", "pets", "--from", "candidate", "--to", "production", "--yes")
    registry.publish({"float32": b"x" * 7_340_000}, model="dogs")
    done = run("list")
    assert done.code == 0
    header, *lines = done.out.splitlines()
    assert header.split() == ["RELEASE", "MODEL", "CHANNELS", "VARIANTS"]
    assert lines == [
        "v3       dogs   candidate              float32 (7.3 MB)",
        "v2       pets   candidate, production  float32 (0.0 MB), int8 (0.0 MB)",
        "v1       pets   -                      float32 (0.0 MB), int8 (0.0 MB)",
    ]
    assert done.error == ""


def test_the_list_is_json_for_programs(run: Run, registry: "Store") -> None:
    published = publish(registry, b"second")
    newest, _ = run("list", "--json").documents
    assert newest == {
        "tag": "v2",
        "version": 2,
        "model": "pets",
        "digest": published.digest,
        "channels": ["candidate"],
        "variants": {"float32": 6000, "int8": 600},
        "rollouts": {},
    }


def test_the_list_is_short_unless_all_is_asked_for(run: Run, registry: "Store") -> None:
    for number in range(3):
        publish(registry, b"%d" % number)
    done = run("list", "--limit", "2", "--json")
    assert [each["tag"] for each in done.documents] == ["v4", "v3"]
    done = run("list", "--limit", "2")
    assert "2 older ones are not shown; --all lists them" in done.error
    assert len(run("list", "--all", "--json").documents) == 4


def test_an_empty_registry_lists_nothing(
    store: "Store", capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("EDGELINE_ROOT", raising=False)
    assert main(["registry", "list", store.location]) == 0
    assert capsys.readouterr().out.split() == ["RELEASE", "MODEL", "CHANNELS", "VARIANTS"]


@pytest.mark.parametrize("command", [["list"], ["show", "v1"], ["verify"], ["keys list"]])
def test_without_a_pinned_root_the_stores_own_is_used_and_that_is_said(
    command: list[str], run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("EDGELINE_ROOT")
    done = run(*command)
    assert done.code == 0
    (line,) = done.error.splitlines()
    assert line.startswith("edgeline: signatures are checked against the store's own root")
    assert "--root FILE or EDGELINE_ROOT" in line


@pytest.fixture
def described(registry: "Store") -> "Store":
    """The same with v2, which has a report and says where it comes from."""
    weights = {
        name: sha256(b"second" * times).hexdigest()
        for name, times in (("float32", 1000), ("int8", 100))
    }
    dataset = provenance.Resource("dataset", {"sha256": "ab" * 32})
    facts = provenance.Build("https://ci.example/pipeline", "run-42", {}, {}, [dataset], [])
    signer = registry.authority.signers.for_key(registry.authority.keys.models["pets"].ci)
    assert signer is not None
    envelope = provenance.sign(provenance.build(weights, facts), signer)
    publish(registry, b"second", 0.95, report=b"<html>fine</html>", provenance=envelope)
    return registry


@pytest.mark.parametrize("name", ["v2", "pets/candidate"])
def test_a_release_is_shown(name: str, run: Run, described: "Store") -> None:
    done = run("show", name)
    assert done.code == 0, done.error
    for expected in (
        r"^pets v2, sha256:[0-9a-f]{64}$",
        r"^candidate +pets-ci +[0-9a-f]{12} +20\d\d-\d\d-\d\d$",
        r"^METRIC +ON +float32 +int8$",
        r"^accuracy +overall +0.9500 +0.9500$",
        r"^precision of bird +overall +- +-$",
        r"^accuracy +camera=\\x1b\[31mleft +0.8500 +0.8500$",
        r"^verdict: +pass$",
        r"^judged on: +394 images of the test split$",
        r"^labels: +cat, dog, bird$",
        r"^provenance: +signed with a key of the model$",
        r"^run: +run-42$",
        r"^made from dataset: +sha256:(ab){32}$",
    ):
        assert re.search(expected, done.out, re.MULTILINE), expected


def test_a_shown_release_is_json_for_programs(run: Run, described: "Store") -> None:
    document = run("show", "v2", "--json").document
    assert document["channels"] == ["candidate"]
    (signed,) = document["signed"]
    assert (signed["channel"], signed["role"], signed["threshold"]) == ("candidate", "pets-ci", 1)
    assert document["verdict"] == {
        "passed": True,
        "objections": [],
        "split": "test",
        "examples": 394,
        "deployed": None,
    }
    assert document["metrics"][1]["value"] is None
    assert document["provenance"]["verified"] is True
    assert document["provenance"]["statement"]["subject"][0]["name"] == "float32"


def test_the_report_is_written(run: Run, described: "Store", tmp_path: Path) -> None:
    report = tmp_path / "report.html"
    done = run("show", "v2", "--report", report)
    assert report.read_bytes() == b"<html>fine</html>"
    assert f"wrote {report}" in done.error
    assert run("show", "v1", "--report", tmp_path / "none.html").code == 3


def test_a_release_without_a_verdict_is_shown_all_the_same(run: Run, registry: "Store") -> None:
    registry.publish({"float32": b"other"})
    done = run("show", "v2")
    assert done.code == 0
    assert re.search("^verdict: +not a pass; Expected a verdict of ver", done.out, re.MULTILINE)
    assert re.search("^provenance: +none$", done.out, re.MULTILINE)


PROMOTE = ("pets", "--from", "candidate", "--to", "production")


def test_a_promotion_shows_both_releases_side_by_side(run: Run, registry: "Store") -> None:
    assert run("promote", *PROMOTE, "--yes").code == 0
    publish(registry, b"second", 0.95)
    done = run("promote", *PROMOTE, "--yes")
    assert done.code == 0
    for expected in (
        r"^VARIANT +METRIC +ON +v1, NOW +v2 +DIFFERENCE$",
        r"^float32 +accuracy +overall +0.9000 +0.9500 +\+0.0500$",
        r"^pets/production serves v2 \(sha256:[0-9a-f]{64}\)\.$",
    ):
        assert re.search(expected, done.out, re.MULTILINE), expected
    assert "precision of bird" not in done.out
    assert "2 more metrics are the same; --all shows them" in done.error
    assert registry.serving("pets", "production").tag == "v2"


def test_a_promotion_can_show_every_metric(run: Run, registry: "Store") -> None:
    assert run("promote", *PROMOTE, "--yes").code == 0
    publish(registry, b"second", 0.95)
    done = run("promote", *PROMOTE, "--yes", "--all")
    row = r"^int8 +precision of bird +overall +- +- +-$"
    assert re.search(row, done.out, re.MULTILINE)
    assert "--all" not in done.error


def test_a_promotion_says_first_what_got_worse(run: Run, registry: "Store") -> None:
    assert run("promote", *PROMOTE, "--yes").code == 0
    publish(registry, b"second", 0.85)
    done = run("promote", *PROMOTE, "--yes")
    first, *_ = [line for line in done.out.splitlines() if line]
    assert first == (
        "WORSE  float32: accuracy was 0.9000, and is 0.8500 now, with an interval of 0.8100 to "
        "0.8800"
    )


def test_a_promotion_is_json_for_programs(run: Run, registry: "Store") -> None:
    document = run("promote", *PROMOTE, "--yes", "--json").document
    assert document["outcome"] == "done"
    assert (document["tag"], document["replaced"]) == ("v1", None)
    publish(registry, b"second", 0.95)
    document = run("promote", *PROMOTE, "--yes", "--json").document
    assert document["replaced"]["tag"] == "v1"
    metric = document["metrics"][0]
    assert metric.pop("difference") == pytest.approx(0.05)
    assert metric == {
        "variant": "float32",
        "metric": "accuracy",
        "slice": "overall",
        "old": 0.9,
        "new": 0.95,
    }
    assert run("promote", *PROMOTE, "--json").document["outcome"] == "unchanged"


def test_what_is_there_already_is_not_promoted_again(run: Run) -> None:
    run("promote", *PROMOTE, "--yes")
    done = run("promote", *PROMOTE)
    assert done.code == 0
    assert done.out == "pets/production serves v1 already; nothing was signed.\n"


def test_without_a_terminal_consent_has_to_be_given(run: Run, registry: "Store") -> None:
    done = run("promote", *PROMOTE)
    assert done.code == 2
    assert "--yes has to say so" in done.error
    assert registry.channels.channel("pets", "production") is None


def test_a_release_is_rolled_back_twice(run: Run, registry: "Store") -> None:
    for content in (b"first", b"second", b"third"):
        publish(registry, content)
        assert run("promote", *PROMOTE, "--yes").code == 0
    arguments = ("pets", "--channel", "production", "--yes")
    done = run("rollback", *arguments)
    assert "pets/production serves v2" in done.out
    document = run("rollback", *arguments, "--json").document
    assert (document["tag"], document["replaced"]["tag"]) == ("v1", "v2")
    done = run("rollback", *arguments)
    assert done.code == 3
    assert "did not serve anything else before v1" in done.error


def test_a_release_is_rolled_back_to_by_name(run: Run, registry: "Store") -> None:
    for content in (b"first", b"second", b"third"):
        publish(registry, content)
        run("promote", *PROMOTE, "--yes")
    run("rollback", "pets", "--channel", "production", "--to", "v1", "--yes")
    assert registry.serving("pets", "production").tag == "v1"


def _spoil_the_verdict(store: "Store") -> None:
    publish(store, b"worse", 0.5)


def _change_a_model(store: "Store") -> None:
    path = store.blob(store.serving().variant("int8").model.digest)
    path.write_bytes(path.read_bytes()[::-1])


def _nothing(store: "Store") -> None:
    """Leave the registry as it is."""


@pytest.mark.parametrize(
    ("spoil", "arguments", "code", "message"),
    [
        pytest.param(_spoil_the_verdict, [], 3, "its verdict is not a pass", id="not a pass"),
        pytest.param(_change_a_model, [], 4, "was changed or damaged", id="changed"),
        pytest.param(_nothing, ["--key", "KEYS/ci.pem"], 3, "'pets-release'", id="wrong key"),
        pytest.param(_nothing, ["--key", "no.pem"], 3, "no.pem", id="missing key"),
        pytest.param(_nothing, ["--from", "canary"], 3, "it has candidate", id="empty channel"),
        pytest.param(_nothing, ["--to", "live"], 3, "no channel 'live'", id="unknown channel"),
        pytest.param(_nothing, ["--root", "no.json"], 3, "cannot be read", id="missing root"),
        pytest.param(_nothing, ["--root", "KEYS/ci.pub"], 4, "is broken JSON", id="no root"),
        pytest.param(_nothing, ["--timeout", "0"], 2, "0.001 to 3600", id="no time"),
    ],
)
def test_a_promotion_is_refused(
    spoil: Callable[["Store"], None],
    arguments: list[str],
    code: int,
    message: str,
    run: Run,
    registry: "Store",
) -> None:
    spoil(registry)
    keys = str(registry.authority.files)
    done = run("promote", *PROMOTE, "--yes", *(each.replace("KEYS", keys) for each in arguments))
    assert done.code == code
    assert message in done.error
    assert done.out == ""
    assert registry.channels.channel("pets", "production") is None


@pytest.mark.parametrize(
    ("command", "arguments", "code", "message"),
    [
        ("show", ["v9"], 3, "has no release 'v9'"),
        ("show", ["pets/production"], 3, "serves nothing yet"),
        ("show", ["birds/production"], 3, "has no model 'birds'"),
        ("show", ["pets"], 2, "Expected a version such as v7, or model/channel"),
        ("show", ["pets/.."], 3, "There is no channel '..'"),
        ("show", ["v1", "--report", "/nowhere/x.html"], 3, "published without a report"),
        (
            "rollback",
            ["pets", "--channel", "candidate", "--yes"],
            3,
            "did not serve anything else before v1",
        ),
        ("rollback", ["pets", "--channel", "candidate", "--to", "x"], 2, "such as v7, got 'x'"),
        ("list", ["--limit", "0"], 2, "expected at least 1"),
        ("gc", ["--keep", "0"], 2, "expected at least 1"),
        ("gc", ["--grace", "soon"], 2, "a period such as 7d, 12h or 30m, got 'soon'"),
        ("copy", ["elsewhere", "--version", "v9"], 3, "lacks v9, which was asked for"),
        ("list", ["--limit", "3", "--all"], 2, "not allowed with"),
    ],
)
def test_a_mistake_is_told_in_one_line(
    command: str, arguments: list[str], code: int, message: str, run: Run
) -> None:
    done = run(command, *arguments)
    assert done.code == code
    assert message in done.error.splitlines()[-1]
    assert done.out == ""


@pytest.mark.parametrize(
    ("variable", "command", "message"),
    [
        ("EDGELINE_ROOT", ["promote", *PROMOTE, "--yes"], "No trusted root: expected --root FILE"),
        ("EDGELINE_ROOT", ["gc"], "No trusted root: expected --root FILE"),
        ("EDGELINE_ROOT", ["copy", "elsewhere"], "No trusted root: expected --root FILE"),
        ("EDGELINE_ROOT", ["refresh"], "No trusted root: expected --root FILE"),
        ("EDGELINE_KEYS", ["promote", *PROMOTE, "--yes"], "No key to sign with: expected --key"),
        ("EDGELINE_KEYS", ["refresh"], "No key to sign with: expected --key"),
    ],
)
def test_what_is_missing_is_named(
    variable: str, command: list[str], message: str, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(variable)
    done = run(*command)
    assert done.code == 2
    assert message in done.error


@pytest.mark.parametrize(
    "command", ["list STORE", "verify STORE", "show STORE v1", "keys list STORE", "refresh STORE"]
)
def test_a_folder_without_a_registry_is_told_so(
    command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["registry", *command.replace("STORE", str(tmp_path)).split()]) == 3
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"edgeline: {tmp_path} is not a model registry")


def test_a_sound_registry_verifies(run: Run) -> None:
    done = run("verify")
    assert done.code == 0
    assert done.out.startswith("Checked 1 releases (0.0 MB), 1 channels and ")
    assert done.out.endswith(" roles: 0 errors, 0 warnings.\n")


def test_what_is_wrong_is_found(run: Run, registry: "Store") -> None:
    _change_a_model(registry)
    done = run("verify")
    assert done.code == 4
    assert re.search("^error +v1 +Blob sha256:.* was changed or damaged", done.out)
    document = run("verify", "--json").document
    assert document["passed"] is False
    assert [each["subject"] for each in document["findings"]] == ["v1"]
    assert (document["releases"], document["channels"]) == (1, 1)


def test_signatures_are_renewed(run: Run, registry: "Store") -> None:
    key = ("--key", registry.authority.files / "online.pem")
    done = run("refresh", *key)
    assert [line.split()[0] for line in done.out.splitlines()] == [
        "SIGNED",
        "snapshot",
        "timestamp",
    ]
    signed = run("refresh", *key, "--json").document["signed"]
    assert {each["role"] for each in signed} == {"snapshot", "timestamp"}
    assert all(each["expires"].startswith("20") for each in signed)


@pytest.fixture
def grown(run: Run, registry: "Store") -> "Store":
    """A registry with v1 to v5, of which v4 is in production and v5 in candidate."""
    for content in (b"second", b"third", b"fourth"):
        publish(registry, content)
    run("promote", *PROMOTE, "--yes")
    publish(registry, b"fifth")
    return registry


def test_what_would_be_removed_is_told_first(run: Run, grown: "Store") -> None:
    before = (grown.path / "index.json").read_bytes()
    done = run("gc", "--keep", "1", "--grace", "0d", "--dry-run")
    assert done.code == 0, done.error
    assert re.search(r"^Would remove \d old sets of metadata \(tuf-1, ", done.out, re.MULTILINE)
    assert (grown.path / "index.json").read_bytes() == before


def test_what_nothing_needs_is_removed(run: Run, grown: "Store") -> None:
    run("rollback", "pets", "--channel", "candidate", "--yes")  # nothing leads back to v5
    publish(grown, b"of another model", model="dogs")
    document = run("gc", "--keep", "1", "--grace", "0d", "--json").document
    assert (document["dry_run"], document["releases"]) == (False, ["v5"])
    assert {"v5", "v5-float32", "v5-int8", "tuf-1"} <= {*document["tags"]}
    assert document["metadata"][0] == "tuf-1"
    assert document["manifests"] > 0
    assert document["bytes"] > 0
    assert run("verify").code == 0
    assert [each["tag"] for each in run("list", "--json").documents] == [
        *("v6", "v4", "v3", "v2", "v1")
    ]
    assert run("gc").out.splitlines() == [
        "Removed no releases.",
        "Removed no old sets of metadata.",
        "Removed 0 manifests and 0 blobs (0.0 MB).",
    ]


def test_a_registry_is_copied(run: Run, grown: "Store", tmp_path: Path) -> None:
    target = tmp_path / "usb"
    done = run("copy", target, "--version", "v1")
    assert done.code == 0, done.error
    assert done.out.startswith("Copied 3 releases (v1, v4, v5); 0 were there already. ")
    assert "the same root is to be trusted" in done.out
    document = run("copy", target, "--json").document
    assert document["copied"] == ["v2", "v3"]
    assert document["present"] == ["v1", "v4", "v5"]
    assert document["metadata"] is None
    done = run("copy", target)
    assert "Copied no releases; 5 were there already. 0 blobs were sent (0.0 MB)." in done.out
    assert "The signed metadata was there already." in done.out
    assert main(["registry", "verify", str(target)]) == 0


def test_expired_signatures_are_told(registry: "Store", capsys: pytest.CaptureFixture[str]) -> None:
    roles = registry.repository().roles()
    note_expired(roles)
    assert capsys.readouterr().err == ""
    past = datetime(2020, 2, 3, tzinfo=timezone.utc)
    note_expired([replace(role, expires=role.expires and past) for role in roles[2:4]])
    assert capsys.readouterr().err.startswith(
        "edgeline: signatures expired, and devices refuse the registry: snapshot on 2020-02-03, "
        "timestamp on 2020-02-03; sign anew"
    )


def test_progress_is_told_only_to_those_who_wait(capsys: pytest.CaptureFixture[str]) -> None:
    clock = iter([0.0, 1.0, 2.5, 3.0, 4.6])
    progress = Progress(clock=lambda: next(clock))
    for step in ("first", "second", "third", "fourth"):
        progress(step)
    assert capsys.readouterr().err == "edgeline: second\nedgeline: fourth\n"


REGISTRY = (
    *("init", "list", "show", "promote", "rollout", "watch-rollout", "rollback", "fleet"),
    *("verify", "refresh", "gc", "copy", "keys"),
)
ROLLOUT = ("status", "advance", "halt")
FLEET = ("init", "enrol", "revoke", "list", "report", "inbox-key", "open")
KEYS = ("create", "import", "public", "list", "add-model", "rotate", "expiry", "sign", "apply")


@pytest.mark.parametrize(
    "command",
    [
        "predict",
        "registry",
        *(f"registry {name}" for name in REGISTRY),
        "enrol",
        *(f"registry rollout {name}" for name in ROLLOUT),
        *(f"registry fleet {name}" for name in FLEET),
        *(f"registry keys {name}" for name in KEYS),
    ],
)
def test_help_shows_examples_and_exit_codes(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        main([*command.split(), "--help"])
    assert end.value.code == 0
    shown = capsys.readouterr().out
    assert "exit codes:" in shown
    examples = _commands(shown.partition("examples:")[2])
    assert any(example.startswith(command) for example in examples)
    for example in examples:
        _parser().parse_args(shlex.split(example))


def _commands(text: str) -> list[str]:
    """The edgeline commands in a page or a help, without what follows them on their line."""
    joined = text.replace("\\\n", " ")
    found = re.findall(r"^[ $]*(?:[A-Z_]+=\S+ )*edgeline (.*)$", joined, re.MULTILINE)
    return [re.split(r" [#|] ?", command)[0] for command in found]


@pytest.mark.parametrize(
    "page", ["docs/registry.md", "docs/registry-trust.md", "docs/fleet.md", "README.md"]
)
def test_every_command_of_a_page_can_be_given(page: str) -> None:
    commands = _commands((Path(__file__).parents[2] / page).read_text())
    assert commands
    for command in commands:
        _parser().parse_args(shlex.split(command))


@pytest.mark.parametrize(
    ("group", "names"),
    [
        ("registry", REGISTRY),
        ("registry rollout", ROLLOUT),
        ("registry fleet", FLEET),
        ("registry keys", KEYS),
    ],
)
def test_the_help_names_every_command(
    group: str, names: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main([*group.split(), "--help"])
    named = re.findall(r"^    ([a-z-]+)(?: |$)", capsys.readouterr().out, re.MULTILINE)
    assert sorted(named) == sorted(names)


@pytest.fixture
def terminal(tmp_path: Path) -> Terminal:
    return Terminal(tmp_path)


@pytest.mark.parametrize(
    ("answer", "code", "text"),
    [
        ("y", 0, "pets/production serves v1 ("),
        ("no", 1, "Nothing was signed; pets/production is as it was."),
        ("", 1, "Nothing was signed"),
    ],
)
def test_a_person_is_asked(
    answer: str, code: int, text: str, terminal: Terminal, registry: "Store"
) -> None:
    asked = [("Sign that pets/production serves v1? [y/N] ", answer)]
    done = terminal.run("registry", "promote", registry.location, *PROMOTE, answers=asked)
    assert done.code == code
    assert re.search(r"^int8 +accuracy +overall +0.9000$", done.out, re.MULTILINE)
    assert text in done.out
