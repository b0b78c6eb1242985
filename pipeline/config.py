"""Every setting of the pipeline, once: typed, with its unit and default, read from TOML.

A configuration file holds only what differs from the defaults below; `load_config` checks it and
`--set trainer.epochs=3` on the command line overrides it. Paths are relative to the folder the
command runs in.
"""

from __future__ import annotations

import json
import math
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args

import tomli
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from components.tflite_rewriter.variants import PRESETS, Aim, SearchSettings
from edgeline.registry.store import Connection
from pipeline.config_mistakes import describe, did_you_mean, in_toml
from pipeline.errors import UserError
from pipeline.training.bases import BASES, WHOLE_BASE


def _text(pattern: str, words: str, most: int | None = None) -> AfterValidator:
    """What a text must be: all of it as a pattern says, which is told in words."""

    def check(text: str) -> str:
        if not re.fullmatch(pattern, text) or (most and len(text) > most):
            raise ValueError(f'expected {words}; received "{text}"')
        return text

    return AfterValidator(check)


Fraction = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[int, Field(ge=1)]
# A class's, model's or channel's name becomes part of tags and file names.
Name = Annotated[
    str,
    _text(
        "[a-z0-9]+(-[a-z0-9]+)*",
        'small letters, digits and single hyphens between them, such as "solar-cells"',
        most=63,
    ),
]
RENAMED_VARIANTS = {"int8_selective": "mixed"}  # for one release


def _renamed(name: object) -> object:
    new = RENAMED_VARIANTS.get(name) if isinstance(name, str) else None
    if new:
        print(
            f'the variant "{name}" is deprecated: write "{new}", which replaces it', file=sys.stderr
        )
    return new or name


VariantName = Literal[
    "float32",
    "float16",
    "weight_int8",
    "weight_int4",
    "dynamic",
    "dynamic_int4",
    "int8",
    "int8_io",
    "int16x8",
    "mixed",
]
Variant = Annotated[VariantName, BeforeValidator(_renamed)]
Split = Literal["train", "eval", "test"]
if TYPE_CHECKING:
    BaseName = str
else:
    BaseName = Literal[tuple(BASES)]  # so that adding a base is adding a record


class _Section(BaseModel):
    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=True, allow_inf_nan=False, use_attribute_docstrings=True
    )


def _group_pattern(pattern: str) -> str:
    try:
        groups = re.compile(pattern).groupindex
    except re.error as error:
        raise ValueError(f'expected a regular expression; received "{pattern}": {error}') from None
    if "group" not in groups:
        raise ValueError(f'expected a part named group, (?P<group>...); received "{pattern}"')
    return pattern


class IngestConfig(_Section):
    """`[ingest]`: how photos become a dataset (`python -m pipeline ingest`)."""

    max_side: Positive = 512
    """Longer side in pixels; a larger image is scaled down, a smaller one is kept as it is."""
    max_pixels: Positive = 100_000_000
    """Pixels; an image that claims more is refused before it is decoded."""
    max_file_bytes: Positive = 64 * 2**20
    """Bytes; a larger file is refused before it is read."""
    train: Fraction = 0.8
    """Share of the images to train on; with `eval` and `test` it sums to 1."""
    eval: Fraction = 0.1
    """Share of the images that early stopping looks at."""
    test: Fraction = 0.1
    """Share of the images that neither training nor early stopping sees: the gate's."""
    shard_mb: Positive = 150
    """MB (10^6 bytes) of examples a file holds, about."""
    group: str | None = None
    """CSV column whose equal values stay in one split (a patient, a device); none by default."""
    group_pattern: Annotated[str, AfterValidator(_group_pattern)] | None = None
    """Regular expression with a part `(?P<group>...)`, such as "(?P<group>patient[0-9]+)": images
    with equal parts in their paths stay in one split; none by default."""
    split_by: str | None = None
    """CSV column that says which split an image is in (train, eval or val, test; an empty cell is
    drawn); by default the column "split", if there is one."""
    near_duplicates: Literal["group", "ignore"] = "group"
    """"group": images that look alike (burst shots, copies of another size) stay in one split."""
    inbox: Path | None = None
    """A folder that `edgeline registry fleet open` wrote: those of its images that have a label are
    added, to train on and never to judge by."""
    features: dict[Literal["image", "label", "text"], str] = {}
    """Of TFRecord or Parquet files of a kind that is not known: what holds the image, the label or
    the label's text."""
    labels: Path | None = None
    """Of such files: a text file with the classes' names, a line each, where labels are numbers."""

    @model_validator(mode="after")
    def _shares_sum_to_one(self) -> IngestConfig:
        total = self.train + self.eval + self.test
        if self.train == 0 or not math.isclose(total, 1):
            raise ValueError(
                "expected train, eval and test to sum to 1 and train to be above 0; "
                f"received {self.train:g} + {self.eval:g} + {self.test:g}"
            )
        return self


