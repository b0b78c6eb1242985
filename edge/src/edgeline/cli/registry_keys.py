"""`edgeline registry keys`: make keys, and decide whose keys count."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeline.cli.access import (
    existing_store,
    repository,
    repository_to_read,
    require_publishing,
    required_root,
    signers,
)
from edgeline.cli.options import (
    add_command,
    add_connection,
    add_group,
    add_json,
    add_keys,
    add_root,
    add_store,
    add_yes,
    at_least,
)
from edgeline.cli.output import confirmed, day, note, note_expired, print_json, print_table
from edgeline.cli.registry_init import add_no_passphrase, new_passphrase
from edgeline.errors import RegistryError

if TYPE_CHECKING:
    from securesystemslib.signer import Key

    from edgeline.publish.metadata import RoleStatus
    from edgeline.publish.repository import Repository
    from edgeline.publish.root_signing import RootDraft

_SHORT = 12  # digits of a key's id that tables show


def add_key_commands(group: Any) -> None:
    """Add `keys` and its commands to the parser."""
    commands = add_group(
        group,
        "keys",
        summary="make keys, and decide whose keys count",
        description="Make keys, and decide whose keys count in a registry. A key is an Ed25519 key "
        "in a PEM\nfile, with its public half beside it in a file *.pub, to be handed on.",
        examples="""\
  edgeline registry keys create keys/anna.pem
  edgeline registry keys list registry --root keys/root.json
  edgeline registry keys rotate registry solar-cells-release --add anna.pub --remove 1f3a09
""",
    )
    _add_create(commands)
    _add_public(commands)
    _add_list(commands)
    _add_add_model(commands)
    _add_rotate(commands)
    _add_sign(commands)
    _add_apply(commands)


def _add_create(commands: Any) -> None:
    parser = add_command(
        commands,
        "create",
        run=_create,
        summary="make a key",
        description="Make a key: FILE, which signs, and beside it *.pub, which is to be handed on.",
        examples="""\
  edgeline registry keys create keys/anna.pem
  EDGELINE_PASSPHRASE=... edgeline registry keys create keys/online-2.pem --json
