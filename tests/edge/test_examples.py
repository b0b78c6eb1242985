"""Hard examples: what is kept on a device, and how it comes home to its owner and nobody else."""

from __future__ import annotations

import argparse
import csv
import hashlib
import io
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from securesystemslib.signer import CryptoSigner

from edgeline.cli import main, watch
from edgeline.device import update
from edgeline.device.examples import DAYS, FOLDER, HardExamples
from edgeline.device.reporting import accept_enrolment, request_enrolment
from edgeline.device.shadow import Shadow, ShadowSettings
from edgeline.device.watch import Watcher
from edgeline.errors import IntegrityError, RegistryError, TrustError
from edgeline.key_files import generate_key as generate_signing_key
from edgeline.publish.keys import Signers
from edgeline.telemetry.examples import (
    EXAMPLES,
    MAX_EXAMPLE,
    Example,
    Guess,
    name_of,
    open_example,
    seal_example,
)
from edgeline.telemetry.places import open_place
from edgeline.telemetry.report import Enrolment, Fleet, parse_key, seal_enrolment
from edgeline.telemetry.sealing import Opener, generate_key, read_public_key, seal_to
from tests.edge.devices import MODEL, device, release
from tests.edge.fleet import DAY, NEW, NOW, Reporting, settled, signer_of
from tests.edge.servers import RegistryServer

if TYPE_CHECKING:
    from tests.edge.conftest import Store

MINUTE = 60.0
ID = "1" * 32
UNSURE = Guess("cat", 0.55, 0.1, NEW, time=NOW)


def picture(seed: int, side: int = 24) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 255, (side, side, 3), np.uint8)


def png(pixels: NDArray[np.uint8], kind: str = "PNG", **options: Any) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind, **options)
    return file.getvalue()


def offer(ring: HardExamples, number: int, **changes: Any) -> None:
    ring.offer(picture(number), replace(UNSURE, **changes), max_side=512)


@pytest.fixture
def ring(tmp_path: Path) -> HardExamples:
    return HardExamples(tmp_path / "examples", per_day=3)


def test_the_hardest_of_a_day_are_kept_and_of_each_minute_one(ring: HardExamples) -> None:
    for number, margin in enumerate((0.9, 0.2, 0.5, 0.4, 0.3)):
        offer(ring, number, margin=margin, time=NOW + number * MINUTE)
        offer(ring, 10 + number, margin=0.95, time=NOW + number * MINUTE + 1)
        ring.save()
    assert sorted(each.guess.margin for each in ring.kept()) == [0.2, 0.3, 0.4]
    offer(ring, 20, margin=0.8, shadow="dog", time=NOW + 10 * MINUTE)
    ring.save()
    assert sorted(each.guess.margin for each in ring.kept()) == [0.2, 0.3, 0.8], "two disagree"


def test_the_last_days_are_kept_and_nothing_else_lies_there(
    ring: HardExamples, tmp_path: Path
) -> None:
    for day in range(DAYS + 3):
        offer(ring, day, time=NOW + day * DAY)
        ring.save()
    kept = ring.kept()
    assert [each.guess.time for each in kept] == [NOW + day * DAY for day in range(3, DAYS + 3)]
    names = {path.name for path in (tmp_path / "examples").iterdir()}
    assert names == {"lock", "examples.json", *(f"{each.image}.png" for each in kept)}
    assert (tmp_path / "examples").stat().st_mode & 0o077 == 0


def test_of_a_file_nothing_but_its_pixels_is_kept(ring: HardExamples) -> None:
    exif = Image.Exif()
    exif[0x010F] = "the maker of the camera"
    photo = png(picture(1, side=600), "JPEG", exif=exif, comment=b"taken at home")
    ring.offer(photo, UNSURE, max_side=100)
    ring.save()
    (kept,) = ring.kept()
    stored = ring.read(kept)
    assert stored is not None
    opened = Image.open(io.BytesIO(stored))
    assert (opened.format, opened.size, opened.info) == ("PNG", (100, 100), {})
    assert b"camera" not in stored
    assert b"home" not in stored


