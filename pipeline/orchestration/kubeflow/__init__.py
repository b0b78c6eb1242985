"""The same pipeline on Kubeflow Pipelines v2: its specification, and what runs in its containers.

- `compiler` makes the specification from `create_pipeline`, for `kubeflow/compile.py`;
- `plan` is the first step: it checks what a run needs and settles what only then is known;
- `step` is the entry point of every other step: `tfx_step` has TFX run it, unless it needs no TFX;
- `imports` makes the dataset on a mounted volume the artifacts that the others read;
- `report` is the step that shows the verdict in Kubeflow's pages.
"""