class DataConfig(_Section):
    """`[data]`: what the pipeline reads."""

    path: Path
    """The dataset folder that `python -m pipeline ingest` wrote."""


class ImageConfig(_Section):
    """`[image]`: the model's input."""

    height: Annotated[int, Field(ge=32, le=1024)] = 150
    """Pixels."""
    width: Annotated[int, Field(ge=32, le=1024)] = 150
    """Pixels."""


def _is_weights(weights: str) -> str:
    words = ("imagenet", "random")
    if weights in words or weights.endswith(".h5"):
        return weights
    meant = did_you_mean(weights, words)
    raise ValueError(
        'expected "imagenet", "random" or the path of a Keras weights file, which ends in .h5; '
        f'received "{weights}"' + (f"; {meant}" if meant else "")
    )


class TrainerConfig(_Section):
    """`[trainer]`: a base and its head; see docs/training.md for what to choose when.

    The head phase trains a head on the frozen base. Fine-tuning then trains the end of the base
    with it, or all of it. Either may be left out with 0 epochs.
    """

    base: BaseName = "densenet121"
    """The network whose features the head classifies; docs/training.md compares them."""
    base_weights: Annotated[str, AfterValidator(_is_weights)] = "imagenet"
    """What the base starts from: "imagenet", "random" or the path of a Keras weights file."""
    warm_start: str | None = None
    """A model to go on from instead of `base_weights`, which is then not read: the SavedModel
    folder of an earlier run, of the same classes and head, or its .weights.h5 file."""
    head: Literal["pool", "flatten"] = "pool"
    """"pool": global average pooling and one Dense layer; "flatten": Flatten, Dense 512, Dense."""
    epochs: Annotated[int, Field(ge=0)] = 100
    """Of the head phase, at most: early stopping usually ends it sooner. 0 leaves it out."""
    learning_rate: Annotated[float, Field(gt=0)] = 1e-3
    """Of the head phase, at its highest."""
    fine_tune_epochs: Annotated[int, Field(ge=0)] = 0
    """Of the second phase, which trains the base's end too, at most; 0 leaves it out."""
    fine_tune_layers: Positive | None = None
    """How many of the base's last layers the second phase trains; 5 where neither this nor
    `fine_tune_from` is given."""
    fine_tune_from: str | None = None
    """The base's block ("conv5_block16") or stage ("conv5") from which on layers are trained, or
    "all".
    Batch norms keep their weights and statistics, unless "all" of a "random" base is trained."""
    fine_tune_learning_rate: Annotated[float, Field(gt=0)] = 2e-5
    """Of the second phase, at its highest."""
    batch_size: Positive = 32
    """Images a training step."""
    optimizer: Literal["adam", "adamw", "rmsprop", "sgd"] = "adam"
    """"sgd" is with a Nesterov momentum of 0.9; the others as Keras has them."""
    schedule: Literal["constant", "cosine", "plateau"] = "constant"
    """How the learning rate falls within a phase: not, by a cosine to 0 at the last epoch, or to
    a fifth whenever the loss on the eval split has not fallen for half of `patience`."""
    warmup_epochs: Annotated[int, Field(ge=0)] = 0
    """Epochs in which the learning rate of a phase rises from near 0 to its highest."""
    clip_norm: Annotated[float, Field(gt=0)] | None = None
    """Longest the gradient may be, over all weights; a longer one is scaled. None by default."""
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of each label's probability that is spread over all classes while training."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.2
    """Share of features dropped before the last layer while training."""
    class_weights: Literal["none", "balanced"] = "none"
    """"balanced": every class weighs as much in the loss, however many images it has."""
    early_stopping: Literal["loss", "accuracy", "mean_recall"] = "loss"
    """What must get better on the eval split: "loss" is the cross-entropy without label smoothing,
    "mean_recall" the mean over the classes. A phase ends with the weights of its best epoch, or
    with those that it set out from."""
    patience: Positive = 10
    """Epochs without anything better before a phase stops."""
    augment_views: Annotated[int, Field(ge=0)] = 0
    """Randomly changed views of each image. Each epoch trains on one view an image, in turn; 0
    trains on the images as they are. Cached features take that many times the time and space."""
    augment_rotation: Annotated[float, Field(ge=0, le=180)] = 45.0
    """Degrees to either side, at most; 0 switches it off."""
    augment_shift: Annotated[float, Field(ge=0, lt=1)] = 0.15
    """Share of width and of height to either side, at most; 0 switches it off."""
    augment_zoom: Annotated[float, Field(ge=0, lt=1)] = 0.3
    """Nearer or farther by this share, at most; 0 switches it off."""
    augment_flip: bool = True
    """Mirror every other image, left to right."""
    cache: Literal["auto", "off"] = "auto"
    """"auto": run the frozen layers once for each view and train on what they say, which is kept
    in memory or on disk; "off": run them every epoch. Training the whole base needs no cache."""
    cache_max_gb: Annotated[float, Field(gt=0)] = 50.0
    """GB (10^9 bytes) of disk the cache may take; what needs more is trained without."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """What the Trainer computes in; weights stay float32. "auto": float16 on GPUs that gain by it;
    "bfloat16": for CPUs with instructions for it (avx512_bf16, amx_bf16), and slow on others."""
    strategy: Literal["none", "mirrored"] = "none"
    """What trains together, each device on its part of `batch_size`: one device, or all of this
    machine."""
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    """Of everything random in training."""

    @property
    def trains_batch_norms(self) -> bool:
        """Whether fine-tuning learns the batch norms, too: only a base without any of its own."""
        untrained = self.base_weights == "random" and self.warm_start is None
        return untrained and self.fine_tune_from == WHOLE_BASE

    @field_validator("fine_tune_from")
    @classmethod
    def _is_a_place_in_the_base(cls, start: str | None, info: ValidationInfo) -> str | None:
        # A base that is wrong is not among what was validated before.
        if start is not None and "base" in info.data:
            BASES[info.data["base"]].check_start(start)
        return start

    @model_validator(mode="after")
    def _phases_fit_together(self) -> TrainerConfig:
        if not self.epochs and not self.fine_tune_epochs:
            raise ValueError("expected epochs or fine_tune_epochs to be above 0; received 0 and 0")
        if self.fine_tune_from and self.fine_tune_layers:
            raise ValueError(
                "expected fine_tune_from or fine_tune_layers, not both; received "
                f'"{self.fine_tune_from}" and {self.fine_tune_layers}'
            )
        if self.fine_tune_epochs and self.trains_batch_norms and self.epochs:
            raise ValueError(
                'expected epochs = 0 where all of a "random" base is trained: its batch norms '
                f"change what a head was trained on before; received {self.epochs}"
            )
        for epochs in filter(None, (self.epochs, self.fine_tune_epochs)):
            if self.warmup_epochs >= epochs:
                raise ValueError(
                    f"expected warmup_epochs below each phase's epochs; received "
                    f"{self.warmup_epochs} of {epochs}"
                )
        return self


class TunerConfig(_Section):
    """`[tuner]`: a search for better settings of `[trainer]`, before it trains."""

    trials: Annotated[int, Field(ge=0)] = 0
    """Trainings to try, each with other values of learning rates, dropout, label smoothing, head
    and, where `fine_tune_epochs` is above 0, the block to fine-tune from. The best values go to
    the Trainer; 0 leaves the search out."""


def _expand_preset(value: object) -> object:
    if isinstance(value, str):
        if value in PRESETS:
            return PRESETS[value]
        *others, last = (f'"{name}"' for name in PRESETS)
        meant = f'; did you mean ["{value}"]?' if value in get_args(VariantName) else ""
        raise ValueError(
            f"expected a list of variants, or one of {', '.join(others)} or {last}; "
            f'received "{value}"{meant}'
        )
    return tuple(value) if isinstance(value, list) else value


def _each_once(values: tuple[str, ...]) -> tuple[str, ...]:
    if not values or len(set(values)) != len(values):
        raise ValueError(f"expected at least one name, each once; received {in_toml(values)}")
    return values


class RewriterConfig(_Section):
    """`[rewriter]`: which TFLite models are made."""

    variants: Annotated[
        tuple[Variant, ...], BeforeValidator(_expand_preset), AfterValidator(_each_once)
    ] = ("float32", "float16")
    """A preset ("default": float32 and float16, "storage": float16, dynamic and int8, "speed":
    float16 and int8), or a list of "float32", "float16" (half the size), "weight_int8" and
    "weight_int4" (small weights, computed in float), "dynamic" and "dynamic_int4" (small weights,
    computed in integers as far as that goes without calibration), "int8" (integers inside),
    "int8_io" (uint8 in and out too, for integer-only accelerators), "int16x8" (int16 activations;
    slow), "mixed" (searched for: a choice for each layer)."""
    mixed: Aim = "smallest"
    """Which recipe becomes the variant "mixed": the smallest or the fastest that loses at most
    `gate.max_drop` on the eval split, or the most accurate within `gate.max_size_mb`."""
    mixed_trials: Annotated[int, Field(ge=8)] = 40
    """Recipes that the search for it measures, at most."""
    mixed_minutes: Annotated[float, Field(gt=0)] = 15.0
    """Minutes after which the search ends with what it has."""
    calibration_images: Positive = 200
    """Images of the train split to calibrate the integer variants with, balanced by class."""
    timeout: Positive = 900
    """Seconds one conversion may take; the search for "mixed" takes its minutes besides."""


class GateConfig(_Section):
    """`[gate]`: what a model must reach before it is published; fractions are from 0 to 1."""

    split: Split = "test"
    """The split it is measured on."""
    evidence: Literal["interval", "point"] = "interval"
    """What decides on a share, a drop or an AUC: all of its 95% interval, or the figure alone."""
    unproven: Literal["accept", "refuse"] = "accept"
    """What becomes of a figure whose interval has the threshold inside: "accept" decides by the
    figure, and says that it is not proved; "refuse" publishes only what is proved."""
    min_accuracy: Fraction
    """Overall accuracy, of the float model and of every variant. No default: state what you need,
    and that it is more than the majority class's share."""
    min_auc: Fraction | None = None
    """Area under the ROC curve, averaged over the classes; none by default."""
    min_slice_accuracy: dict[str, Fraction] = {}
    """By slice key: the accuracy that each of its values must reach; none by default."""
    min_precision: dict[str, Fraction] = {}
    """By class: of the images said to be of it, the share that is; none by default."""
    min_recall: dict[str, Fraction] = {}
    """By class: of its images, the share that is found; none by default."""
    max_calibration_error: Fraction | None = None
    """Mean gap between confidence and accuracy (expected calibration error); none by default."""
    max_drop: Fraction = 0.01
    """Accuracy a variant may lose against the float model."""
    max_drop_deployed: Fraction | None = 0.01
    """Accuracy a variant may lose against the release on the channel now, on the same images."""
    min_agreement: Fraction | None = None
    """Share of images for which a variant says what the float model says; none by default."""
    max_size_mb: Annotated[float, Field(gt=0)] | None = None
    """Size of a variant's file in MB (10^6 bytes); none by default."""
    max_latency_p50_ms: Annotated[float, Field(gt=0)] | None = None
    """Median milliseconds an image on the machine that runs the pipeline, all its cores. Where that
    was busy, no latency is gated on, unless `unproven` is "refuse"."""
    max_latency_p95_ms: Annotated[float, Field(gt=0)] | None = None
    """95th percentile of the same."""
    max_latency_ratio: Annotated[float, Field(gt=0)] | None = None
    """Median latency relative to the float32 variant's in the same run, which must be made too."""
    require: tuple[Variant, ...] = ()
    """Variants without which nothing is published; by default any that passed is enough."""
    publish: Literal["passed", "required"] = "passed"
    """Which of the variants that passed are published: all, or only the required ones."""


