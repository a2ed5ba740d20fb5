"""Jobs: the buckets of a parameter batch and how they are run, all of a step or event together.

Buckets whose matrices lie on several ranks are begun first, and travel while those that are here are computed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

from torch import Tensor

from ..batching.buckets import Bucket, Stored
from ..batching.parameter_batch import Scalars
from ..exchange.communication import Communication
from ..exchange.drive import Run, _drive
from ..execution.strategies import Runner

_Advance = Callable[[Sequence[Tensor], int], None]


@dataclass(frozen=True)
class Job:
    """A kernel, as the runner has it, on the buckets of a parameter batch."""

    runner: Runner
    scalars: Scalars
    buckets: Sequence[tuple[Bucket, Stored | None]]


def _run_jobs(jobs: Sequence[Job], advance: _Advance, pause: Callable[[], None], sent: Communication) -> None:
    """Runs all buckets; `advance` counts the parameters of each; `pause` is called where all that is here is whole."""

    def here() -> None:
        for job in jobs:
            for bucket, stored in job.buckets:
                if bucket.sharding is None:
                    job.runner(bucket, job.scalars, stored)
                    advance(bucket.completed, job.runner.batch.count)
                    pause()

    _drive(_crossing(jobs, advance), sent, here)


def _crossing(jobs: Sequence[Job], advance: _Advance) -> Iterator[Run]:
    for job in jobs:
        runner = job.runner
        for bucket, _ in job.buckets:
            if bucket.sharding is not None:
                yield runner.begin(bucket, job.scalars, partial(advance, bucket.completed, runner.batch.count))
