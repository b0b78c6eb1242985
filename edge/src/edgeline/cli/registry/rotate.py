"""`edgeline registry keys rotate`, `sign` and `apply`: exchange keys, alone or with others."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeline.cli.access import required_root
from edgeline.cli.options import add_command, add_json, add_root, at_least
from edgeline.cli.output import answer, note
from edgeline.cli.registry.access import key_to_add, repository, signers
from edgeline.cli.registry.options import add_expires, add_keys, add_signing, add_store, add_yes
from edgeline.cli.registry.output import answer_roles, confirmed, role_json
from edgeline.errors import RegistryError

if TYPE_CHECKING:
    from edgeline.publish.repository import Repository
    from edgeline.publish.root_signing import RootDraft


def add_rotate(commands: Any) -> None:
    parser = add_command(commands, "rotate", _rotate, "change whose keys count for a role")
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
    _add_draft(parser)
    _add_base(parser)
    add_signing(parser)


def add_expiry(commands: Any) -> None:
    parser = add_command(commands, "expiry", _expiry, "have root say how long signatures last")
    add_store(parser)
    add_expires(parser, ("root", "targets", "snapshot", "timestamp"), "as before, at most 365")
    _add_draft(parser)
    _add_base(parser)
    add_signing(parser)


def add_sign(commands: Any) -> None:
    parser = add_command(commands, "sign", _sign, "sign a draft of a new root")
    parser.add_argument("draft", type=Path, metavar="DRAFT", help="that `rotate --draft` wrote")
    add_yes(parser)
    add_root(parser)
    add_keys(parser)
    add_json(parser)


def add_apply(commands: Any) -> None:
    parser = add_command(commands, "apply", _apply, "make a signed draft the registry's root")
    add_store(parser)
    parser.add_argument("draft", type=Path, metavar="DRAFT", help="that enough people signed")
    _add_base(parser)
    add_signing(parser)


def _add_draft(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--draft",
        type=Path,
        metavar="FILE",
        help="write the new root to it if others have to sign it too",
    )


def _add_base(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--base",
        metavar="TAG",
        help="start from older metadata, such as tuf-41, when a stolen online key spoiled the "
        "newest; see docs/registry-trust.md",
    )


def _rotate(options: argparse.Namespace) -> int:
    r"""Change whose keys count for a role: root, targets, online, <model>-ci or <model>-release.
    The first three change the root, which several people may have to sign: then --draft writes
    a file for them. Without a change, what the role signs is signed anew, to last its full time.

    Examples:
    edgeline registry keys rotate registry solar-cells-release --add anna.pub --remove 1f3a09 \
        --root keys/root.json --key keys/targets.pem --key keys/online.pem --key anna.pem
    edgeline registry keys rotate registry root --add anna.pub --threshold 2 --draft draft.json
    edgeline registry keys rotate registry root --draft draft.json  # only to extend its time
    """
    trusted = repository(options)
    draft = trusted.rotate(
        options.role,
        add=[key_to_add(file) for file in options.add],
        remove=_key_ids(options.remove, trusted) if options.remove else (),
        threshold=options.threshold,
        draft=options.draft,
    )
    return _report(trusted, draft, options)


def _expiry(options: argparse.Namespace) -> int:
    r"""Have root say for how many days the signatures of root, targets, snapshot and timestamp
    last. Devices believe nothing that the online key signed for longer. Gives a registry of
    before root said it what it lacks, when no role is named. Needs the root keys and the online
    key.

    Examples:
    edgeline registry keys expiry registry --root keys/root.json --key keys/root-1.pem \
        --key keys/root-2.pem --key keys/online.pem
    edgeline registry keys expiry registry --expires timestamp=7 --draft draft.json
    """
    trusted = repository(options)
    return _report(trusted, trusted.set_expiry(dict(options.expires), draft=options.draft), options)


def _sign(options: argparse.Namespace) -> int:
    """Add your signature to a draft of a new root that somebody handed you. Needs no registry:
    the draft is verified from the root that you trust. Shows what changes, and asks.

    Examples:
    edgeline registry keys sign draft.json --root keys/root.json --key keys/root-2.pem
    edgeline registry keys sign draft.json --root keys/root.json --key keys/root-2.pem --yes --json
    """
    root, keys = required_root(options), signers(options)
    from edgeline.publish.root_signing import RootDraft, sign_draft

    if not options.yes:
        for change in RootDraft.read(options.draft).changes:
            note(change)
    if not confirmed(f"Sign {options.draft}?", yes=options.yes):
        note("nothing was signed")
        return 1
    return _report_draft(sign_draft(options.draft, root=root, signers=keys), options.draft, options)


def _apply(options: argparse.Namespace) -> int:
    """Make a draft that enough people signed the registry's root. Needs the online key, and what
    else the new root asks to be signed.

    Examples:
    edgeline registry keys apply registry draft.json --root keys/root.json --key keys/online.pem
    edgeline registry keys apply oci://registry.example/cells draft.json --json
    """
    trusted = repository(options)
    trusted.apply_draft(options.draft)
    return _report(trusted, None, options)


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


def _report(trusted: "Repository", draft: "RootDraft | None", options: argparse.Namespace) -> int:
    if draft is not None:
        return _report_draft(draft, options.draft, options)
    roles = trusted.roles()
    if not options.json:
        print("Signed and stored. The roles are now:\n")
    document = {"complete": True, "roles": [role_json(role) for role in roles]}
    return answer_roles(options, document, roles)


def _report_draft(draft: "RootDraft", path: Path, options: argparse.Namespace) -> int:
    missing = draft.missing
    if missing:
        then = f"Hand {path} to their holders, who give:"
        command = f"sign {path} --root root.json --key KEY.pem"
    else:
        then = f"{path} is complete. Whoever has the online key gives:"
        command = f"apply STORE {path} --root root.json --key online.pem"
    lines = [*(f"{line}." for line in missing), then, f"  edgeline registry keys {command}"]
    document = {"complete": not missing, "draft": str(path), "missing": missing}
    return answer(options, document, [(line,) for line in lines])
