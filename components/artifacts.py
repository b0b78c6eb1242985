"""The artifact types that travel between the custom components."""

from tfx.types import Artifact


class TFLiteModels(Artifact):
    """`<uri>/models.json`, `<uri>/preprocessing.json` and `<uri>/<variant>/model.tflite`.

    See `components.tflite_models` for the content.
    """

    TYPE_NAME = "components.TFLiteModels"


class Predictions(Artifact):
    """`<uri>/predictions.json`, and what every model said of each example of a split.

    See `components.predictions` for the content.
    """

    TYPE_NAME = "components.Predictions"


class TFLiteVerdict(Artifact):
    """`<uri>/verdict.json`, what every variant measured against the gate, and `<uri>/report.html`.

    Both are bounded; `<uri>/checks.csv` and `<uri>/confusion.csv` hold every figure.
    See `components.verdict` and `components.report` for the content.
    """

    TYPE_NAME = "components.TFLiteVerdict"
