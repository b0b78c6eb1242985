"""Where DenseNet121 can be cut, by name: for settings that are checked before Keras is loaded.

A dense block's layers pass their input on beside their output: only what follows a whole block
(`conv5_block15_concat`) is a single tensor. So training can start at a block or a stage.
"""

from __future__ import annotations

import difflib

# Dense blocks by stage, as in keras.applications.densenet (Huang et al. 2017, table 1).
BLOCKS_BY_STAGE = {"conv2": 6, "conv3": 12, "conv4": 24, "conv5": 16}
WHOLE_BASE = "all"
STARTS = (
    WHOLE_BASE,
    *BLOCKS_BY_STAGE,
    *(f"{stage}_block{i + 1}" for stage, count in BLOCKS_BY_STAGE.items() for i in range(count)),
)


def check_start(name: str) -> str:
    """Returns the name of a place where training can start.

    Args:
        name: "all", a stage ("conv5") or a block ("conv5_block16").

    Raises:
        ValueError: there is no such place, or it is inside a block.
    """
    if name in STARTS:
        return name
    block = next((b for b in reversed(STARTS) if "_block" in b and name.startswith(f"{b}_")), None)
    if block:
        raise ValueError(
            f"{name} is inside {block}, which can only be cut before and after; expected "
            f'"{block}", or fine_tune_layers to train a part of it'
        )
    close = difflib.get_close_matches(name, STARTS, n=1)
    hint = f'; did you mean "{close[0]}"?' if close else ""
    raise ValueError(
        f'expected "all", a stage from "conv2" to "conv5" or one of its blocks, such as '
        f'"conv5_block16"; received "{name}"{hint}'
    )