def _no_key_itself(uri: str) -> str:
    # Not quoted in the error either: this file may be public, and so may be a log.
    if "PRIVATE KEY" in uri:
        raise ValueError("expected where the key is, such as a path; received a private key itself")
    return uri


class RegistryConfig(_Section):
    """`[registry]`: where models that earned it go, and what the pipeline signs them with.

    It may be left out, where there is no fleet yet: a run then ends with a folder of files.
    `edgeline registry init` makes the registry and the keys. Credentials for a server come from
    Docker's config.json, a passphrase from the environment variable EDGELINE_PASSPHRASE.
    """

    location: Annotated[
        str,
        _text("oci://.+|(?!.*://).+", 'a directory, or "oci://host[:port]/repository" of a server'),
    ] = "registry"
    """A directory, or "oci://host[:port]/repository" of a registry server."""
    channel: Literal["candidate", "canary"] = "candidate"
    """The channel that then serves the release; "production" takes `edgeline registry promote`."""
    root: Path = Path("keys/root.json")
    """The trusted root, public, that `edgeline registry init` made: all signatures lead to it."""
    keys: tuple[Annotated[str, AfterValidator(_no_key_itself)], ...] = ()
    """Where the signing keys are, never the keys: paths of PEM files or of folders with some,
    "envvar:NAME", or "<key id>=<URI>" of a KMS; by default online.pem and <name>-ci.pem beside
    `root`."""
    ca_file: Path | None = None
    """Certificates (PEM) to trust instead of the system's; for oci:// only, as those below."""
    client_cert: Path | None = None
    """Certificate (PEM) of this client, for mutual TLS."""
    client_key: Path | None = None
    """Its key (PEM), unless it is in `client_cert`."""
    insecure: bool = False
    """Allow plain HTTP to other hosts than this one."""

    @property
    def connection(self) -> Connection:
        """How to reach a registry server."""
        return Connection(self.ca_file, self.client_cert, self.client_key, self.insecure)


