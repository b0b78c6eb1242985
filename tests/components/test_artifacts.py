"""Every artifact type of ours can be found by the name that it travels under."""

from __future__ import annotations

import pytest
from tfx.types import Artifact
from tfx.utils.import_utils import import_class_by_path

from components import artifacts

TYPES = [
    kind
    for kind in vars(artifacts).values()
    if isinstance(kind, type) and issubclass(kind, Artifact) and kind is not Artifact
]


@pytest.mark.parametrize("kind", TYPES, ids=[kind.__name__ for kind in TYPES])
def test_tfx_finds_it_by_its_name_on_kubeflow(kind: type[Artifact]) -> None:
    assert import_class_by_path(kind.TYPE_NAME) is kind
