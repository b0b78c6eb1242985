"""`edgeline registry keys`: make keys, and decide whose keys count."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeline.cli.options import add_command, add_group, add_json
from edgeline.cli.output import answer
from edgeline.cli.registry.access import (
    key_to_add,
    public_key,
    repository,
    repository_to_read,
)
from edgeline.cli.registry.init import add_no_passphrase, new_passphrase
from edgeline.cli.registry.options import add_model, add_reading, add_signing, add_store
from edgeline.cli.registry.output import answer_roles, note_expired, role_json
from edgeline.cli.registry.rotate import add_apply, add_expiry, add_rotate, add_sign

if TYPE_CHECKING:
    pass


def add_key_commands(group: Any) -> None:
    add_group(group, "keys", _add_commands, "make keys, and decide whose keys count")


def _add_commands(commands: Any) -> None:
    """Make keys, and decide whose keys count in a registry. A key is an Ed25519 key in a PEM file,
    with its public half beside it in a file *.pub, to be handed on; or it is in an HSM or a
    KMS, ECDSA P-256 or Ed25519, with its public half in such a file.

    Examples:
    edgeline registry keys create keys/anna.pem
    edgeline registry keys list registry --root keys/root.json
    edgeline registry keys rotate registry solar-cells-release --add anna.pub --remove 1f3a09
    """
    _add_create(commands)
    _add_public(commands)
    _add_import(commands)
    _add_list(commands)
    _add_add_model(commands)
    add_rotate(commands)
    add_expiry(commands)
    add_sign(commands)
    add_apply(commands)


def _add_create(commands: Any) -> None:
    parser = add_command(commands, "create", _create, "make a key")
    parser.add_argument("file", type=Path, metavar="FILE", help="to write, named *.pem")
    add_no_passphrase(parser)
    add_json(parser)


def _add_public(commands: Any) -> None:
    parser = add_command(commands, "public", _public, "show the public halves of keys")
    parser.add_argument("files", type=Path, nargs="+", metavar="FILE", help="*.pub or *.pem")
    add_json(parser, "a line of JSON per key")


def _add_import(commands: Any) -> None:
    parser = add_command(
        commands, "import", _import, "fetch the public half of a key in an HSM or a KMS"
    )
    parser.add_argument(
        "uri",
        metavar="URI",
        help="hsm:[KEY ID][?label=TOKEN], KEY ID as a number; hv:NAME; or awskms:ID, ARN or alias",
    )
    parser.add_argument("file", type=Path, metavar="FILE", help="to write, named *.pub")
    add_json(parser)


def _add_list(commands: Any) -> None:
    parser = add_command(commands, "list", _list, "list roles, their keys, and when they expire")
    add_store(parser)
    add_reading(parser, "a line of JSON per role")


def _add_add_model(commands: Any) -> None:
    parser = add_command(commands, "add-model", _add_model, "let keys sign for another model")
    add_model(parser)
    for option, what in (("--ci-key", "candidate and canary"), ("--release-key", "production")):
        parser.add_argument(
            option, type=Path, required=True, metavar="FILE", help=f"(*.pub) that signs {what}"
        )
    add_signing(parser)


def _create(options: argparse.Namespace) -> int:
    """Make a key: FILE, which signs, and beside it *.pub, which is to be handed on.

    Examples:
    edgeline registry keys create keys/anna.pem
    EDGELINE_PASSPHRASE=... edgeline registry keys create keys/online-2.pem --json
    """
    from edgeline.key_files import generate_key

    key = generate_key(options.file, new_passphrase(options))
    public = options.file.with_suffix(".pub")
    document = {"file": str(options.file), "public_file": str(public), "key_id": key.keyid}
    return answer(options, document, f"{options.file} signs as key {key.keyid}; hand on {public}.")


def _public(options: argparse.Namespace) -> int:
    """Show the id and the public half of keys.

    Examples:
    edgeline registry keys public keys/anna.pem
    edgeline registry keys public keys/*.pub --json | jq .key_id
    """
    keys = [(file, public_key(file)) for file in options.files]
    names = ("file", "key_id", "scheme", "public")
    known = [(str(file), key.keyid, key.scheme, key.keyval["public"]) for file, key in keys]
    documents = (dict(zip(names, each, strict=True)) for each in known)
    rows = [(*each[:3], _one_line(each[3])) for each in known]
    return answer(options, documents, [("FILE", "KEY ID", "KIND", "PUBLIC"), *rows])


def _one_line(public: str) -> str:
    """Return a public key in hex, or what stands between the first and the last line of PEM."""
    return "".join(public.split("-----")[2].split()) if "-----" in public else public


def _import(options: argparse.Namespace) -> int:
    """Fetch the public half of a key that never leaves where it is, and say what to sign with:
    an ECDSA P-256 key in an HSM, a YubiKey or SoftHSM, by PKCS#11 (PYKCS11LIB names the HSM's
    library; the PIN comes from EDGELINE_PIN or is asked for), an Ed25519 key in Vault's transit
    engine (VAULT_ADDR, VAULT_TOKEN), or an ECDSA P-256 key in AWS KMS (AWS_DEFAULT_REGION and
    credentials). Needs 'edgeline-registry[hsm]', 'edgeline-registry[vault]' or
    'edgeline-registry[awskms]'.

    Examples:
    export PYKCS11LIB=/usr/lib/x86_64-linux-gnu/libykcs11.so
    edgeline registry keys import hsm:2 keys/anna.pub
    edgeline registry keys import 'hsm:7?label=edgeline' keys/release.pub --json | jq -r .key
    edgeline registry keys import hv:release keys/release.pub
    edgeline registry keys import awskms:alias/release keys/release.pub
    """
    from edgeline.publish.held_keys import import_key

    address, key = import_key(options.uri, options.file)
    uri = f"{key.keyid}={address}"
    document = {"public_file": str(options.file), "key_id": key.keyid, "key": uri}
    lines = [(f"{options.file} is the public half; sign with",), (f"  --key '{uri}'",)]
    return answer(options, document, lines)


def _list(options: argparse.Namespace) -> int:
    """List who signs what in a registry, and until when the signatures hold.

    Examples:
    edgeline registry keys list registry --root keys/root.json
    edgeline registry keys list registry --json | jq 'select(.role == "timestamp").expires'
    """
    roles = repository_to_read(options).roles()
    note_expired(roles)
    return answer_roles(options, map(role_json, roles), roles)


def _add_model(options: argparse.Namespace) -> int:
    r"""Let two keys sign for another model. Needs the targets key and the online key to sign.

    Examples:
    edgeline registry keys create keys/panels-ci.pem
    edgeline registry keys create keys/panels-release.pem
    edgeline registry keys add-model registry panels --root keys/root.json \
        --ci-key keys/panels-ci.pub --release-key keys/panels-release.pub \
        --key keys/targets.pem --key keys/online.pem
    """
    trusted = repository(options)
    from edgeline.publish.repository import ModelKeys

    keys = ModelKeys(ci=key_to_add(options.ci_key), release=key_to_add(options.release_key))
    trusted.add_model(options.model, keys)
    return answer(
        options,
        {"model": options.model, "ci": keys.ci.keyid, "release": keys.release.keyid},
        f"{options.ci_key} signs {options.model}/candidate and canary now, "
        f"{options.release_key} signs {options.model}/production.",
    )
