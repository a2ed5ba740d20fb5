"""Targets on trials: for each of both a row of measures, and where a target first differs from the first one."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from optforge.compiler.verify.comparison.divergence import Divergence, first_divergence
from optforge.compiler.verify.comparison.measures import Measures, measure
from optforge.compiler.verify.comparison.runs import Run, run_target
from optforge.compiler.verify.comparison.streams import Values, streams_of_run, streams_of_spec
from optforge.compiler.verify.comparison.targets import ComparedTarget, TargetProblem
from optforge.compiler.verify.comparison.trials import Trial


@dataclass(frozen=True)
class Row:
    """One target on one trial: measures by step, first and last; the divergence is sought in float64 only."""

    trial: Trial
    target: ComparedTarget
    lr: float | None
    measures: Mapping[int, Measures]
    divergence: Divergence | None
    worst: float  # the largest of the relative differences of all steps


def compare(targets: Sequence[ComparedTarget], trials: Iterable[Trial]) -> Iterator[Row]:
    """The rows of all trials, in each the targets as given; the first target is what all are compared with.

    Raises:
        TargetProblem: a target cannot be run, or names of states were given for one that nothing keeps.
    """
    for trial in trials:
        runs = [run_target(target, trial) for target in targets]
        require_states(targets, runs)
        for target, run in zip(targets, runs, strict=True):
            yield compare_runs(trial, targets[0], runs[0], target, run)


def require_states(targets: Sequence[ComparedTarget], runs: Sequence[Run]) -> None:
    """Refuse names for states that are nobody's: nothing would be compared by them, without a word."""
    kept = [
        (target.spec is None, {name for states in run.states for name in states})
        for target, run in zip(targets, runs, strict=True)
    ]
    of_classes = {name for is_class, names in kept if is_class for name in names}
    of_all = {name for _, names in kept for name in names}
    for theirs, ours in (each for target in targets for each in target.states.items()):
        for name, known, who in ((theirs, of_classes, "class"), (ours, of_all, "target")):
            if name not in known:
                found = f"there are {', '.join(sorted(known))}" if known else "there is none"
                raise TargetProblem(f"--same {ours}={theirs}: no {who} keeps a state `{name}`; {found}")


def compare_runs(trial: Trial, first: ComparedTarget, first_run: Run, target: ComparedTarget, run: Run) -> Row:
    pairs = list(zip(run.steps, first_run.steps, strict=True))
    measures = [measure(step, other, run.lr) for step, other in pairs]
    chosen = {step: measures[step - 1] for step in (1, len(measures))}
    divergence = None
    if target is not first and trial.dtype == "float64":
        both = streams_of(first, first_run, trial), streams_of(target, run, trial)
        divergence = first_divergence(*both, trial.weight)
    return Row(trial, target, run.lr, chosen, divergence, max(each.difference for each in measures))


def streams_of(target: ComparedTarget, run: Run, trial: Trial) -> Iterator[Values]:
    """What can be seen of a target: all equations of a spec, the states of anything else."""
    if target.spec is None:
        return streams_of_run(run, target.states)
    return streams_of_spec(target.spec, trial, run.hypers)
