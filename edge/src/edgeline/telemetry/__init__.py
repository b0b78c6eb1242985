"""What a device tells its owner, and where it leaves that: signed reports, and sealed images.

`report` and `examples` say it, `sealing` wraps images up, and `places` takes both. A device writes
and its owner reads, so both have all of it; what the owner makes of it is in `fleet`.
"""
