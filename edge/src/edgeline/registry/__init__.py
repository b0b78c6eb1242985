"""The edge model registry: releases of models in an OCI image-layout directory.

`format` is what both sides agree on, `writer` publishes, `reader` finds and verifies.
"""