class RunConfig(_Section):
    """`[run]`: where a run keeps its artifacts."""

    root: Path = Path("runs")
    """Folder of the artifacts, the metadata store and the logs, in a subfolder by model name. Its
    path has no `*`, `?`, `[` and no backslash, which TFX takes for patterns; a dataset's may."""


BeamStep = Literal["StatisticsGen", "Transform", "Evaluator", "TFLitePredictor"]


class BeamConfig(_Section):
    """`[beam]`: how data-parallel steps run."""

    args: tuple[str, ...] = ()
    """Apache Beam pipeline options such as "--runner=FlinkRunner"; in-process by default."""
    steps: dict[BeamStep, tuple[str, ...]] = {}
    """Options of single steps, which override `args`."""


# As Kubernetes names claims and secrets.
KubernetesName = Annotated[
    str,
    _text(
        "[a-z0-9]([-a-z0-9]*[a-z0-9])?",
        "small letters, digits and hyphens between them, at most 63",
        most=63,
    ),
]
ClusterPath = Annotated[str, _text("/.+", 'a path that begins with /, such as "/data"')]
ArtifactStore = Annotated[
    str, _text("(minio|s3|gs)://.+", 'an address such as "s3://bucket/folder"')
]
KubeflowStep = Literal[
    "Plan",
    "ImportExampleGen",
    "StatisticsGen",
    "ImportSchemaGen",
    "ExampleValidator",
    "Transform",
    "Tuner",
    "Trainer",
    "Evaluator",
    "TFLiteRewriter",
    "TFLitePredictor",
    "TFLiteEvaluator",
    "Report",
    "EdgePusher",
]
Gpu = Literal["nvidia.com/gpu", "amd.com/gpu", "gpu.intel.com/i915", "gpu.intel.com/xe"]


