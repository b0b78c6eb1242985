"""TFX runs a function of folders: it gets what is known of artifacts, and what it says is kept."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tfx.types import standard_artifacts

from components.folder_executor import FolderExecutor
from components.folders import Folders


class Executor(FolderExecutor):
    """Copies a model's properties, and adds to them."""

    @staticmethod
    def STEP(inputs: Folders, outputs: Folders, settings: Mapping[str, Any], run: str) -> None:  # noqa: N802
        """See `components.folders.Step`."""
        assert inputs["model"].path == Path("/model")
        outputs["pushed"].properties.update(inputs["model"].properties)
        outputs["pushed"].properties.update(tag=settings["tag"], run=run)


def test_properties_that_the_type_declares_are_set_as_such(tmp_path: Path) -> None:
    class Splits(FolderExecutor):
        @staticmethod
        def STEP(inputs: Folders, outputs: Folders, settings: Mapping[str, Any], run: str) -> None:  # noqa: N802
            outputs["anomalies"].properties["split_names"] = '["train"]'

    anomalies = standard_artifacts.ExampleAnomalies()
    anomalies.uri = str(tmp_path)
    context = FolderExecutor.Context(tmp_dir=str(tmp_path), unique_id="7")
    Splits(context).Do({}, {"anomalies": [anomalies]}, {})
    assert anomalies.split_names == '["train"]'


def test_properties_go_in_and_out(tmp_path: Path) -> None:
    model, pushed = standard_artifacts.Model(), standard_artifacts.PushedModel()
    model.uri, pushed.uri = "/model", str(tmp_path)
    model.set_int_custom_property("blessed", 1)
    model.set_string_custom_property("run", "earlier")
    context = Executor.Context(tmp_dir=str(tmp_path), unique_id="7")
    Executor(context).Do({"model": [model]}, {"pushed": [pushed]}, {"tag": "v1"})
    assert pushed.get_int_custom_property("blessed") == 1
    assert pushed.get_string_custom_property("tag") == "v1"
    assert pushed.get_string_custom_property("run") == "7", "of the execution: TFX told of no run"
