"""`edgeline registry init`: make the keys of a registry, and start it."""

import argparse
import getpass
import os
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeline._files import create_whole
from edgeline.cli.options import add_command, add_connection, add_json, at_least
from edgeline.cli.output import UsageError, note, print_json, print_table
from edgeline.cli.registry.access import first_root, store_to_write
from edgeline.cli.registry.options import add_expires, add_store
from edgeline.errors import NotFoundError, RegistryError
from edgeline.registry.format import signing_roles

if TYPE_CHECKING:
    from securesystemslib.signer import Key

    from edgeline.publish.keys import Signers
    from edgeline.publish.store import WriteStore

_ROLES = ("root", "targets", "delegated", "snapshot", "timestamp")


def add_init(group: Any) -> None:
    parser = add_command(group, "init", _init, "make keys and start a registry")
    add_store(parser)
    parser.add_argument(
        "--model",
        action="append",
        required=True,
        dest="models",
        metavar="NAME",
        help="a model that the registry will hold; repeatable, and more can be added later",
    )
    parser.add_argument(
        "--keys",
        type=Path,
        required=True,
        dest="folder",
        metavar="DIR",
        help="where to write the keys and root.json",
    )
    parser.add_argument(
        "--root-keys", type=at_least(1), default=2, metavar="N", help="to make, default: 2"
    )
    parser.add_argument(
        "--root-threshold",
        type=at_least(1),
        default=2,
        metavar="N",
        help="how many of them must sign a new root, default: 2",
    )
    add_no_passphrase(parser)
    add_expires(parser, _ROLES, "365, of snapshot and timestamp 30")
    add_json(parser)
    add_connection(parser)


def add_no_passphrase(parser: argparse.ArgumentParser) -> None:
    """Add the option to leave key files unencrypted."""
    parser.add_argument(
        "--no-passphrase",
        action="store_true",
        help="leave the key files unencrypted; otherwise the passphrase is asked for, or taken "
        "from $EDGELINE_PASSPHRASE",
    )


def new_passphrase(options: argparse.Namespace) -> str | None:
    """Return the passphrase for new keys: of the environment, or asked twice.

    Raises:
        UsageError: there is none, or the two differ.
    """
    from edgeline.key_files import PASSPHRASE_VARIABLE

    if options.no_passphrase:
        return None
    given = os.environ.get(PASSPHRASE_VARIABLE)
    if given:
        return given
    if not sys.stdin.isatty():
        raise UsageError(
            f"New keys need a passphrase: set {PASSPHRASE_VARIABLE}, run this on a terminal to be "
            "asked, or leave the keys unencrypted with --no-passphrase"
        )
    passphrase = getpass.getpass("Passphrase for the new keys: ")
    if not passphrase:
        raise UsageError("The passphrase is empty; --no-passphrase leaves keys unencrypted")
    if getpass.getpass("The same once more: ") != passphrase:
        raise UsageError("The two passphrases differ; nothing was made")
    return passphrase


def make_key(file: Path, passphrase: str | None) -> "Key":
    """Make a key, or take up the one that an earlier, interrupted run has made."""
    from edgeline.key_files import generate_key
    from edgeline.publish.keys import Signers

    if not file.exists():
        return generate_key(file, passphrase)
    note(f"{file} is there already, and is used")
    (key,) = Signers.load([str(file)], lambda _: passphrase).public_keys
    return key


@dataclass(frozen=True)
class _KeyFile:
    """A key that was made, and what its holder can do."""

    name: str
    file: Path
    signs: str
    keep: str


def _init(options: argparse.Namespace) -> int:
    r"""Make the keys and the trusted root of a registry, and initialize the store.
    Nothing is overwritten. After a crash, the same command goes on where it stopped.

    Examples:
    edgeline registry init registry --model solar-cells --keys keys
    edgeline registry init oci://registry.example/cells --model solar-cells --model panels \
        --keys keys --root-keys 3 --root-threshold 2 --expires timestamp=7
    edgeline registry init demo --model pets --keys demo-keys --no-passphrase  # throwaway keys
    """
    from edgeline.publish.keys import Signers
    from edgeline.registry.format import check_model

    models = list(dict.fromkeys(map(check_model, options.models)))
    if options.root_threshold > options.root_keys:
        raise UsageError(
            f"--root-threshold is {options.root_threshold}, with {options.root_keys} root keys; "
            "expected at most as many as there are keys"
        )
    root_file: Path = options.folder / "root.json"
    if root_file.exists():
        raise RegistryError(
            f"{root_file} exists: a registry was initialized with these keys. Name another folder, "
            "or add models to that registry with `edgeline registry keys add-model`"
        )
    store = store_to_write(options, options.store)
    files = list(_key_files(options.folder, models, options.root_keys, options.root_threshold))
    present = _present_root(store)
    if present and not all(each.file.exists() for each in files):
        raise _taken(store)
    passphrase = new_passphrase(options)
    keys = {each.name: make_key(each.file, passphrase) for each in files}
    signers = Signers.load([str(each.file) for each in files], lambda _: passphrase)
    if present:
        _check_ours(store, present, keys)
    root = present or _initialize(store, options, models, keys, signers)
    _create(root_file, root)
    if options.json:
        print_json(
            {
                "store": options.store,
                "root": str(root_file),
                "keys": [
                    {"name": each.name, "file": str(each.file), "key_id": keys[each.name].keyid}
                    for each in files
                ],
            }
        )
    else:
        _explain(options.store, root_file, files, models[0], encrypted=passphrase is not None)
    return 0