class TolerationConfig(_Section):
    """`[[kubeflow.steps.STEP.tolerations]]`: a taint of nodes that the step may run on."""

    key: str = ""
    """Of the taint; empty for any, which takes operator "Exists"."""
    operator: Literal["Exists", "Equal"] = "Equal"
    """Whether the taint's value must be `value`."""
    value: str = ""
    """Of the taint."""
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None = None
    """Of the taint; any by default."""

    @model_validator(mode="after")
    def _is_as_kubernetes_takes_it(self) -> TolerationConfig:
        if self.operator == "Exists" and self.value:
            raise ValueError(f'expected no value with operator "Exists"; received "{self.value}"')
        if self.operator == "Equal" and not self.key:
            raise ValueError('expected a key with operator "Equal"; received none')
        return self


class KubeflowStepConfig(_Section):
    """`[kubeflow.steps.STEP]`: what a step gets in the cluster."""

    cpu: Annotated[float, Field(gt=0)] | None = None
    """Cores, reserved and at most; the namespace's default by default."""
    memory_gb: Annotated[float, Field(gt=0)] | None = None
    """GB (10^9 bytes) of memory, reserved and at most; the namespace's default by default."""
    gpu_count: Annotated[int, Field(ge=0)] = 0
    """GPUs."""
    gpu_type: Gpu = "nvidia.com/gpu"
    """As the cluster's device plugin names the resource."""
    node_selector: dict[str, str] = {}
    """Labels of the nodes that the step may run on."""
    tolerations: tuple[TolerationConfig, ...] = ()
    """Taints of the nodes that the step may run on."""
    retries: Annotated[int, Field(ge=0)] | None = None
    """How often the step is tried again after a failure, half a minute later, then a minute, ...;
    by default twice, but not the first and the last step, which fail for what they found wrong."""

    @model_validator(mode="after")
    def _gpus_are_asked_for(self) -> KubeflowStepConfig:
        if "gpu_type" in self.model_fields_set and not self.gpu_count:
            raise ValueError(
                f"expected gpu_count above 0 with gpu_type {self.gpu_type}; received 0"
            )
        return self