""",
    )
    parser.add_argument("file", type=Path, metavar="FILE", help="to write, named *.pem")
    add_no_passphrase(parser)
    add_json(parser)


def _add_public(commands: Any) -> None:
    parser = add_command(
        commands,
        "public",
        run=_public,
        summary="show the public halves of keys",
        description="Show the id and the public half of keys.",
        examples="""\
  edgeline registry keys public keys/anna.pem
  edgeline registry keys public keys/*.pub --json | jq .key_id
""",
    )
    parser.add_argument("files", type=Path, nargs="+", metavar="FILE", help="*.pub or *.pem")
    add_json(parser, "a line of JSON per key")


def _add_list(commands: Any) -> None:
    parser = add_command(
        commands,
        "list",
        run=_list,
        summary="list roles, their keys, and when they expire",
        description="List who signs what in a registry, and until when the signatures hold.",
        examples="""\
  edgeline registry keys list registry --root keys/root.json
  edgeline registry keys list registry --json | jq 'select(.role == "timestamp").expires'
""",
    )
    add_store(parser)
    add_root(parser)
    add_json(parser, "a line of JSON per role")
    add_connection(parser)


def _add_add_model(commands: Any) -> None:
    parser = add_command(
        commands,
        "add-model",
        run=_add_model,
        summary="let keys sign for another model",
        description="Let two keys sign for another model. Needs the targets key and the online key "
        "to sign.",
        examples="""\
  edgeline registry keys create keys/panels-ci.pem
  edgeline registry keys create keys/panels-release.pem
  edgeline registry keys add-model registry panels --root keys/root.json \\
      --ci-key keys/panels-ci.pub --release-key keys/panels-release.pub \\
      --key keys/targets.pem --key keys/online.pem
""",
    )
    add_store(parser)
    parser.add_argument("model", metavar="MODEL", help="the model's name")
    for option, what in (("--ci-key", "candidate and canary"), ("--release-key", "production")):
        parser.add_argument(
            option, type=Path, required=True, metavar="FILE", help=f"(*.pub) that signs {what}"
        )
    _add_signing(parser)


def _add_rotate(commands: Any) -> None:
    parser = add_command(
        commands,
        "rotate",
        run=_rotate,
        summary="change whose keys count for a role",
        description="Change whose keys count for a role: root, targets, online, <model>-ci or "
        "<model>-release.\nThe first three change the root, which several people may have to sign: "
        "then --draft writes\na file for them. Without a change, what the role signs is signed "
        "anew, to last its full time.",
        examples="""\
  edgeline registry keys rotate registry solar-cells-release --add anna.pub --remove 1f3a09 \\
      --root keys/root.json --key keys/targets.pem --key keys/online.pem --key anna.pem
  edgeline registry keys rotate registry root --add anna.pub --threshold 2 --draft draft.json
  edgeline registry keys rotate registry root --draft draft.json  # only to extend its time
""",
    )
    add_store(parser)
    parser.add_argument("role", metavar="ROLE", help="such as online or solar-cells-release")
    parser.add_argument(
        "--add",
        action="append",
        type=Path,
        default=[],
        metavar="FILE",
        help="a key (*.pub) that shall count; repeatable",
    )
    parser.add_argument(
        "--remove",
        action="append",
        default=[],
        metavar="KEY-ID",
        help="a key that shall not, by its id or the start of it; repeatable",
    )
    parser.add_argument(
        "--threshold", type=at_least(1), metavar="N", help="how many of the keys have to sign"
    )
    parser.add_argument(
        "--draft",
        type=Path,
        metavar="FILE",
        help="write the new root to it if others have to sign it too",
    )
    _add_base(parser)
    _add_signing(parser)


def _add_sign(commands: Any) -> None:
    parser = add_command(
        commands,
        "sign",
        run=_sign,
        summary="sign a draft of a new root",
        description="Add your signature to a draft of a new root that somebody handed you. Needs "
        "no registry:\nthe draft is verified from the root that you trust. Shows what changes, and "
        "asks.",
        examples="""\
  edgeline registry keys sign draft.json --root keys/root.json --key keys/root-2.pem
  edgeline registry keys sign draft.json --root keys/root.json --key keys/root-2.pem --yes --json
""",
    )
    parser.add_argument("draft", type=Path, metavar="DRAFT", help="that `rotate --draft` wrote")
    add_yes(parser)
    add_root(parser)
    add_keys(parser)
    add_json(parser)


def _add_apply(commands: Any) -> None:
    parser = add_command(
        commands,
        "apply",
        run=_apply,
        summary="make a signed draft the registry's root",
        description="Make a draft that enough people signed the registry's root. Needs the online "
        "key, and what\nelse the new root asks to be signed.",
        examples="""\
  edgeline registry keys apply registry draft.json --root keys/root.json --key keys/online.pem
  edgeline registry keys apply oci://registry.example/cells draft.json --json
""",
    )
    add_store(parser)
    parser.add_argument("draft", type=Path, metavar="DRAFT", help="that enough people signed")
    _add_base(parser)
    _add_signing(parser)


def _add_base(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--base",
        metavar="TAG",
        help="start from older metadata, such as tuf-41, when a stolen online key spoiled the "
        "newest; see docs/registry-trust.md",
    )


def _add_signing(parser: argparse.ArgumentParser) -> None:
    add_root(parser)
    add_keys(parser)
    add_json(parser)
    add_connection(parser)


def _create(options: argparse.Namespace) -> int:
    require_publishing()
    from edgeline.publish.keys import generate_key

    key = generate_key(options.file, new_passphrase(options))
    public = options.file.with_suffix(".pub")
    if options.json:
        print_json({"file": str(options.file), "public_file": str(public), "key_id": key.keyid})
    else:
        print(f"{options.file} signs as key {key.keyid}; hand on {public}.")
    return 0


def _public(options: argparse.Namespace) -> int:
    keys = [(file, _read_key(file)) for file in options.files]
    if options.json:
        for file, key in keys:
            print_json(
                {
                    "file": str(file),
                    "key_id": key.keyid,
                    "scheme": key.scheme,
                    "public": key.keyval["public"],
                }
            )
    else:
        rows = [(str(file), key.keyid, key.keyval["public"]) for file, key in keys]
        print_table([("FILE", "KEY ID", "PUBLIC"), *rows])
    return 0


def _list(options: argparse.Namespace) -> int:
    store = existing_store(options)
    roles = repository_to_read(options, store).roles()
    note_expired(roles)
    if options.json:
        for role in roles:
            print_json(_role_json(role))
    else:
        _print_roles(roles)
    return 0


def _print_roles(roles: Sequence["RoleStatus"]) -> None:
    """Print roles as a table."""
    header = ("ROLE", "KEYS", "NEEDED", "VERSION", "EXPIRES")
    print_table([header, *map(_role_row, roles)], right=(2, 3))


def _role_row(role: "RoleStatus") -> tuple[str, ...]:
    keys = ", ".join(key.keyid[:_SHORT] for key in role.keys)
    signed = str(role.version) if role.version else "-"
    return role.name, keys, str(role.threshold), signed, day(role.expires)


def _role_json(role: "RoleStatus") -> dict[str, Any]:
    return {
        "role": role.name,
        "version": role.version,
        "threshold": role.threshold,
        "keys": [key.keyid for key in role.keys],
        "expires": role.expires.isoformat() if role.expires else None,
    }


def _add_model(options: argparse.Namespace) -> int:
    store = existing_store(options)
    trusted = repository(options, store)
    from edgeline.publish.repository import ModelKeys

    keys = ModelKeys(ci=_read_key(options.ci_key), release=_read_key(options.release_key))
    trusted.add_model(options.model, keys)
    if options.json:
        print_json(
            {"model": options.model, "ci": keys.ci.keyid, "release": keys.release.keyid},
        )
    else:
        print(
            f"{options.ci_key} signs {options.model}/candidate and canary now, "
            f"{options.release_key} signs {options.model}/production."
        )
    return 0


def _rotate(options: argparse.Namespace) -> int:
    trusted = _repository_from(options)
    draft = trusted.rotate(
        options.role,
        add=[_read_key(file) for file in options.add],
        remove=_key_ids(options.remove, trusted) if options.remove else (),
        threshold=options.threshold,
        draft=options.draft,
    )
    if draft is None:
        _report_roles(trusted.roles(), options)
    else:
        _report_draft(draft, options.draft, options)
    return 0


def _sign(options: argparse.Namespace) -> int:
    root, keys = required_root(options), signers(options)
    from edgeline.publish.root_signing import RootDraft, sign_draft

    if not options.yes:
        for change in RootDraft.read(options.draft).changes:
            note(change)
    if not confirmed(f"Sign {options.draft}?", yes=options.yes):
        note("nothing was signed")
        return 1
    _report_draft(sign_draft(options.draft, root=root, signers=keys), options.draft, options)
    return 0


def _apply(options: argparse.Namespace) -> int:
    trusted = _repository_from(options)
    trusted.apply_draft(options.draft)
    _report_roles(trusted.roles(), options)
    return 0


def _repository_from(options: argparse.Namespace) -> "Repository":
    """Return the metadata to change keys in: the newest, or what --base names."""
    store = existing_store(options)
    require_publishing()
    from edgeline.publish.repository import Repository
    from edgeline.registry.format import TUF_TAG

    root, keys = required_root(options), signers(options)
    return Repository(store, root=root, signers=keys, base=options.base or TUF_TAG)


def _read_key(file: Path) -> "Key":
    require_publishing()
    from edgeline.publish.keys import read_public_key

    return read_public_key(file)


def _key_ids(given: Sequence[str], trusted: "Repository") -> list[str]:
    """Return the whole ids of keys that are given by the start of theirs."""
    known = {key.keyid for role in trusted.roles() for key in role.keys}
    found = []
    for start in given:
        matching = [key_id for key_id in known if key_id.startswith(start)]
        if len(matching) != 1:
            raise RegistryError(
                f"{len(matching)} of the registry's keys have an id that starts with {start!r}; "
                "expected one. See `edgeline registry keys list`"
            )
        found += matching
    return found


def _report_roles(roles: list["RoleStatus"], options: argparse.Namespace) -> None:
    if options.json:
        print_json({"complete": True, "roles": [_role_json(role) for role in roles]})
    else:
        print("Signed and stored. The roles are now:\n")
        _print_roles(roles)


def _report_draft(draft: "RootDraft", path: Path, options: argparse.Namespace) -> None:
    if options.json:
        missing = draft.missing
        print_json({"complete": not missing, "draft": str(path), "missing": missing})
        return
    for line in draft.missing:
        print(f"{line}.")
    if draft.missing:
        print(
            f"Hand {path} to their holders, who give:\n"
            f"  edgeline registry keys sign {path} --root root.json --key KEY.pem"
        )
    else:
        print(
            f"{path} is complete. Whoever has the online key gives:\n"
            f"  edgeline registry keys apply STORE {path} --root root.json --key online.pem"
        )
