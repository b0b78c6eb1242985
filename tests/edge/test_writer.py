"""Publishing: the same content is one release, nothing is lost, and a crash leaves no harm."""

import json
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from edgeline.contract import PreprocessingContract
from edgeline.errors import RegistryError
from edgeline.registry.reader import LayoutReader
from edgeline.registry.writer import VariantFiles, publish

if TYPE_CHECKING:
    from tests.edge.conftest import Store

# Publishes release after release, each with content of its own, and prints each version.
PUBLISHER = """
import sys
from pathlib import Path
from edgeline.contract import PreprocessingContract
from edgeline.registry.writer import VariantFiles, publish

layout, model_file, name, count = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], sys.argv[4]
contract = PreprocessingContract(height=8, width=8, max_side=512, labels=("a", "b"))
print("ready", flush=True)
weights = model_file.read_bytes()
own = model_file.with_name(f"{name}.tflite")
for number in range(int(count)):
    own.write_bytes(weights + b"%d" % number)
    published = publish(
        layout,
        model=name,
        channel="candidate",
        variants=[VariantFiles("float32", own), VariantFiles("int8", own)],
        preprocessing=contract,
        verdict=b'{"run": "%s %d"}' % (name.encode(), number),
    )
    print(published.version, flush=True)
"""


def _start_publisher(layout: Path, model: Path, name: str, count: int) -> subprocess.Popen[str]:
    environment = {"PYTHONPATH": ":".join(filter(None, sys.path))}
    command = [sys.executable, "-c", PUBLISHER, str(layout), str(model), name, str(count)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)


def _check_every_blob(layout: Path) -> None:
    reader = LayoutReader(layout)
    for release in reader.releases():
        reader.read_verdict(release)
        for variant in release.variants:
            reader.read_model(variant)


def test_a_release_is_an_index_of_modelpack_manifests(store: "Store") -> None:
    published = store.publish({"float32": b"large weights", "int8": b"weights"})
    reader = LayoutReader(store.path)

    assert json.loads((store.path / "oci-layout").read_bytes()) == {"imageLayoutVersion": "1.0.0"}
    index = json.loads(store.blob(published.digest).read_bytes())
    assert index["mediaType"] == "application/vnd.oci.image.index.v1+json"
    assert index["annotations"]["dev.edgeline.model"] == "pets"
    for entry, name in zip(index["manifests"], ("float32", "int8"), strict=True):
        assert entry.keys() == {"mediaType", "digest", "size", "annotations"}
        assert entry["annotations"] == {"dev.edgeline.variant": name}
        assert reader.resolve(f"v1-{name}").digest == entry["digest"]
        _check_modelpack(store, entry["digest"])


def _check_modelpack(store: "Store", digest: str) -> None:
    manifest = json.loads(store.blob(digest).read_bytes())
    assert manifest["mediaType"] == "application/vnd.oci.image.manifest.v1+json"
    assert manifest["artifactType"] == "application/vnd.cncf.model.manifest.v1+json"
    assert manifest["config"]["mediaType"] == "application/vnd.cncf.model.config.v1+json"
    files = [layer["annotations"]["org.cncf.model.filepath"] for layer in manifest["layers"]]
    assert files == ["model.tflite", "preprocessing.json", "verdict.json"]
    config = json.loads(store.blob(manifest["config"]["digest"]).read_bytes())
    assert config["config"]["format"] == "tflite"
    digests = [layer["digest"] for layer in manifest["layers"]]
    assert config["modelfs"] == {"type": "layers", "diffIds": digests}


def test_a_golden_pair_is_stored_with_its_variant(
    tmp_path: Path, contract: PreprocessingContract
) -> None:
    model = tmp_path / "model.tflite"
    model.write_bytes(b"weights")
    publish(
        tmp_path / "registry",
        model="pets",
        channel="candidate",
        variants=[VariantFiles("float32", model, golden=b'{"version": 1}')],
        preprocessing=contract,
        verdict=b"{}",
    )
    reader = LayoutReader(tmp_path / "registry")
    golden = reader.open_tag("v1").variant("float32").golden
    assert golden is not None
    assert reader.read_blob(golden, limit=100) == b'{"version": 1}'


def test_the_same_content_again_is_the_same_release(store: "Store") -> None:
    first = store.publish({"float32": b"one", "int8": b"two"})
    index = (store.path / "index.json").read_bytes()
    again = store.publish({"int8": b"two", "float32": b"one"})
    assert (first.version, first.tag, first.created) == (1, "v1", True)
    assert (again.version, again.digest, again.created) == (1, first.digest, False)
    assert json.loads((store.path / "index.json").read_bytes()) == json.loads(index)