def _key_files(folder: Path, models: list[str], roots: int, threshold: int) -> Iterator[_KeyFile]:
    def key(name: str, signs: str, keep: str) -> _KeyFile:
        return _KeyFile(name, folder / f"{name}.pem", signs, keep)

    for number in range(1, roots + 1):
        yield key(
            f"root-{number}",
            f"whose keys count ({threshold} of {roots} needed)",
            "offline, each with another person",
        )
    yield key("targets", "which models there are, and whose they are", "offline")
    yield key("online", "that all of it is fresh", "with each of those below, and for `refresh`")
    for model in models:
        ci, release = signing_roles(model)
        yield key(ci, f"{model}/candidate and {model}/canary", "with the pipeline")
        yield key(release, f"{model}/production", "with whoever promotes, away from the pipeline")


def _present_root(store: "WriteStore") -> bytes | None:
    """Return the root of a store that is a registry already, as after an interrupted run."""
    try:
        return first_root(store)
    except NotFoundError:
        return None


def _initialize(
    store: "WriteStore",
    options: argparse.Namespace,
    models: list[str],
    keys: Mapping[str, "Key"],
    signers: "Signers",
) -> bytes:
    from edgeline.publish.repository import Expiry, Keys, ModelKeys, initialize

    named = Keys(
        root=tuple(keys[f"root-{number}"] for number in range(1, options.root_keys + 1)),
        root_threshold=options.root_threshold,
        targets=keys["targets"],
        online=keys["online"],
        models={
            model: ModelKeys(*(keys[name] for name in signing_roles(model))) for model in models
        },
    )
    return initialize(store, named, signers, Expiry(**dict(options.expires)))


def _check_ours(store: "WriteStore", root: bytes, keys: Mapping[str, "Key"]) -> None:
    """Check that a store that is a registry already was initialized with these very keys."""
    from edgeline.publish.keys import Signers
    from edgeline.publish.repository import Repository

    roles = Repository(store, root=root, signers=Signers()).roles()
    if {key.keyid for role in roles for key in role.keys} != {key.keyid for key in keys.values()}:
        raise _taken(store)


def _taken(store: "WriteStore") -> RegistryError:
    return RegistryError(
        f"{store.location} is a registry already, with other keys. Name another store, or add "
        "models to it with `edgeline registry keys add-model`"
    )


def _create(path: Path, content: bytes) -> None:
    try:
        create_whole(path, content)
    except OSError as error:
        raise RegistryError(
            f"The registry is initialized, but {path} cannot be written: {error.strerror}. Mend "
            "that, and give the same command again"
        ) from None


def _explain(store: str, root: Path, files: list[_KeyFile], model: str, *, encrypted: bool) -> None:
    print(f"{store} is a registry now. Its keys, and what to keep where:\n")
    rows = [(str(each.file), each.signs, each.keep) for each in files]
    trusted = (str(root), "(no key: what devices trust the registry by)", "on devices and laptops")
    print_table([("FILE", "SIGNS", "KEEP IT"), *rows, trusted])
    if not encrypted:
        print("\nThe keys are not encrypted: whoever reads the files can sign.")
    ci, release = signing_roles(model)
    folder = root.parent
    print(
        f"""
Back up the keys before anything else. Then, for one, with the pipeline:
  export EDGELINE_ROOT={root} EDGELINE_KEYS="{folder / ci}.pem {folder / "online"}.pem"
and where releases are promoted:
  edgeline registry promote {store} {model} --from candidate --to production \\
      --root {root} --key {folder / release}.pem --key {folder / "online"}.pem
and every day:
  edgeline registry refresh {store} --root {root} --key {folder / "online"}.pem"""
    )
