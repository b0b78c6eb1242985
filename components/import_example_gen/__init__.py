"""Makes a dataset's TFRecords the Examples artifact of a run."""
