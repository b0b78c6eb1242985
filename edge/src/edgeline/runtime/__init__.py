"""Running a release's model: `interpreter` knows TFLite, `classifier` knows images and labels."""
