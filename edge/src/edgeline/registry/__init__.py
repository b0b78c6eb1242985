"""The edge model registry, for reading: releases in a store, and the trust in them.

`format` is what both sides agree on. A `store` holds content: `layout` in a directory, `remote` on
a registry server, to which `push` adds what a device reports. `reader` opens and verifies releases,
`trust` says which one a channel serves.
"""
