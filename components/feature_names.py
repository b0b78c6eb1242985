"""The names of features, raw and transformed, that more than one module knows."""

LABEL = "label"
LABEL_ID = "label_id"