def test_the_same_content_elsewhere_has_the_same_digest(store: "Store", tmp_path: Path) -> None:
    first = store.publish({"float32": b"1"})
    second = store.publish({"float32": b"2"})
    store.path.rename(tmp_path / "old")
    assert store.publish({"float32": b"2"}).digest == second.digest
    assert store.publish({"float32": b"1"}).digest == first.digest


def test_publishing_old_content_moves_the_channel_back(store: "Store") -> None:
    old = store.publish({"float32": b"1"})
    store.publish({"float32": b"2"})
    again = store.publish({"float32": b"1"})
    assert again == type(again)(version=1, digest=old.digest, created=False)
    assert LayoutReader(store.path).open_release("pets", "candidate").version == 1


def test_models_measured_again_stay_the_release_that_the_channel_serves(store: "Store") -> None:
    served = store.publish({"float32": b"1"}, verdict=b"passed")
    again = store.publish({"float32": b"1"}, verdict=b"passed, a millisecond faster")
    assert again == type(again)(version=1, digest=served.digest, created=False)
    reader = LayoutReader(store.path)
    assert reader.read_verdict(reader.open_digest(served.digest)) == b"passed"
    more = store.publish({"float32": b"1", "int8": b"2"}, verdict=b"passed")
    assert (more.version, more.created) == (2, True), "another set of variants is another release"


def test_a_report_travels_with_the_release(
    store: "Store", tmp_path: Path, contract: PreprocessingContract
) -> None:
    (tmp_path / "model.tflite").write_bytes(b"weights")
    publish(
        store.path,
        model="pets",
        channel="candidate",
        variants=[VariantFiles("float32", tmp_path / "model.tflite")],
        preprocessing=contract,
        verdict=b"{}",
        report=b"<!doctype html>",
    )
    store.publish(model="others")
    reader = LayoutReader(store.path)
    assert reader.read_report(reader.open_release("pets", "candidate")) == b"<!doctype html>"
    assert reader.read_report(reader.open_release("others", "candidate")) is None


def test_publishing_again_repairs_a_damaged_blob(store: "Store") -> None:
    store.publish({"float32": b"weights"})
    blob = store.blob(LayoutReader(store.path).open_tag("v1").variant().model.digest)
    blob.write_bytes(b"WEIGHTS")
    store.publish({"float32": b"weights"})
    _check_every_blob(store.path)


def test_versions_are_counted_per_store_and_channels_per_model(store: "Store") -> None:
    store.publish(model="cats", channel="candidate")
    store.publish(model="dogs", channel="candidate")
    store.publish(model="cats", channel="production")
    releases = LayoutReader(store.path).releases()
    assert [(each.tag, each.model, each.channels) for each in releases] == [
        ("v1", "cats", ("candidate", "production")),
        ("v2", "dogs", ("candidate",)),
    ]


def test_entries_of_other_tools_are_kept(store: "Store") -> None:
    store.publish({"float32": b"1"})
    foreign = [
        {"mediaType": "text/plain", "digest": f"sha256:{'0' * 64}", "size": 1, "urls": ["x:y"]},
        {
            "mediaType": "x",
            "digest": "y",
            "annotations": {"org.opencontainers.image.ref.name": "/"},
        },
    ]
    path = store.path / "index.json"
    index = json.loads(path.read_bytes())
    index["manifests"] = foreign + index["manifests"]
    path.write_text(json.dumps(index))
    assert store.publish({"float32": b"2"}).version == 2
    assert json.loads(path.read_bytes())["manifests"][:2] == foreign


@pytest.mark.parametrize(
    "names",
    [
        pytest.param({"model": "../pets"}, id="a model that climbs out"),
        pytest.param({"model": "Pets"}, id="a model in capitals"),
        pytest.param({"model": ""}, id="a model without a name"),
        pytest.param({"model": "a" * 64}, id="a model with a long name"),
        pytest.param({"channel": "a.b"}, id="a channel with a dot"),
        pytest.param({"channel": "canary\n"}, id="a channel with a line break"),
    ],
)
def test_refuses(names: dict[str, Any], store: "Store") -> None:
    with pytest.raises(RegistryError, match="is named by at most 63"):
        store.publish(**names)
    assert not store.path.exists()


