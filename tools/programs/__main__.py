"""``python -m tools.programs``: random programs without end, or until two ways differ."""

from __future__ import annotations

import argparse
import itertools
import sys
import time
from collections.abc import Sequence

from tools.programs.differential import Disagreement, Shares, forget_modules
from tools.programs.search import examine_random

BATCH = 200
SHARES = Shares(recorded=20, rewritten=10, compiled=40)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tools.programs", description=__doc__)
    parser.add_argument("--seconds", type=float, default=float("inf"), help="how long; for ever by default")
    parser.add_argument("--seed", type=int, default=None, help="where to start; by default somewhere new each time")
    options = parser.parse_args(arguments)
    first = time.time_ns() % 2**32 if options.seed is None else options.seed
    try:
        count = run(first, options.seconds)
    except Disagreement as found:
        print(f"\n{found.way}: {found.detail}\n\n# Save this as a spec:\n\n{found.text}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 0
    print(f"\n{count} programs, all ways agree")
    return 0


def run(first: int, seconds: float) -> int:
    """Programs until the time is over; how many there were."""
    start = time.monotonic()
    for count in itertools.count():
        passed = time.monotonic() - start
        if passed > seconds:
            return count
        if count % 10 == 9:
            print(f"\r{count} programs, {count / passed:.1f} per second, seed {first}", end="", flush=True)
        if count % BATCH == BATCH - 1:
            forget_modules()
        examine_random(first, count, shares=SHARES)
    raise AssertionError("unreachable")


if __name__ == "__main__":
    sys.exit(main())
