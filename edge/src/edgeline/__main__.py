"""`python -m edgeline`: the same command line as `edgeline`."""

import sys

from edgeline.cli import main

sys.exit(main())
