"""The names of features, raw and transformed, that more than one module knows."""

IMAGE = "image"
LABEL = "label"
IMAGE_ID = "image_id"  # SHA-256 of the original file, hex
SOURCE = "source"  # path of the original file
LABEL_ID = "label_id"
UNKNOWN_LABEL = -1  # the id of a name that is not among the labels
# Of the float model's predictions, beside slice keys: none of these is named so.
TRUE_LABEL_ID = f"{LABEL}/id"
PROBABILITIES = f"{LABEL}/probabilities"
