"""``python -m optforge``: the same as the ``optforge`` command."""

import sys

from optforge.compiler.commands.cli import main

sys.exit(main())
