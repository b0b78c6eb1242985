"""What TFLiteRewriter makes."""

from __future__ import annotations

from dataclasses import dataclass

from components.tflite_rewriter.variants import SearchSettings


@dataclass(frozen=True)
class Settings:
    """Which variants are made, and how.

    Attributes:
        variants: names, see `components.tflite_rewriter.variants.VARIANTS`.
        calibration_images: how many images of the train split to calibrate and check with.
        timeout: seconds one conversion may take.
        search: what `mixed` is searched by; None where it is not made, so that the others are not
            made anew when it changes.
    """

    variants: tuple[str, ...]
    calibration_images: int
    timeout: int
    search: SearchSettings | None