class ClaimConfig(_Section):
    """A volume that is there before the run: the name of its claim, and where steps see it."""

    claim: KubernetesName
    """Name of the PersistentVolumeClaim."""
    mount: ClusterPath
    """Folder in the steps' file system."""


class KubeflowConfig(_Section):
    """`[kubeflow]`: how the same pipeline runs on Kubeflow (`python kubeflow/compile.py`)."""

    dataset: ClusterPath = "/data/dataset"
    """The dataset's folder as steps see it; what `data.path` is on this machine."""
    data_volume: ClaimConfig = ClaimConfig(claim="edgeline-data", mount="/data")
    """Holds the dataset, and the base's weights where `trainer.base_weights` is a path."""
    beam_volume: ClaimConfig | None = None
    """Mounted by the workers of a distributed Beam runner, too, as is `data_volume`: they then find
    the artifacts of the steps that `[beam]` sends there; without it, only on a "gs://" root."""
    registry: Annotated[str, Field(min_length=1)] | None = None
    """The registry as steps reach it; `registry.location` by default."""
    registry_volume: ClaimConfig | None = None
    """Holds the registry where that is a directory."""
    signing_keys: KubernetesName | None = None
    """Secret whose files are those that `registry.keys` names, and `passphrase` if they have one;
    no default where there is such a file."""
    registry_login: KubernetesName | None = None
    """Secret with a registry server's credentials: `config.json` as Docker writes it, `ca.crt`
    where `registry.ca_file` is set, `tls.crt` and `tls.key` for `registry.client_cert` and
    `client_key`; anonymous by default."""
    image_pull_secret: KubernetesName | None = None
    """Secret to pull the steps' image with; the namespace's default by default."""
    pipeline_root: ArtifactStore | None = None
    """Where artifacts go, "minio://", "s3://" or "gs://"; the cluster's default by default."""
    steps: dict[KubeflowStep, KubeflowStepConfig] = {}
    """What single steps get."""

    def step(self, name: str) -> KubeflowStepConfig:
        """What a step gets."""
        return next((got for key, got in self.steps.items() if key == name), KubeflowStepConfig())


class Config(_Section):
    """A whole configuration."""

    name: Name
    """The model's name in the registry."""
    ingest: IngestConfig = IngestConfig()
    data: DataConfig
    image: ImageConfig = ImageConfig()
    trainer: TrainerConfig = TrainerConfig()
    tuner: TunerConfig = TunerConfig()
    rewriter: RewriterConfig = RewriterConfig()
    gate: GateConfig
    registry: RegistryConfig | None = None
    run: RunConfig = RunConfig()
    beam: BeamConfig = BeamConfig()
    kubeflow: KubeflowConfig = KubeflowConfig()

    @property
    def publishing(self) -> RegistryConfig:
        """`[registry]`, of a configuration that publishes.

        Raises:
            UserError: there is none.
        """
        if self.registry is None:
            raise UserError("registry: missing; expected the section [registry], to publish to")
        return self.registry

    @property
    def key_uris(self) -> tuple[str, ...]:
        """Where the keys are that releases are signed with.

        Raises:
            UserError: there is no registry.
        """
        beside = self.publishing.root.parent
        default = (str(beside / "online.pem"), str(beside / f"{self.name}-ci.pem"))
        return self.publishing.keys or default

    @property
    def search(self) -> SearchSettings | None:
        """What the variant `mixed` is searched by; None where it is not made."""
        if "mixed" not in self.rewriter.variants:
            return None
        return SearchSettings(
            aim=self.rewriter.mixed,
            max_drop=self.gate.max_drop,
            max_size_mb=self.gate.max_size_mb,
            trials=self.rewriter.mixed_trials,
            minutes=self.rewriter.mixed_minutes,
        )

    @model_validator(mode="after")
    def _what_is_tuned_is_free(self) -> Config:
        if self.tuner.trials and self.trainer.warm_start:
            raise ValueError("expected tuner.trials = 0 with trainer.warm_start, whose head is set")
        if self.tuner.trials and self.trainer.fine_tune_from == WHOLE_BASE:
            raise ValueError(
                'expected tuner.trials = 0 with trainer.fine_tune_from = "all": without frozen '
                "layers, there are no features that make trials cheap"
            )
        return self


