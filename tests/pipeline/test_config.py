"""The configuration: what is accepted, and how a mistake is told."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from components.settings_text import from_text, to_text
from components.tflite_rewriter.variants import SearchSettings
from pipeline.config import Config, load_config, parse_ingest_config
from pipeline.errors import UserError
from pipeline.training.bases import BASES

MINIMAL = """
name = "cells"
[data]
path = "dataset"
[gate]
min_accuracy = 0.7
"""


def load(tmp_path: Path, text: str = MINIMAL, *overrides: str) -> Config:
    file = tmp_path / "cells.toml"
    file.write_text(text)
    return load_config(file, overrides)


def test_a_minimal_file_gets_the_defaults(tmp_path: Path) -> None:
    config = load(tmp_path)
    assert config.image.height == 150
    assert config.rewriter.variants == ("float32", "float16")
    assert config.gate.split == "test"


MISTAKES = {
    "an unknown key suggests the right one": (
        "[trainer]\nepoch = 3",
        "trainer.epoch: unknown key; did you mean epochs?",
    ),
    "the beginning of a key": (
        "[image]\nheig = 3",
        "image.heig: unknown key; did you mean height?",
    ),
    "the beginning of several keys": (
        "[trainer]\naugment = 3",
        "did you mean augment_views or augment_rotation or augment_shift?",
    ),
    "a key of another section": (
        "epochs = 3",
        "kubeflow; or is it trainer.epochs?",
    ),
    "a table in a number's place": (
        "[trainer]\nepochs = { head = 3, rate = nan }",
        "trainer.epochs: expected a whole number; received { head = 3, rate = nan }",
    ),
    "weights that are neither a word nor a file of weights": (
        '[trainer]\nbase_weights = "imagenett"',
        'a Keras weights file, which ends in .h5; received "imagenett"; did you mean imagenet?',
    ),
    "an unknown section lists the sections": ("[nothing]", "nothing: unknown key; expected one of"),
    "a wrong type": (
        '[trainer]\nepochs = "3"',
        'trainer.epochs: expected a whole number; received "3"',
    ),
    "an impossible value": (
        "[trainer]\nlearning_rate = -1",
        "trainer.learning_rate: expected more than 0; received -1",
    ),
    "a word that is no choice": (
        '[trainer]\nhead = "conv"',
        'trainer.head: expected "pool" or "flatten"; received "conv"',
    ),
    "not a number": (
        "[trainer]\nlearning_rate = nan",
        "trainer.learning_rate: expected a finite number; received nan",
    ),
    "a variant that does not exist": (
        '[rewriter]\nvariants = ["int9"]',
        'received "int9"; did you mean int8?',
    ),
    "a preset that does not exist": (
        '[rewriter]\nvariants = "tiny"',
        'expected a list of variants, or one of "default", "storage" or "speed"; received "tiny"',
    ),
    "a variant in the place of a list": (
        '[rewriter]\nvariants = "int8"',
        'received "int8"; did you mean ["int8"]?',
    ),
    "a part of a variant's name": (
        '[rewriter]\nvariants = ["int4"]',
        'received "int4"; did you mean weight_int4 or dynamic_int4?',
    ),
    "a choice in capitals": (
        '[trainer]\nbase = "ResNet50V2"',
        'received "ResNet50V2"; did you mean resnet50v2?',
    ),
    "a text without quotes": ("[trainer]\nbase = resnet", "; a text is in quotes"),
    "a share in percent": (
        "[ingest]\ntrain = 80",
        "ingest.train: expected at most 1; received 80; did you mean 0.8?",
    ),
    "a registry on the web": (
        '[registry]\nlocation = "https://models.example"',
        'registry.location: expected a directory, or "oci://host[:port]/repository" of a server; '
        'received "https://models.example"',
    ),
    "a variant twice": (
        '[rewriter]\nvariants = ["float16", "float16"]',
        'expected at least one name, each once; received ["float16", "float16"]',
    ),
    "no variant at all": (
        "[rewriter]\nvariants = []",
        "rewriter.variants: expected at least one name, each once; received []",
    ),
    "a channel that takes another key": (
        '[registry]\nchannel = "production"',
        'registry.channel: expected "candidate" or "canary"; received "production"',
    ),
    "a key itself": (
        '[registry]\nkeys = ["-----BEGIN PRIVATE KEY-----MC4CAQAw"]',
        "registry.keys, item 1: expected where the key is, such as a path; received a private key",
    ),
    "a registry's location by its old name": (
        '[registry]\npath = "registry"',
        "registry.path: unknown key; expected one of: location, channel, root",
    ),
    "a value in a section's place": (
        "trainer = 3",
        "trainer: expected a section of settings; received 3",
    ),
    "shares that do not sum to 1": ("[ingest]\ntrain = 0.5", "received 0.5 + 0.1 + 0.1"),
    "nothing to train on": (
        "[ingest]\ntrain = 0\neval = 0.5\ntest = 0.5",
        "train to be above 0",
    ),
    "an image side of nothing": (
        "[ingest]\nmax_side = 0",
        "ingest.max_side: expected at least 1; received 0",
    ),
}


@pytest.mark.parametrize(("text", "message"), MISTAKES.values(), ids=MISTAKES)
def test_a_mistake_is_one_line_that_names_file_key_expected_and_received(
    text: str, message: str, tmp_path: Path
) -> None:
    top_level = text + MINIMAL if "[" not in text else MINIMAL + text
    with pytest.raises(UserError) as caught:
        load(tmp_path, top_level)
    (line,) = str(caught.value).splitlines()
    assert line.startswith(f"{tmp_path / 'cells.toml'}: ")
    assert message in line


def test_the_keys_are_looked_for_beside_the_root_and_named_after_the_model(tmp_path: Path) -> None:
    assert load(tmp_path, f"{MINIMAL}[registry]").key_uris == (
        "keys/online.pem",
        "keys/cells-ci.pem",
    )
    elsewhere = load(tmp_path, MINIMAL, "registry.root=/safe/root.json")
    assert elsewhere.key_uris == ("/safe/online.pem", "/safe/cells-ci.pem")
    given = load(tmp_path, MINIMAL, 'registry.keys=["envvar:CI_KEY"]')
    assert given.key_uris == ("envvar:CI_KEY",)


def test_without_a_registry_there_is_nothing_to_sign_with(tmp_path: Path) -> None:
    config = load(tmp_path)
    assert config.registry is None
    with pytest.raises(UserError, match="registry: missing; expected the section"):
        _ = config.key_uris


def test_where_training_starts_is_a_place_in_its_base(tmp_path: Path) -> None:
    small = MINIMAL + '[trainer]\nbase = "mobilenetv3small"\nfine_tune_from = '
    assert load(tmp_path, f'{small}"expanded_conv_8"').trainer.base == "mobilenetv3small"
    with pytest.raises(UserError, match=r"fine_tune_from: expected .*\"expanded_conv_10\"; rec"):
        load(tmp_path, f'{small}"conv5"')


@pytest.mark.parametrize("base", BASES)
def test_each_base_can_be_set_and_is_in_the_tables(base: str, tmp_path: Path) -> None:
    """Where training starts from, MB, and milliseconds."""
    assert load(tmp_path, f'{MINIMAL}[trainer]\nbase = "{base}"').trainer.base == base
    page = (Path(__file__).parents[2] / "docs" / "training.md").read_text(encoding="utf-8")
    figures = re.findall(rf"^\| `{base}` \|(?: [\d., ]+ \|){{5}}$", page, re.MULTILINE)
    assert [row.count(",") for row in figures] == [0, 10], "five of MB, and of ms at three sizes"


def test_every_mistake_is_told_at_once(tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        load(tmp_path, MINIMAL + "[trainer]\nepochs = -1\nseed = -1")
    assert len(str(caught.value).splitlines()) == 2


TRAINER_MISTAKES = {
    "an unknown block": (
        'fine_tune_from = "conv5_block17"',
        r'trainer\.fine_tune_from: expected "all", a stage .*; received "conv5_block17"; did',
    ),
    "a layer inside a block": (
        'fine_tune_from = "conv5_block16_2_conv"',
        r"trainer\.fine_tune_from: conv5_block16_2_conv is inside conv5_block16, which can only be",
    ),
    "two places to start": (
        'fine_tune_from = "conv5"\nfine_tune_layers = 5',
        r"trainer: expected fine_tune_from or fine_tune_layers, not both",
    ),
    "nothing to do": ("epochs = 0", r"trainer: expected epochs or fine_tune_epochs to be above 0"),
    "a head before its base has learned anything": (
        'base_weights = "random"\nfine_tune_epochs = 3\nfine_tune_from = "all"',
        r'trainer: expected epochs = 0 where all of a "random" base is trained',
    ),
    "a warm-up that never ends": (
        "epochs = 5\nwarmup_epochs = 5",
        r"trainer: expected warmup_epochs below each phase's epochs; received 5 of 5",
    ),
    "an unknown optimizer": ('optimizer = "adagrad"', r'trainer\.optimizer: expected "adam"'),
}


@pytest.mark.parametrize(("settings", "message"), TRAINER_MISTAKES.values(), ids=TRAINER_MISTAKES)
def test_a_recipe_that_cannot_be_is_refused_in_one_line(
    settings: str, message: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=message) as caught:
        load(tmp_path, f"{MINIMAL}[trainer]\n{settings}")
    assert len(str(caught.value).splitlines()) == 1


def test_a_gate_must_be_stated(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"gate\.min_accuracy: missing; expected overall acc"):
        load(tmp_path, MINIMAL.replace("min_accuracy = 0.7", ""))


@pytest.mark.parametrize("name", ["Cells", "solar cells", "-x", "../x", ""])
def test_a_name_that_is_no_tag_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="name: expected"):
        load(tmp_path, MINIMAL.replace("cells", name))


def test_broken_toml_names_the_file_and_the_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"cells\.toml: not valid TOML: .*line 1"):
        load(tmp_path, "name = \nx")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="can't be read: No such file"):
        load_config(tmp_path / "nothing.toml")


OVERRIDES = {
    "a number": ("trainer.epochs=3", lambda config: config.trainer.epochs, 3),
    "a bare word": ("trainer.head=flatten", lambda config: config.trainer.head, "flatten"),
    "a quoted word": ('trainer.head="flatten"', lambda config: config.trainer.head, "flatten"),
    "an array": ('rewriter.variants=["float16"]', lambda c: c.rewriter.variants, ("float16",)),
    "a key in a table": (
        "gate.min_slice_accuracy.cell_type=0.5",
        lambda config: config.gate.min_slice_accuracy,
        {"cell_type": 0.5},
    ),
    "a preset": ("rewriter.variants=speed", lambda c: c.rewriter.variants, ("float16", "int8")),
    "a path": ("registry.root=a b/c", lambda config: config.registry.root, Path("a b/c")),
}


@pytest.mark.parametrize(("override", "read", "value"), OVERRIDES.values(), ids=OVERRIDES)
def test_an_override_takes(override: str, read: object, value: object, tmp_path: Path) -> None:
    assert callable(read)
    assert read(load(tmp_path, MINIMAL, override)) == value


def test_a_variant_s_old_name_is_its_new_one_and_a_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = MINIMAL + 'require = ["int8_selective"]\n[rewriter]\nvariants = ["int8_selective"]\n'
    config = load(tmp_path, text)
    assert config.rewriter.variants == config.gate.require == ("mixed",)
    line = 'the variant "int8_selective" is deprecated: write "mixed", which replaces it\n'
    assert capsys.readouterr().err == 2 * line
    assert load(tmp_path, text.replace("int8_selective", "mixed")) == config
    assert capsys.readouterr().err == ""


def test_a_search_is_asked_for_by_the_variant_alone(tmp_path: Path) -> None:
    assert load(tmp_path).search is None
    config = load(tmp_path, MINIMAL, 'rewriter.variants=["mixed"]', "gate.max_size_mb=5")
    assert config.search == SearchSettings("smallest", 0.01, 5.0, trials=40, minutes=15.0)
    assert from_text(SearchSettings, to_text(config.search)) == config.search


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("trainer.epochs", "expected KEY=VALUE"),
        ("=3", "expected KEY=VALUE"),
        ("name.x=3", "name is a value, not a section"),
        ("trainer.epochs=three", 'expected a whole number; received "three"'),
    ],
)
def test_an_override_that_cannot_be_is_refused(override: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message):
        load(tmp_path, MINIMAL, override)


def test_ingest_settings_need_no_file() -> None:
    assert parse_ingest_config(None, ["ingest.max_side=64"]).max_side == 64
    with pytest.raises(UserError, match="did you mean max_side"):
        parse_ingest_config(None, ["ingest.max_sid=64"])
    with pytest.raises(UserError, match="without --config only ingest"):
        parse_ingest_config(None, ["trainer.epochs=3"])


@pytest.mark.parametrize("file", sorted(Path("configs").glob("*.toml")), ids=str)
def test_every_ready_made_file_is_valid(file: Path) -> None:
    load_config(file)


COMMANDS = {
    "no command": ([], 2, "usage:"),
    "no configuration": (["run"], 2, "--config"),
    "a missing configuration": (["run", "--config", "none.toml"], 2, "none.toml: can't be read"),
    "a dataset that was not ingested": (
        ["run", "--config", "cells.toml"],
        2,
        "dataset is not an ingested dataset",
    ),
    "photos that don't exist": (["ingest", "nothing", "out"], 2, "nothing"),
}


@pytest.mark.parametrize(("arguments", "code", "message"), COMMANDS.values(), ids=COMMANDS)
def test_a_users_mistake_has_an_exit_code_and_no_stack_trace(
    arguments: list[str], code: int, message: str, tmp_path: Path
) -> None:
    (tmp_path / "cells.toml").write_text(MINIMAL)
    done = subprocess.run(
        [sys.executable, "-m", "pipeline", *arguments],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == code
    assert message in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("name", [[], ["ingest"], ["run"]])
def test_help_comes_without_loading_tensorflow(name: list[str]) -> None:
    code = (
        "import sys\nfrom pipeline.__main__ import main\n"
        f"try:\n    main({[*name, '--help']})\nexcept SystemExit as leaving:\n"
        "    assert leaving.code == 0\n"
        "assert not {'tensorflow', 'tfx', 'apache_beam'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "python -m pipeline" in done.stdout
