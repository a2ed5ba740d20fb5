"""Jobs: the buckets of a work and how they are run, all of a step or event together.

Buckets whose matrices lie on several ranks are begun first, and travel while those that are here are computed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

from ..batching.buckets import Bucket, Stored
from ..batching.work import Scalars, Work
from ..exchange.drive import Run, _drive
from ..execution.calls import Call
from ..execution.crossing import _begin_call
from ..execution.strategies import Runner


@dataclass(frozen=True)
class Job:
    """A kernel, as the runner has it, on the buckets of a work."""

    runner: Runner
    scalars: Scalars
    buckets: Sequence[tuple[Bucket, Stored | None]]


def _run_jobs(jobs: Sequence[Job], completed: Callable[[Work, Bucket], None], pause: Callable[[], None]) -> None:
    """Runs all buckets; `completed` is told of each, and `pause` is called where everything that is here is whole."""

    def here() -> None:
        for job in jobs:
            for bucket, stored in job.buckets:
                if bucket.sharding is None:
                    job.runner(bucket, job.scalars, stored)
                    completed(job.runner.work, bucket)
                    pause()

    _drive(_crossing(jobs, completed), here)


def _crossing(jobs: Sequence[Job], completed: Callable[[Work, Bucket], None]) -> Iterator[Run]:
    for job in jobs:
        runner = job.runner
        for bucket, _ in job.buckets:
            if bucket.sharding is not None:
                call = Call(runner.kernel, bucket, runner.work, runner.state, runner.noise)
                yield _begin_call(call, job.scalars, partial(completed, runner.work, bucket))
