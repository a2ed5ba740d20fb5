"""``python -m optforge.compiler.fuzz``: random programs without end, or until two ways differ."""

from __future__ import annotations

import argparse
import itertools
import sys
import time
from collections.abc import Sequence

from hypothesis import given, seed

from optforge.compiler.fuzz.choices import independent
from optforge.compiler.fuzz.differential import Disagreement, Examiner, Shares, forget_modules
from optforge.compiler.fuzz.programs import RandomProgram, programs

BATCH = 200
SHARES = Shares(recorded=20, rewritten=10, compiled=40)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m optforge.compiler.fuzz", description=__doc__)
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
    """Batches of programs until the time is over; how many there were."""
    start, count, examine = time.monotonic(), 0, Examiner(shares=SHARES)

    def progress() -> bool:
        nonlocal count
        passed = time.monotonic() - start
        if passed > seconds:
            return False
        count += 1
        if count % 10 == 0:
            print(f"\r{count} programs, {count / passed:.1f} per second, seed {number}", end="", flush=True)
        return True

    for number in itertools.count(first):
        if time.monotonic() - start > seconds:
            return count

        @seed(number)
        @independent(BATCH)
        @given(programs())
        def agrees(program: RandomProgram) -> None:
            if progress():
                examine(program)

        agrees()
        forget_modules()
    raise AssertionError("unreachable")


if __name__ == "__main__":
    sys.exit(main())