@pytest.mark.parametrize(
    "names",
    [
        pytest.param([], id="no variant"),
        pytest.param(["int8", "int8"], id="a variant twice"),
        pytest.param(["int8-io"], id="a variant with a dash"),
    ],
)
def test_refuses_variants(
    names: list[str], tmp_path: Path, contract: PreprocessingContract
) -> None:
    model = tmp_path / "model.tflite"
    model.write_bytes(b"weights")
    with pytest.raises(RegistryError, match="variant"):
        publish(
            tmp_path / "registry",
            model="pets",
            channel="candidate",
            variants=[VariantFiles(name, model) for name in names],
            preprocessing=contract,
            verdict=b"{}",
        )


def test_a_model_file_that_is_missing_or_empty_is_not_published(
    store: "Store", tmp_path: Path, contract: PreprocessingContract
) -> None:
    arguments: dict[str, Any] = {"model": "pets", "channel": "candidate", "verdict": b"{}"}
    missing = [VariantFiles("float32", tmp_path / "missing.tflite")]
    with pytest.raises(RegistryError, match=r"missing\.tflite"):
        publish(store.path, variants=missing, preprocessing=contract, **arguments)
    with pytest.raises(RegistryError, match="has 0 bytes"):
        store.publish({"float32": b""})
    assert LayoutReader(store.path).releases() == []
    assert store.publish({"float32": b"weights"}).version == 1


def test_a_folder_with_something_else_in_it_is_left_alone(store: "Store") -> None:
    store.path.mkdir()
    (store.path / "holiday.jpg").write_bytes(b"photo")
    with pytest.raises(RegistryError, match="is not a model registry"):
        store.publish()
    assert [path.name for path in store.path.iterdir()] == ["holiday.jpg"]


def test_a_layout_of_another_version_is_left_alone(store: "Store") -> None:
    store.path.mkdir()
    (store.path / "oci-layout").write_text('{"imageLayoutVersion": "2.0.0"}')
    with pytest.raises(RegistryError, match=r"version '2\.0\.0'"):
        store.publish()
    assert [path.name for path in store.path.iterdir()] == ["oci-layout"]


def test_a_store_that_lost_its_index_is_not_numbered_anew(store: "Store") -> None:
    store.publish()
    (store.path / "index.json").unlink()
    with pytest.raises(RegistryError, match=r"Restore index\.json"):
        store.publish()


@pytest.mark.parametrize("left", [[], [".edgeline/"], [".edgeline/", "oci-layout"]])
def test_a_layout_that_was_begun_is_finished(left: list[str], store: "Store") -> None:
    store.path.mkdir()
    for name in left:
        if name.endswith("/"):
            (store.path / name).mkdir()
        else:
            (store.path / name).write_text('{"imageLayoutVersion": "1.0.0"}')
    assert store.publish().version == 1


def test_two_publishers_at_once_get_versions_of_their_own(tmp_path: Path) -> None:
    model = tmp_path / "model.tflite"
    model.write_bytes(b"weights" * 100_000)
    layout = tmp_path / "registry"
    publishers = [_start_publisher(layout, model, name, 5) for name in ("cats", "dogs")]
    while any(publisher.poll() is None for publisher in publishers):
        # A device that reads all the while never sees anything half written.
        if (layout / "index.json").exists():
            _check_every_blob(layout)
    outputs = [publisher.communicate(timeout=60)[0].split()[1:] for publisher in publishers]
    assert sorted(int(version) for output in outputs for version in output) == [*range(1, 11)]
    releases = LayoutReader(layout).releases()
    assert sorted(release.model for release in releases) == ["cats"] * 5 + ["dogs"] * 5
    _check_every_blob(layout)


def test_a_publisher_killed_at_any_moment_leaves_a_registry_that_works(tmp_path: Path) -> None:
    rng = random.Random(0)
    model = tmp_path / "model.tflite"
    model.write_bytes(rng.randbytes(2_000_000))
    layout = tmp_path / "registry"
    promised = 0
    for attempt in range(12):
        publisher = _start_publisher(layout, model, f"run-{attempt}", 1000)
        assert publisher.stdout is not None
        assert publisher.stdout.readline() == "ready\n"
        # Every other publisher finishes a release first, however slow the disk is.
        promised = max([promised, *(int(publisher.stdout.readline()) for _ in range(attempt % 2))])
        time.sleep(rng.uniform(0, 0.08))
        publisher.send_signal(signal.SIGKILL)
        promised = max([promised, *map(int, publisher.communicate()[0].split())])
        if (layout / "index.json").exists():
            releases = LayoutReader(layout).releases()
            assert [release.version for release in releases] == [*range(1, len(releases) + 1)]
            assert len(releases) >= promised
            _check_every_blob(layout)
    assert promised > 0
    survivor = _start_publisher(layout, model, "survivor", 1)
    assert int(survivor.communicate(timeout=60)[0].split()[1]) > promised
    _check_every_blob(layout)