def load_config(path: Path, overrides: Sequence[str] = ()) -> Config:
    """Reads and checks a configuration file.

    Args:
        path: of the TOML file.
        overrides: `section.key=value` each, the value as in TOML; a bare word is a string.

    Raises:
        UserError: the file can't be read, or a key or value is wrong; a line for each, naming
            file, key, what was expected and what was received.
    """
    document = read_toml(path)
    for override in overrides:
        _apply_override(document, override)
    return parse_config(document, str(path))


def read_toml(path: Path) -> dict[str, Any]:
    """Reads a TOML file, as it is.

    Raises:
        UserError: it can't be read, or is not TOML.
    """
    try:
        return tomli.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{path}: can't be read: {error.strerror}") from error
    except tomli.TOMLDecodeError as error:
        hint = "; a text is in quotes" if str(error).startswith("Invalid value") else ""
        raise UserError(f"{path}: not valid TOML: {error}{hint}") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not valid TOML: {error}") from error


def parse_config(document: Mapping[str, Any], source: str) -> Config:
    """Checks a configuration that is already in memory; `source` names it in errors.

    Raises:
        UserError: as `load_config`.
    """
    return _parse(Config, document, source)


def parse_ingest_settings(settings: Mapping[str, Any], source: str) -> IngestConfig:
    """Checks settings of `[ingest]` that are already in memory; `source` names them in errors.

    Raises:
        UserError: as `load_config`.
    """
    return _parse(IngestConfig, settings, source, ("ingest",))


def parse_ingest_config(path: Path | None, overrides: Sequence[str]) -> IngestConfig:
    """The `[ingest]` section of a file (or the defaults), overridden as in `load_config`.

    Raises:
        UserError: as `load_config`.
    """
    if path:
        return load_config(path, overrides).ingest
    document: dict[str, Any] = {}
    for override in overrides:
        _apply_override(document, override)
    unknown = set(document) - {"ingest"}
    if unknown:
        raise UserError(
            f"--set {unknown.pop()}: without --config only ingest.* can be set, "
            f"one of: {', '.join(IngestConfig.model_fields)}"
        )
    return parse_ingest_settings(document.get("ingest", {}), "--set")


def flattened(table: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Settings by their whole names, such as "trainer.epochs"; an empty section says nothing."""
    flat: dict[str, Any] = {}
    for key, value in table.items():
        name = f"{prefix}{key}"
        flat |= flattened(value, f"{name}.") if isinstance(value, Mapping) else {name: value}
    return flat


def _parse(model: Any, document: Mapping[str, Any], source: str, at: tuple[str, ...] = ()) -> Any:
    # By way of JSON, whose strict mode takes an array for a tuple and a string for a path.
    try:
        return model.model_validate_json(json.dumps(document, default=str))
    except ValidationError as error:
        lines = [f"{source}: {describe(problem, Config, at)}" for problem in error.errors()]
        raise UserError("\n".join(lines)) from None


def _apply_override(document: dict[str, Any], override: str) -> None:
    key, equals, raw = override.partition("=")
    *sections, name = key.strip().split(".")
    if not equals or not name:
        raise UserError(f"--set {override}: expected KEY=VALUE, such as trainer.epochs=3")
    table: Any = document
    for section in sections:
        table = table.setdefault(section, {})
        if not isinstance(table, dict):
            raise UserError(f"--set {override}: {section} is a value, not a section")
    table[name] = _toml_value(raw.strip())


def _toml_value(raw: str) -> Any:
    try:
        return tomli.loads(f"value = {raw}")["value"]
    except tomli.TOMLDecodeError:
        return raw
