"""Trains a classifier in two phases: a head on the frozen base, then the base's end with it.

Each phase trains on what lies before its frontier, computed once and kept (`features`), or where
that is not wanted or does not fit, on pixels. Either way it is the same layers that are trained on
the same views of the same images, and the joined model is built in the same way.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator
from contextlib import contextmanager

import keras
import numpy as np
import tensorflow as tf

from components.trained_model import FEATURES_FILE
from pipeline.data.preprocessing import PIXELS
from pipeline.errors import TrainingError, UserError
from pipeline.training import features, replicated
from pipeline.training.augmentation import Augmentation
from pipeline.training.callbacks import (
    ConfusionMatrix,
    Progress,
    StopOnDivergence,
    write_images,
)
from pipeline.training.checkpoint import Checkpoint, Curves, State, restore
from pipeline.training.features import FeatureStore, Frozen, LabelledExamples
from pipeline.training.frontier import Split, first_trained, split, unfreeze
from pipeline.training.inputs import Cache, Job, cached_inputs, pixel_inputs
from pipeline.training.model import Statistics, build_head, head_input, join
from pipeline.training.recipe import (
    EarlyStopping,
    MeanRecall,
    best,
    compile_model,
    loss,
    schedule_callbacks,
)

HEAD = "head"
FINE_TUNE = "fine_tune"
CLASSIC_LAYERS = 5
STATISTICS_ROWS = 2048  # enough for a mean and a variance
KEPT_IMAGES = 20_000  # evenly over the train split; their features take 40 MB with 1,024 channels
SHOWN_IMAGES = 8  # in TensorBoard, of the train split
SHOWN_VIEWS = 4  # of each

_LOG = logging.getLogger(__name__)


def train(
    base: keras.Model, job: Job, head: keras.Model | None = None
) -> tuple[keras.Model, Curves]:
    """Trains a classifier on a base.

    Args:
        base: frozen; its end is fine-tuned in place.
        job: the data and the recipe; where it has several devices, this runs in their scope.
        head: to go on from; None builds one.

    Returns:
        Base and head joined, and the curves by name: "head/loss" and so on, a value an epoch.

    Raises:
        UserError: a setting that does not fit the base or the data; before anything is computed.
        TrainingError: the training diverged, or memory or disk ran out.
    """
    first = check(base, job)
    write_augmented(job)
    part = split(base, first) if job.config.fine_tune_epochs else None
    caches = _caches(base, part, job)
    try:
        head = head or _new_head(base, part, caches, job)
        curves: Curves = {}
        if job.config.epochs:
            curves |= train_head(base, head, caches.get(HEAD), job)
        if part:
            unfreeze(
                base,
                first,
                batch_norms=job.config.trains_batch_norms,
                synchronized=job.devices.strategy is not None,
            )
            before = best(curves, job.config)
            curves |= fine_tune(base, head, part, caches.get(FINE_TUNE), job, before)
        if job.keep_features:
            _keep_features(part, caches, job)
    finally:
        for cache in caches.values():
            cache.close()
    return join(base, head), curves


def check(base: keras.Model, job: Job) -> int:
    """Checks the settings that can't be checked without the base; leaves it frozen.

    Returns:
        The index of the first layer that fine-tuning trains.

    Raises:
        UserError: they don't fit.
    """
    config = job.config
    if config.batch_size > len(job.train):
        raise UserError(
            f"trainer.batch_size: expected at most the train split's {len(job.train)} images; "
            f"received {config.batch_size}"
        )
    last_layers = config.fine_tune_layers or CLASSIC_LAYERS
    job.devices.check(config.batch_size)
    first = first_trained(base, config.fine_tune_from, last_layers)
    if config.fine_tune_epochs:
        unfreeze(base, first, batch_norms=config.trains_batch_norms)
    base.trainable = False
    return first


def train_head(base: keras.Model, head: keras.Model, cache: Cache | None, job: Job) -> Curves:
    """Fits the head on the frozen base; returns its curves."""
    # Not the head itself, which would carry its optimizer into the joined model.
    model = keras.Model(head.input, head.output) if cache else join(base, head)
    return _fit(HEAD, model, cache, job.config.epochs, job.config.learning_rate, job)


def fine_tune(
    base: keras.Model,
    head: keras.Model,
    part: Split,
    cache: Cache | None,
    job: Job,
    before: float | None = None,
) -> Curves:
    """Fits whatever is trainable in base and head; returns its curves.

    Where nothing gets better than `before`, what is monitored at the outset, both stay as they are.
    """
    if cache:
        inputs = keras.Input(part.suffix.input_shape[1:])
        model = keras.Model(inputs, head(part.suffix(inputs)))
    else:
        model = join(base, head)
    rate = job.config.fine_tune_learning_rate
    return _fit(FINE_TUNE, model, cache, job.config.fine_tune_epochs, rate, job, before)


def write_augmented(job: Job) -> None:
    """Writes some training images, each in a few of its views, for TensorBoard."""
    batch = next(iter(job.train.examples.batches(SHOWN_IMAGES)))[PIXELS]
    views = job.augmentation.all_views(batch, tf.range(len(batch), dtype=tf.int64))
    rows = job.augmentation.rows
    shown = [views[first : first + SHOWN_VIEWS] for first in range(0, len(views), rows)]
    shown = [group[: min(rows, SHOWN_VIEWS)] for group in shown]
    write_images("training images", tf.concat(shown, axis=0), job.log_dir / "augmented")


def _caches(base: keras.Model, part: Split | None, job: Job) -> dict[str, Cache]:
    """Computes what the phases train on, by phase; nothing where there is no cache."""
    if job.config.cache == "off":
        return {}
    networks = _frozen_networks(base, part, job)
    sizes = {
        features.store_name(f"{name}-{split}", rows): features.store_bytes(
            rows, network.output_shape[1:]
        )
        for name, network in networks.values()
        for split, rows in zip(("train", "eval"), _rows(job), strict=True)
    }
    storage = features.choose_storage(
        sizes,
        job.shared_cache_dir or job.state_dir,
        job.config.cache_max_gb * 1e9,
        in_memory=job.shared_cache_dir is None,
    )
    if not networks or storage is None:
        return {}
    caches: dict[str, Cache] = {}
    for phase, (name, network) in networks.items():
        shape = network.output_shape[1:]
        train_rows, eval_rows = _rows(job)
        cache = Cache(
            storage.store(f"{name}-train", train_rows, shape),
            storage.store(f"{name}-eval", eval_rows, shape),
        )
        with _out_of_memory_explained("computing features", "a smaller image.height and width"):
            if FINE_TUNE in caches:
                _extract_further(part, job, caches[FINE_TUNE], cache)
            else:
                _extract(network, base, job, cache)
        caches[phase] = cache
    return caches


def _frozen_networks(
    base: keras.Model, part: Split | None, job: Job
) -> dict[str, tuple[str, keras.Model]]:
    """By phase: the name of what is kept, and the network from normalized pixels to there.

    Fine-tuning's comes first: from its frontier it is not far to the head's.
    """
    networks = {}
    if part and part.prefix:
        networks[FINE_TUNE] = (part.cut, part.prefix)
    if job.config.epochs:
        networks[HEAD] = (f"features-{job.config.head}", head_input(base, job.config.head))
    return networks


def _rows(job: Job) -> tuple[int, int]:
    return len(job.train) * job.augmentation.rows, len(job.evaluation)


def _extract(network: keras.Model, base: keras.Model, job: Job, cache: Cache) -> None:
    if cache.is_complete:
        return
    frozen = Frozen(network, of_pixels=base, devices=job.devices)
    unchanged = Augmentation(0, 0, 0, 0, False, 0)
    features.extract_from_pixels(frozen, job.train, job.augmentation, cache.train)
    features.extract_from_pixels(frozen, job.evaluation, unchanged, cache.evaluation)


def _extract_further(part: Split | None, job: Job, source: Cache, cache: Cache) -> None:
    """From the fine-tuning's frontier on to the head's, which is cheap: a few layers."""
    if cache.is_complete:
        return
    assert part is not None
    network = Frozen(head_input(part.suffix, job.config.head), devices=job.devices)
    features.extract_from_store(network, source.train, cache.train)
    features.extract_from_store(network, source.evaluation, cache.evaluation)


def _new_head(
    base: keras.Model, part: Split | None, caches: dict[str, Cache], job: Job
) -> keras.Model:
    config = job.config
    statistics = _statistics(base, part, caches, job)
    # Whatever drew random numbers before: the head is the same after a resumed extraction.
    keras.utils.set_random_seed(config.seed)
    shape = base.output_shape[1:]
    return build_head(config.head, shape, len(job.labels), config.dropout, statistics)


def _statistics(
    base: keras.Model, part: Split | None, caches: dict[str, Cache], job: Job
) -> Statistics | None:
    """Of some training images, for a head that needs them: the same with a cache and without."""
    if job.config.head != "pool" or job.config.trains_batch_norms:
        return None
    views = job.augmentation.rows
    images = min(len(job.train), max(1, STATISTICS_ROWS // views))
    pooled = head_input(base, "pool")
    store = FeatureStore(images * views, pooled.output_shape[1:], None)
    if HEAD in caches:
        store = caches[HEAD].train
    elif FINE_TUNE in caches and part:
        source = caches[FINE_TUNE].train
        further = Frozen(head_input(part.suffix, "pool"), devices=job.devices)
        features.extract_from_store(further, source, store)
    else:
        some = LabelledExamples(job.train.examples, job.train.label_ids[:images])
        frozen = Frozen(pooled, of_pixels=base, devices=job.devices)
        features.extract_from_pixels(frozen, some, job.augmentation, store)
    return Statistics.of(store.read(np.arange(images * views))[:, 0, 0])


def _keep_features(part: Split | None, caches: dict[str, Cache], job: Job) -> None:
    """Leaves the pooled features of training images, made by the trained base from what is cached.

    Of each image the first view. Where there is no cache, it would take a pass over the images, and
    is not done.
    """
    if part and FINE_TUNE in caches:
        source, further = caches[FINE_TUNE].train, Frozen(head_input(part.suffix, "pool"))
    elif part is None and HEAD in caches:
        source, further = caches[HEAD].train, None
    else:
        _LOG.info("features of training images are not kept: there is no cache to make them from")
        return
    count = min(len(job.train), KEPT_IMAGES)
    rows = np.linspace(0, len(job.train) - 1, count).astype(np.int64)
    kept = []
    for batch in np.array_split(rows, math.ceil(count / features.PREDICT_BATCH)):
        values = source.read(batch * job.augmentation.rows)
        kept.append((further(tf.constant(values)) if further else values).mean(axis=(1, 2)))
    np.savez(
        job.log_dir / FEATURES_FILE, features=np.concatenate(kept).astype(np.float16), rows=rows
    )


def _fit(
    phase: str,
    model: keras.Model,
    cache: Cache | None,
    epochs: int,
    learning_rate: float,
    job: Job,
    before: float | None = None,
) -> Curves:
    """Fits a model for a phase, from wherever a killed run left it; returns its curves."""
    config, devices = job.config, job.devices
    path = job.state_dir / f"{phase}.npz"
    state = State.of_bytes(path.read_bytes() if path.is_file() else b"")
    if state.finished:
        _LOG.info("%s: done by an earlier run", phase)
        restore(model, state)
        return _named(phase, state.curves)
    inputs = cached_inputs(cache, job) if cache else pixel_inputs(job)
    steps = len(inputs.batch_sizes)
    keras.utils.set_random_seed(config.seed)
    metrics = compile_model(model, config, learning_rate, steps, epochs)
    remembering = [*schedule_callbacks(config, learning_rate), EarlyStopping(config, before)]
    checkpoint = Checkpoint(path, state, remembering)
    callbacks = [
        *_watching(phase, metrics.recall, epochs, learning_rate, job),
        *remembering,
        checkpoint,
    ]
    if state.epochs:
        _LOG.info("%s: going on after epoch %d of an earlier run", phase, state.epochs)
    smaller = max(1, config.batch_size // 2 // devices.replicas) * devices.replicas
    with _out_of_memory_explained(phase, f"trainer.batch_size = {smaller}"):
        if devices.strategy:
            replicated.fit(
                model,
                inputs,
                devices,
                loss(config, None),
                metrics,
                first_epoch=state.epochs,
                epochs=epochs,
                callbacks=callbacks,
            )
        else:
            model.fit(
                inputs.epochs(state.epochs, epochs),
                validation_data=inputs.evaluation,
                initial_epoch=state.epochs,
                epochs=epochs,
                steps_per_epoch=steps,
                callbacks=callbacks,
                verbose=2,
            )
    checkpoint.finish(model)
    return _named(phase, checkpoint.curves)


def _watching(
    phase: str, recall: MeanRecall, epochs: int, learning_rate: float, job: Job
) -> list[keras.callbacks.Callback]:
    log_dir = job.log_dir / phase
    setting = "learning_rate" if phase == HEAD else "fine_tune_learning_rate"
    remedy = f"try a lower trainer.{setting} than {learning_rate:g}, or trainer.clip_norm = 1.0"
    return [
        StopOnDivergence(phase, len(job.labels), remedy),
        Progress(phase, len(job.train), job.config.batch_size, epochs),
        keras.callbacks.TensorBoard(log_dir=str(log_dir), write_graph=False),
        ConfusionMatrix(recall, job.labels, log_dir / "confusion"),
    ]


def _named(phase: str, curves: Curves) -> Curves:
    return {f"{phase}/{name}": values for name, values in curves.items()}


@contextmanager
def _out_of_memory_explained(phase: str, remedy: str) -> Iterator[None]:
    try:
        yield
    except (MemoryError, tf.errors.ResourceExhaustedError) as error:
        raise TrainingError(f"out of memory in the {phase} phase: try {remedy}") from error
