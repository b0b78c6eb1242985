"""The publisher's side of the registry: release, sign, promote, maintain.

It is in `edgeline-registry` and on no device, as are `fleet` and `cli.registry`.
"""
