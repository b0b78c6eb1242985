"""Custom TFX components: rewrite to TFLite, judge every variant, publish what passed.

The artifact types are importable from here because TFX finds a custom type by the name
`components.ClassName`. They load on first use, so that modules which need no TFX don't wait for it.
"""

from typing import Any

_ARTIFACTS = ("Predictions", "TFLiteModels", "TFLiteVerdict")


def __getattr__(name: str) -> Any:
    if name in _ARTIFACTS:
        from components import artifacts

        return getattr(artifacts, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
