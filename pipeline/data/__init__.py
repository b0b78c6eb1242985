"""From labelled images, in any layout of the field, to a dataset that the pipeline reads."""
