"""``python -m optforge``: the same as the ``optforge`` command."""

import sys

from optforge.compiler.cli import main

sys.exit(main())