def test_what_is_damaged_is_begun_anew(ring: HardExamples, tmp_path: Path) -> None:
    offer(ring, 1)
    ring.save()
    (kept,) = ring.kept()
    image = tmp_path / "examples" / f"{kept.image}.png"
    image.write_bytes(b"rotten")
    assert ring.read(kept) is None
    (tmp_path / "examples" / "examples.json").write_text('{"examples": [{"image": "../../x"}]}')
    assert ring.kept() == []
    offer(ring, 2)
    ring.save()
    assert len(ring.kept()) == 1
    assert not image.exists()


def test_memory_holds_a_few_until_they_are_written(ring: HardExamples) -> None:
    for number in range(40):
        offer(ring, number, margin=number / 40, time=NOW + number * MINUTE)
    assert len(ring._pending) == 16
    ring.save()
    assert [each.guess.margin for each in ring.kept()] == [0, 1 / 40, 2 / 40]


# On the way home.


@pytest.fixture(scope="module")
def inbox(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The owner's key, without a passphrase."""
    file = tmp_path_factory.mktemp("keys") / "inbox.key"
    generate_key(file, None)
    return file


@pytest.fixture(scope="module")
def mine() -> Reporting:
    return Reporting(ID, CryptoSigner.generate_ed25519())


def _example(**changes: Any) -> Example:
    return replace(Example(ID, MODEL, UNSURE, png(picture(1))), **changes)


def _sealed(
    mine: Reporting, inbox: Path, example: Example, enrolment: bytes | None = None
) -> bytes:
    owner = read_public_key(inbox.with_suffix(".pub"))
    return seal_example(example, enrolment or mine.enrolment(), mine.key, owner)


def _opened(mine: Reporting, inbox: Path, data: bytes, revoked: tuple[str, ...] = ()) -> Example:
    return open_example(data, Opener.load(inbox), Fleet([mine.fleet.public_key], revoked), at=NOW)


def test_an_example_comes_home_as_it_was(mine: Reporting, inbox: Path) -> None:
    example = _example()
    sealed = _sealed(mine, inbox, example)
    assert b"cat" not in sealed
    assert example.image not in sealed
    assert _opened(mine, inbox, sealed) == example
    np.testing.assert_array_equal(example.pixels(), picture(1))


def test_nobody_else_can_open_it_and_nobody_can_change_it(
    mine: Reporting, inbox: Path, tmp_path: Path
) -> None:
    sealed = _sealed(mine, inbox, _example())
    generate_key(tmp_path / "other.key", "secret")
    other = Opener.load(tmp_path / "other.key", lambda _: "secret")
    with pytest.raises(TrustError, match="another"):
        open_example(sealed, other, Fleet([mine.fleet.public_key]), at=NOW)
    for place in (0, 40, len(sealed) - 1):
        changed = bytearray(sealed)
        changed[place] ^= 1
        with pytest.raises(TrustError, match="damaged"):
            _opened(mine, inbox, bytes(changed))


FORGED: dict[str, Callable[[Reporting], tuple[Example, bytes | None]]] = {
    "it enrolled itself": lambda mine: (
        _example(),
        Reporting(ID, mine.key, mine.key).enrolment(),
    ),
    "its enrolment has ended": lambda mine: (_example(), mine.enrolment(expires=NOW - 1)),
    "its enrolment is for another model": lambda mine: (_example(), mine.enrolment(model="dogs")),
    "it speaks for another device": lambda _: (_example(device="2" * 32), None),
    "another device's key is enrolled": lambda mine: (
        _example(),
        Reporting(ID, mine.fleet).enrolment(),
    ),
}


@pytest.mark.parametrize("name", FORGED)
def test_what_no_enrolled_device_sends_is_not_taken(
    name: str, mine: Reporting, inbox: Path
) -> None:
    example, enrolment = FORGED[name](mine)
    with pytest.raises(TrustError):
        _opened(mine, inbox, _sealed(mine, inbox, example, enrolment))


def test_a_device_that_was_revoked_sends_nothing(mine: Reporting, inbox: Path) -> None:
    with pytest.raises(TrustError, match="no longer enrolled"):
        _opened(mine, inbox, _sealed(mine, inbox, _example()), revoked=(ID,))


@pytest.mark.parametrize(
    "change",
    [{"label": ""}, {"label": "x" * 999}, {"probability": 2.0}, {"margin": -1.0}, {"time": 1e15}],
    ids=str,
)
def test_a_malformed_guess_is_refused(change: dict[str, Any], mine: Reporting, inbox: Path) -> None:
    sealed = _sealed(mine, inbox, _example(guess=replace(UNSURE, **change)))
    with pytest.raises(IntegrityError, match="malformed"):
        _opened(mine, inbox, sealed)


@pytest.mark.parametrize(
    "image",
    [b"", b"no image", png(picture(1), "JPEG"), png(picture(1))[:200], png(picture(1, side=1100))],
    ids=["empty", "text", "JPEG", "broken off", "large"],
)
def test_what_is_no_small_png_is_refused(image: bytes) -> None:
    with pytest.raises(IntegrityError, match="image"):
        _example(image=image).pixels()


@pytest.mark.parametrize("data", [b"", b"{}", b"[1]", b'{"enrolment": 1, "example": 2}'])
def test_what_is_no_example_is_refused(data: bytes, mine: Reporting, inbox: Path) -> None:
    with pytest.raises((IntegrityError, TrustError)):
        _opened(mine, inbox, data)
    with pytest.raises(IntegrityError):
        _opened(mine, inbox, seal_to(read_public_key(inbox.with_suffix(".pub")), data))
    with pytest.raises(IntegrityError, match="at most"):
        _opened(mine, inbox, b" " * (MAX_EXAMPLE + 1))


def test_keys_of_another_kind_are_refused(tmp_path: Path, inbox: Path) -> None:
    generate_signing_key(tmp_path / "signs.pem", None)
    with pytest.raises(RegistryError, match="inbox-key"):
        read_public_key(tmp_path / "signs.pub")
    with pytest.raises(RegistryError, match="inbox-key"):
        Opener.load(tmp_path / "signs.pem")
    with pytest.raises(RegistryError, match="no public key"):
        Signers.load([str(inbox)])
    with pytest.raises(RegistryError, match=r"\*\.key"):
        generate_key(tmp_path / "inbox.pem", None)
    assert inbox.stat().st_mode & 0o077 == 0


# On a device.


@pytest.fixture
def pets(store: Store, models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A device that serves v1."""
    monkeypatch.setattr(update, "try_model", lambda *_, **__: None)  # another test's business
    release(store, models, 1)
    found = device(store, tmp_path / "device")
    found.update()
    return found


def test_a_watcher_keeps_images_only_when_it_is_told_to(pets: Any) -> None:
    folder = pets.folder.path / FOLDER
    with Watcher(pets) as watcher:
        watcher.predict(picture(1))
    assert not folder.exists()
    assert watch._hard_examples(argparse.Namespace(keep_hard=None), pets) is None
    ring = HardExamples(folder, per_day=5)
    with Watcher(pets, hard_examples=ring) as watcher:
        watcher.predict(picture(1))
        watcher._disagreed(picture(2), watcher.predict(picture(2)), "dog")
    (kept,) = ring.kept()
    assert kept.guess.shadow == "dog", "the hardest of its minute"
    assert kept.guess.digest == pets.folder.load_active().installed.digest


def test_a_shadow_tells_what_it_disagrees_on(pets: Any) -> None:
    class Says:
        def predict(self, image: int) -> Any:
            return replace_label("dog" if image else "cat")

    def replace_label(label: str) -> Any:
        return type("Said", (), {"label": label, "probability": 0.9})()

    told: list[Any] = []
    shadow = Shadow(
        Says(),  # type: ignore[arg-type]
        pets.folder.load_active().installed,
        ShadowSettings(predictions=10, budget=1e9),
        on_disagreement=lambda *said: told.append(said),
    )
    served = replace_label("cat")
    for image in (0, 1):
        shadow.offer(image, served, 0.01)  # type: ignore[arg-type]
        settled(shadow, image + 1)
    shadow.close()
    assert told == [(1, served, "dog")]


def test_images_come_home_by_commands(
    pets: Any,
    store: Store,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    keys = tmp_path / "keys"
    for name in ("fleet", "halt"):
        generate_signing_key(keys / f"{name}.pem", None)
    repository = store.repository()
    signer, halts = (signer_of(keys / f"{name}.pem") for name in ("fleet", "halt"))
    repository.add_fleet(MODEL, signer.public_key, halts.public_key)
    ring = HardExamples(pets.folder.path / FOLDER)
    for number in range(3):
        offer(ring, number, label="=cat", time=NOW + number * MINUTE)
    ring.save()

    root = tmp_path / "root.json"
    root.write_bytes(store.root)
    here = ["--registry", store.location, "--model", MODEL, "--root", str(root)]
    here += ["--state", str(tmp_path / "device")]
    usb, home = tmp_path / "usb", tmp_path / "home"
    make = ["registry", "fleet", "inbox-key", str(keys / "inbox.key"), "--no-passphrase"]
    assert main(make) == 0
    assert main(make) == 3, "keys are never overwritten"
    export = ["examples", "export", str(usb), "--to-key", str(keys / "inbox.pub"), *here]
    assert main(export) == 3
    assert "not enrolled" in capsys.readouterr().err
    request = request_enrolment(pets)
    enrolment = Enrolment(request["device"], MODEL, parse_key(request["key"]), NOW + DAY)
    accept_enrolment(pets, seal_enrolment(enrolment, signer))
    assert main(["examples", "list", *here]) == 0
    assert capsys.readouterr().out.count("=cat") == 3
    assert main(export) == 0
    assert ring.kept() == []
    assert len([*usb.iterdir()]) == 3
    names = "".join(path.name for path in usb.iterdir())
    assert not any(
        hashlib.sha256(png(picture(each))).hexdigest()[:32] in names for each in range(3)
    )
    (usb / f"{ID}-{ID}.example").write_bytes(b"damaged")
    (usb / "notes.example").write_bytes(b"no example's name")
    (usb / f"{ID}-{'0' * 32}.example").symlink_to(tmp_path / "root.json")

    opening = ["registry", "fleet", "open", store.location, MODEL, str(usb), "--root", str(root)]
    opening += ["--inbox-key", str(keys / "inbox.key"), "--output", str(home)]
    assert main(opening) == 0
    said = capsys.readouterr()
    assert "has 3 images now" in said.out
    assert said.err.count("counts for nothing") == 1
    table = home / "guesses.csv"
    rows = [*csv.DictReader(table.read_text().splitlines())]
    assert {row["guess"] for row in rows} == {"'=cat"}, "no formula of a spreadsheet"
    assert {row["device"] for row in rows} == {request["device"]}
    assert {row["label"] for row in rows} == {""}
    shown = {np.asarray(Image.open(home / row["path"])).tobytes() for row in rows}
    assert shown == {picture(number).tobytes() for number in range(3)}
    monkeypatch.setattr("edgeline.cli.registry.inbox.MAX_OF_DEVICE", 1)
    table.write_text(table.read_text().replace(".png,,", ".png,cat,"))
    assert main(opening) == 0
    assert table.read_text().count(".png,cat,") == 3, "labels stay"
    assert capsys.readouterr().err.count("has sent more than 1") == 2

    offer(ring, 9, time=NOW)
    ring.save()
    assert main(["examples", "clear", *here]) == 0
    assert ring.kept() == []


def test_images_come_home_through_a_registry_server(
    mine: Reporting, inbox: Path, server: RegistryServer
) -> None:
    place = open_place(f"oci://{server.host}/cells", kind=EXAMPLES)
    sealed = [_sealed(mine, inbox, _example()) for _ in range(2)]
    for data in sealed:
        place.put(name_of(ID, data), data)
    assert sorted(data for _, data in place.entries()) == sorted(sealed)
    assert [*open_place(f"oci://{server.host}/cells").entries()] == [], "reports lie elsewhere"
    with pytest.raises(IntegrityError, match="names none"):
        place.put("../tuf", sealed[0])
