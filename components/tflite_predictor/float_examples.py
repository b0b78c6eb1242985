"""What the float model said, as examples: TFX's Evaluator judges them, and needs no model for it.

So a run with another threshold does not predict again, and the Evaluator and the verdict on the
variants are about the same numbers.
"""

from __future__ import annotations

from pathlib import Path

import tensorflow as tf

from components.feature_names import PROBABILITIES, TRUE_LABEL_ID
from components.predictions import Predictions

FILE_EXAMPLES = 1 << 15  # a worker of an engine reads a file


def write_float_examples(predictions: Predictions, folder: Path) -> None:
    """Writes an example for each image: its label, what the float model says, and its slices.

    Args:
        predictions: of a split.
        folder: of the split in an Examples artifact; made if it isn't there.
    """
    folder.mkdir(parents=True, exist_ok=True)
    examples = len(predictions.label_ids)
    for number, first in enumerate(range(0, examples, FILE_EXAMPLES)):
        file = folder / f"predictions-{number:05d}.tfrecord"
        with tf.io.TFRecordWriter(str(file)) as writer:
            for index in range(first, min(first + FILE_EXAMPLES, examples)):
                writer.write(_example(predictions, index).SerializeToString())


def _example(predictions: Predictions, index: int) -> tf.train.Example:
    label_id, said = predictions.label_ids[index], predictions.float_model[index]
    features = {
        TRUE_LABEL_ID: tf.train.Feature(int64_list=tf.train.Int64List(value=[label_id])),
        PROBABILITIES: tf.train.Feature(float_list=tf.train.FloatList(value=said)),
    }
    for key, values in predictions.slices.items():
        value = tf.train.BytesList(value=[str(values[index]).encode()])
        features[key] = tf.train.Feature(bytes_list=value)
    return tf.train.Example(features=tf.train.Features(feature=features))
