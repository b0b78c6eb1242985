"""Reads and packs TFLite flatbuffers.

LiteRT Quantizer appends the weights of larger models to the flatbuffer, which then holds only where
they are: to read them and to pack them again, they have to be taken in.
"""

from __future__ import annotations

from typing import Any

import flatbuffers
import numpy as np
from ai_edge_litert.tools import flatbuffer_utils as schema

MODEL_IDENTIFIER = b"TFL3"


class _AlignedBuilder(flatbuffers.Builder):
    """Aligns byte vectors to 16, as the TFLite schema demands of weights (`force_align: 16`).

    The Python code generated from that schema leaves the attribute out, so that packing a model
    again would move its weights to addresses the runtime's fast kernels don't expect.
    """

    def StartVector(self, size: int, count: int, alignment: int) -> int:  # noqa: N802
        """See the base class."""
        return int(super().StartVector(size, count, 16 if size == 1 else alignment))


def unpack(model: bytes) -> Any:
    """Returns a model's tables (`ModelT`), each buffer with its content."""
    table = schema.ModelT.InitFromPackedBuf(model)
    content = np.frombuffer(model, np.uint8)
    for buffer in table.buffers:
        if buffer.offset > 1:  # 1 stands for none
            buffer.data = content[buffer.offset : buffer.offset + buffer.size]
        buffer.offset = buffer.size = 0
    return table


def pack(table: Any) -> bytes:
    """Packs what `unpack` returned."""
    builder = _AlignedBuilder(1 << 20)
    builder.Finish(table.Pack(builder), file_identifier=MODEL_IDENTIFIER)
    return bytes(builder.Output())
