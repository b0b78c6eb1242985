"""Which settings of which steps `Plan` settles when a run starts.

They depend on the run's parameters, on the data, on what the channel serves, or on the code in the
image. All others are in the specification from the start.
"""

from __future__ import annotations

from collections.abc import Container, Mapping

from pipeline.kubeflow.names import DATASET_DIGEST

# The dataset's digest is no setting of TFX's: it makes a cached result stale when data changed in
# place, which Kubeflow's cache would not notice.
PLANNED: dict[str, tuple[str, ...]] = {
    "ImportExampleGen": ("input_base", DATASET_DIGEST),
    "ImportSchemaGen": ("schema_file", DATASET_DIGEST),
    "StatisticsGen": ("code_digest",),
    "Transform": ("custom_config",),
    "Tuner": ("custom_config",),
    "Trainer": ("custom_config",),
    "Evaluator": ("eval_config",),
    "TFLiteRewriter": ("search", "code_digest"),
    "TFLitePredictor": ("slice_keys", "registry", "baseline_digest", "code_digest"),
    "TFLiteEvaluator": (
        "min_accuracy",
        "max_drop",
        "gate",
        "inputs_digest",
        "made_from",
        "code_digest",
    ),
    "EdgePusher": ("registry", "channel", "origin"),
}


def planned_for(steps: Container[str]) -> Mapping[str, tuple[str, ...]]:
    """The planned settings of a pipeline's steps; some pipelines have no Tuner."""
    return {step: names for step, names in PLANNED.items() if step in steps}
