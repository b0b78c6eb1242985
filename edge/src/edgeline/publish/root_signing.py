"""A new root that several people sign, each with a key of their own, on machines of their own.

    draft = RootDraft.read(Path("root-draft.json"))
    print(*draft.changes, sep="\n")           # what the signature will be under
    sign_draft(Path("root-draft.json"), root=pinned, signers=signers)

The draft is a file that is handed around, in any order, until `draft.missing` is empty. It carries
the chain of roots up to the one that it replaces, so that every signer can check, from the root
that they trust and without the registry, what they are asked to sign.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tuf.api.metadata import Metadata, Root, VerificationResult

from edgeline._files import read_bounded, write_named
from edgeline._json import parse_object
from edgeline._text import one_line
from edgeline.errors import RegistryError
from edgeline.key_files import short
from edgeline.publish.keys import Signers
from edgeline.publish.signatures import ROOT, add_signatures, parse, verify_root_chain
from edgeline.registry.bundle import expiry_days

_FORMAT = "edgeline-root-draft"
_MAX_DRAFT = 16 << 20  # bytes


@dataclass(frozen=True)
class RootDraft:
    """A root that is to follow the last one of `roots`, with the signatures it has so far."""

    roots: tuple[Metadata[Root], ...]
    proposed: Metadata[Root]

    @property
    def previous(self) -> Root:
        """The root to be replaced."""
        return self.roots[-1].signed

    @property
    def changes(self) -> list[str]:
        """What the new root changes, a line for each, for people."""
        old, new = self.previous, self.proposed.signed
        lines = [f"root becomes version {new.version}, and expires {new.expires:%Y-%m-%d}"]
        for name in sorted(new.roles):
            before, after = old.roles[name], new.roles[name]
            lines += [f"{name} loses key {key}" for key in before.keyids if key not in after.keyids]
            lines += [f"{name} gains key {key}" for key in after.keyids if key not in before.keyids]
            if before.threshold != after.threshold:
                lines.append(f"{name} needs {after.threshold} signatures, not {before.threshold}")
            lasts, lasted = (expiry_days(role.unrecognized_fields) for role in (after, before))
            if lasts != lasted:
                lines.append(f"{name} lasts {lasts or 'any'} days, not {lasted or 'any'}")
        return lines

    @property
    def missing(self) -> list[str]:
        """Whose signatures are missing still, a line for each set of keys; empty when complete."""
        payload, signatures = self.proposed.signed_bytes, self.proposed.signatures
        result = self.proposed.signed.get_root_verification_result(
            self.previous, payload, signatures
        )
        lines = [
            _missing_line(kind, part)
            for kind, part in (("present", result.first), ("new", result.second))
        ]
        return list(dict.fromkeys(line for line in lines if line))

    @classmethod
    def read(cls, path: Path) -> "RootDraft":
        """Read a draft's file.

        Raises:
            RegistryError: it cannot be read, or is no draft.
        """
        try:
            document = parse_object(read_bounded(path, _MAX_DRAFT))
            if document.get("format") != _FORMAT:
                raise ValueError(f"expected a file with the format {_FORMAT!r}")
            roots = tuple(_root(value) for value in document["roots"])
            draft = cls(roots, _root(document["proposed"]))
            if not roots or set(draft.proposed.signed.roles) != set(draft.previous.roles):
                raise ValueError("it does not hold the roots that come before")
        except OSError as error:
            raise RegistryError(f"{path} cannot be read: {error.strerror}") from None
        except Exception as error:
            # Files that people hand around hold anything; TUF's classes raise accordingly.
            raise RegistryError(f"{path} is no draft of a root: {one_line(error)}") from error
        return draft

    def write(self, path: Path) -> None:
        """Write the draft to a file, in the place of an earlier one.

        Raises:
            RegistryError: the file cannot be written.
        """
        document = {
            "format": _FORMAT,
            "roots": [root.to_dict() for root in self.roots],
            "proposed": self.proposed.to_dict(),
        }
        write_named(path, json.dumps(document, indent=1, sort_keys=True).encode())

    def sign(self, signers: Signers) -> Sequence[str]:
        """Add the signatures of the keys at hand; return the ids of the keys that signed.

        Raises:
            RegistryError: a key does not sign.
        """
        keys = {
            key_id: root.keys[key_id]
            for root in (self.previous, self.proposed.signed)
            for key_id in root.roles[ROOT].keyids
            if key_id in root.keys
        }
        before = set(self.proposed.signatures)
        add_signatures(self.proposed, keys.values(), signers)
        return [key_id for key_id in self.proposed.signatures if key_id not in before]


def sign_draft(path: Path, *, root: bytes, signers: Signers) -> RootDraft:
    """Add the signatures of the keys at hand to a draft's file.

    Args:
        path: The draft's file.
        root: The root that the signer trusts, from which the draft is verified.
        signers: The signer's keys.

    Raises:
        RegistryError: the file is no draft, or none of the keys at hand could sign it.
        TrustError: the draft is for another registry than the root's.
    """
    draft = RootDraft.read(path)
    verify_root_chain(draft.roots, root)
    if not draft.sign(signers):
        given = ", ".join(map(short, signers.key_ids)) or "no key"
        missing = "; ".join(draft.missing) or "it is complete"
        raise RegistryError(
            f"None of the given keys had anything to sign in {path}: given was {given}. {missing}"
        )
    draft.write(path)
    return draft


def _root(value: dict[str, Any]) -> Metadata[Root]:
    return parse(json.dumps(value).encode(), ROOT)


def _missing_line(kind: str, result: VerificationResult) -> str | None:
    if result.verified:
        return None
    keys = ", ".join(map(short, result.unsigned))
    return f"{result.missing} more signature(s) are needed of the {kind} root's keys {keys}"
