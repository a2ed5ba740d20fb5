"""Do the contract tests see mistakes in what all generated classes share? `python -m tests.runtime.template_mutants`.

In: `MUTANTS`, mistakes in the runtime, the templates and the passes that write kernels, each a text to be found once
and the text in its place. Out: for each, the first contract test that fails on a copy of the sources with that mistake,
as a table; with `--write` also in `tests/TEMPLATE_MUTANTS.md`, where the other rows stay. All mutants face the same
command, which must pass on the copy without any of them. Mistakes in specs are for `tools.mutants`.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).parents[2]
TABLE = Path(__file__).parents[1] / "TEMPLATE_MUTANTS.md"
RUNTIME = "runtime"
TORCH = "compiler/targets/torch"
LIMIT = 1800  # seconds that one run of the tests may take on a busy machine

# The tests that together hold the contract, fast ones first; of the comparison with the references those of the seeds.
# Each line is collected only when those before it have passed; the first ones have a few classes, and what is quick.
SEEDS = ("AdamW", "SGD", "Muon", "NAMO", "NAMOD", "Nora", "NorMuon", "SophiaG", "ASGD")
AGREEMENT = "tests/specs/test_agreement.py::test_generated_module_agrees_with_reference"
CONTRACT = (
    (
        "tests/runtime/test_contract.py",
        "tests/runtime/execution/test_faults.py",
        "tests/runtime/execution/test_precision.py",
        "-k",
        "NorMuon",
    ),
    tuple(f"{AGREEMENT}[{name}-defaults-12]" for name in (*SEEDS, "Aurora")),  # Aurora has guards
    (
        "tests/runtime/test_contract.py",
        "tests/runtime/execution/test_graphs.py",
        "-k",
        "Curvature or Lookback or SGD or number or decide",
    ),
    (
        "tests/runtime/exchange/test_owners.py",
        "tests/runtime/exchange/test_agreement.py",
        "tests/runtime/exchange/test_exchange.py",
        "-k",
        "not 1 and not 4",
    ),
    ("tests/runtime/recording/test_stages.py", "-k", "too or random"),
    ("tests/runtime/recording/test_tracing.py",),
    ("tests/runtime/execution/test_probes.py",),
    ("tests/runtime/batching/test_noise.py",),
    ("tests/targets/test_fused.py", "-k", "fit or steps or state"),
    ("tests/runtime/execution/test_precision.py",),
    ("tests/runtime/execution/test_faults.py",),
    ("tests/runtime/test_checkpoints.py",),
    ("tests/runtime/test_state.py",),
    ("tests/runtime/test_loading.py",),
    ("tests/runtime/test_contract.py",),
    ("tests/runtime/test_compatibility.py",),
    ("tests/runtime/test_frameworks.py",),
    ("tests/runtime/test_shared.py",),
    ("tests/targets/test_fused.py",),
    ("tests/runtime/execution/test_graphs.py",),
    ("tests/runtime/exchange",),
    ("tests/runtime/test_sharded.py",),
    ("tests/runtime/test_torch_suite.py",),
)

NOT_THE_COPY = 9  # the exit code if what is tested is not the copy
PRELOADED = ["torch", "torch._dynamo", "torch.distributed.checkpoint", "numpy", "pytest", "lark", "jinja2"]


@dataclass(frozen=True)
class Mutant:
    """A mistake: `old`, which the file has once, becomes `new`; `suffers` is what a user would notice."""

    name: str
    suffers: str
    file: str
    old: str = field(repr=False)
    new: str = field(repr=False)


# -- the mistakes ------------------------------------------------------------------------------------------------------

MUTANTS: tuple[Mutant, ...] = (
    # steps: gradients, counts, closures
    Mutant(
        "gradient written",
        "p.grad has changed after the step",
        f"{RUNTIME}/execution/calls.py",
        "bucket.gather(self.batch.gradients(bucket.params))",
        "bucket.gather([g.nan_to_num_() for g in self.batch.gradients(bucket.params)])",
    ),
    Mutant(
        "gradient overwritten by a kernel",
        "a generated line writes into the storage of the gradient",
        "compiler/targets/torch/passes/in_place.py",
        "if isinstance(storage, tuple) and (storage not in self.given_back or storage == ir.GRAD):",
        "if isinstance(storage, tuple) and storage not in {*self.given_back, ir.GRAD}:",
    ),
    Mutant(
        "state overwritten while it is read",
        "an equation sees the new value of a state in place of the old one",
        "compiler/targets/torch/passes/in_place.py",
        "return self.last_read[storage] <= index",
        "return True",
    ),
    Mutant(
        "skipped parameters counted",
        "a parameter that had no gradient for a while is at the wrong step",
        f"{RUNTIME}/optimizer.py",
        "if not takes_part(slot.rule, p) or not p.numel():\n                    continue",
        "if not takes_part(slot.rule, p) or not p.numel():\n"
        "                    self.state[p][counter] = counts.get(p, 0) + 1\n"
        "                    continue",
    ),
    Mutant(
        "step count one too high in kernels",
        "bias corrections are those of the next step",
        f"{RUNTIME}/batching/counters.py",
        'as kernels are to see it."""\n        return t\n',
        'as kernels are to see it."""\n        return t + 1\n',
    ),
    Mutant(
        "fused step count one too high",
        "the same for rules that torch's fused kernels compute",
        f"{RUNTIME}/execution/fused.py",
        "return [torch.full((), t, dtype=torch.float32, device=device)] * len(weights)",
        "return [torch.full((), t + 1, dtype=torch.float32, device=device)] * len(weights)",
    ),
    Mutant(
        "one step count for all",
        "parameters added in mid-run take over the step count of older ones",
        f"{RUNTIME}/batching/parameter_batch.py",
        "return self.rule is rule and self.dtype is dtype and self.count == count and self.device == device",
        "return self.rule is rule and self.dtype is dtype and self.device == device",
    ),
    Mutant(
        "counted before it is done",
        "a step that failed counts, so that trying again leaves it out",
        f"{RUNTIME}/steps/jobs.py",
        "                    job.runner(bucket, job.scalars, stored)\n"
        "                    advance(bucket.completed, job.runner.batch.count)\n",
        "                    advance(bucket.completed, job.runner.batch.count)\n"
        "                    job.runner(bucket, job.scalars, stored)\n",
    ),
    Mutant(
        "events count as steps",
        "refreshing the curvature moves the bias correction",
        f"{RUNTIME}/optimizer.py",
        'counter, asked, kernels = f"{event}_step"',
        'counter, asked, kernels = "step"',
    ),
    Mutant(
        "closure without gradients",
        "backward() in a closure fails",
        f"{RUNTIME}/optimizer.py",
        "            with torch.enable_grad():\n                loss = closure()",
        "            loss = closure()",
    ),
    Mutant(
        "loss dropped",
        "step(closure) returns None",
        f"{RUNTIME}/optimizer.py",
        "_share(batches, slots, state, self._counters)\n        return loss",
        "_share(batches, slots, state, self._counters)\n        return None",
    ),
    Mutant(
        "dtypes mixed in a batch",
        "models of several dtypes fail, or step in the wrong precision",
        f"{RUNTIME}/optimizer.py",
        "key := (run, slot.rule.name, *kind)",
        "key := (run, slot.rule.name, *kind[1:])",
    ),
    Mutant(
        "sums over parameters of the last bucket alone",
        "a global norm leaves out most of the model",
        f"{RUNTIME}/steps/sums.py",
        "[each for each in found if each] or",
        "[each for each in found if each][-1:] or",
    ),
    Mutant(
        "who rests keeps an old shared value",
        "parameters of one rule go on from different values of what they share",
        f"{RUNTIME}/steps/shared.py",
        "for p in begun])",
        "for p in widest.params])",
    ),
    Mutant(
        "late parameters begin with a shared value of their own",
        "a layer that is thawed later steps by the first estimate of the distance",
        f"{RUNTIME}/execution/first_values.py",
        "_copy_to_all(begun, [entry[kept.name] for entry in fresh.values()])",
        "_copy_to_all(begun, [])",
    ),
    Mutant(
        "groups that share begin with different hypers",
        "what parameters share is that of whichever group comes first",
        f"{RUNTIME}/steps/shared.py",
        "if other != first:",
        "if other is None:",
    ),
    Mutant(
        "loaded copies of a shared value differ",
        "a checkpoint that was put together of two goes on from either",
        f"{RUNTIME}/loading.py",
        "        _require_equal_copies(slots, {p: _wrap_entry(state[p], slots[p]) for p in slots if p in state})\n",
        "",
    ),
    Mutant(
        "autocast reaches steps",
        "a step inside an autocast region multiplies in bfloat16",
        f"{RUNTIME}/execution/autocast.py",
        'active = [kind for kind in sorted(kinds - {"meta"}) if torch.is_autocast_enabled(kind)]',
        "active: list[str] = []",
    ),
    Mutant(
        "Ctrl-C in the middle",
        "an interrupt leaves half of the weights moved",
        f"{RUNTIME}/execution/interrupts.py",
        "signal.signal(signal.SIGINT, self._note)",
        "pass",
    ),
    Mutant(
        "Ctrl-C swallowed",
        "an interrupt during a step never arrives",
        f"{RUNTIME}/execution/interrupts.py",
        "# runs `_note` first if a signal is waiting\n            self._pass_on()",
        "# runs `_note` first if a signal is waiting",
    ),
    # groups and hypers
    Mutant(
        "hypers of the first group for all",
        "groups with an lr of their own step with another's",
        f"{RUNTIME}/optimizer.py",
        'runs.setdefault((_distinguish(values), group["precision"], group["seed"]), len(runs))',
        'runs.setdefault((group["precision"], group["seed"]), len(runs))',
    ),
    Mutant(
        "defaults in place of group values",
        "what a group sets is ignored, and so are schedulers",
        f"{RUNTIME}/optimizer.py",
        "            values = self._values.of(group, self.state)\n",
        "            values = self._values.of(self.defaults, self.state)\n",
    ),
    Mutant(
        "hypers read once",
        "schedulers have no effect after the first step",
        f"{RUNTIME}/batching/group_values.py",
        "        values = tuple(map(_plain, given, given.values()))\n",
        "        if id(group) in self._checked:\n"
        "            return self._checked[id(group)][:-2]\n"
        "        values = tuple(map(_plain, given, given.values()))\n",
    ),
    Mutant(
        "changed hypers not checked",
        "a scheduler can make the lr negative unnoticed",
        f"{RUNTIME}/batching/group_values.py",
        "        if checked != known:\n",
        "        if known is None:\n",
    ),
    Mutant(
        "hypers of groups not checked",
        "a group's invalid hyper is noticed at the first step, or never",
        f"{RUNTIME}/batching/group_values.py",
        "    _check_hypers(owner, _held(group, hypers))\n",
        "",
    ),
    Mutant(
        "loaded groups not checked",
        "a checkpoint brings hypers that the spec forbids",
        f"{RUNTIME}/optimizer.py",
        "self._hyper_names, (SPEC_KEY, *own))\n            self._check_group(group)",
        "self._hyper_names, (SPEC_KEY, *own))",
    ),
    Mutant(
        "conditions left out of the class",
        "no hyper is ever refused",
        f"{TORCH}/templates/class.py.jinja",
        "{% if class.checks %}",
        "{% if not class.checks %}",
    ),
    Mutant(
        "refused group stays",
        "a group that was an error is stepped all the same",
        f"{RUNTIME}/optimizer.py",
        "            self.param_groups.pop()\n",
        "",
    ),
    Mutant(
        "unknown keys accepted",
        "a misspelt hyper of a group has no effect, and nobody says so",
        f"{RUNTIME}/routing/groups.py",
        "for name in (*hypers, *OPTIONS) if _is_slip(str(key), name)]",
        "for name in (*hypers, *OPTIONS) if str(key) == name]",
    ),
    Mutant(
        "settings of torch's optimizers dropped",
        "betas=(0.9, 0.95) in a group, or for a constructor, is taken and has no effect",
        f"{RUNTIME}/routing/groups.py",
        'if name in ("fused", "foreach") or (asks_for_nothing and name in _arguments_of_torch()):',
        "if name in _arguments_of_torch():",
    ),
    Mutant(
        "steps of weights that are only shown",
        "a step while the mean of a Schedule-Free method is shown spoils the weights",
        f"{RUNTIME}/modes.py",
        "if any(_shows(pair, p, counts) for p in batch.params):",
        "if any(_shows(pair, p, counts) for p in ()):",
    ),
    Mutant(
        "momentum stored beside its hyper",
        "a scheduler cycles a key that no step reads",
        f"{RUNTIME}/routing/groups.py",
        "for name in self.momentum if key == MOMENTUM and self.momentum else (key,):",
        "for name in (key,):",
    ),
    Mutant(
        "parameter given twice",
        "it takes two steps at once",
        f"{RUNTIME}/batching/roster.py",
        "if len({id(p) for p in listed}) < len(listed):",
        "if not listed:",
    ),
    Mutant(
        "parameters that share memory",
        "one step undoes another",
        f"{RUNTIME}/routing/parameters.py",
        "if other is not p and p.numel() and other.numel():",
        "if other is not p and p.numel() and not other.numel():",
    ),
    Mutant(
        "flattened parameters let through",
        "a framework that shards parameters makes a matrix rule run on a piece of a row",
        f"{RUNTIME}/batching/roster.py",
        "if p.ndim >= 2 or len(former.shape) < 2 or former.is_empty:",
        "if p.ndim < 2 or len(former.shape) < 2 or former.is_empty:",
    ),
    Mutant(
        "changed lists not looked at",
        "a parameter that replaces another steps with what was known of that one",
        f"{RUNTIME}/batching/roster.py",
        "return all(map(operator.is_, params, self.params)) and _view_of(group, self.sizing) == self.view",
        "return _view_of(group, self.sizing) == self.view",
    ),
    Mutant(
        "states of another size let through",
        "a resized weight ends in an error about some view",
        f"{RUNTIME}/batching/roster.py",
        "unfit = [kept for kept, value in held.items() if not slot.may_hold(kept, value)]",
        "unfit = [kept for kept, value in held.items() if value.ndim != len(slot.state_shape(kept))]",
    ),
    Mutant(
        "sparse gradients let through",
        "an obscure error in the middle of a step",
        f"{RUNTIME}/routing/parameters.py",
        "if grad.layout is not torch.strided or not grad.is_floating_point():",
        "if not grad.is_floating_point():",
    ),
    Mutant(
        "complex and integer parameters let through",
        "the same with another error, or nonsense",
        f"{RUNTIME}/routing/parameters.py",
        "if p.layout is not torch.strided or p.dtype not in DTYPES:",
        "if p.layout is not torch.strided:",
    ),
    Mutant(
        "precision not passed on",
        'precision="master" is accepted and ignored',
        f"{TORCH}/lower.py",
        "super().__init__(params, hypers, **options)",
        "super().__init__(params, hypers)",
    ),
    # state
    Mutant(
        "states forgotten when the batch changes",
        "a momentum starts anew when another parameter has no gradient",
        f"{RUNTIME}/batching/buckets.py",
        "state[p][name] = x.clone()",
        "state[p][name] = torch.zeros_like(x)",
    ),
    Mutant(
        "stale view after states are replaced",
        "a momentum that was set by hand has no effect",
        f"{RUNTIME}/batching/buffers.py",
        "            [*map(id, tensors)] == self._ids\n"
        "            and [x.data_ptr() for x in tensors] == self._pointers\n            and ",
        "            ",
    ),
    Mutant(
        "data of one state replaced in vain",
        "steps go on from a buffer that nobody can see, and checkpoints stay at that moment",
        f"{RUNTIME}/batching/buffers.py",
        "            and [x.data_ptr() for x in tensors] == self._pointers\n",
        "",
    ),
    Mutant(
        "buffers held by the optimizer",
        "states that were freed or moved away still take up memory",
        f"{RUNTIME}/batching/buffers.py",
        "        self._ids = [*map(id, tensors)]\n",
        "        self._ids, self._kept = [*map(id, tensors)], batch\n",
    ),
    Mutant(
        "states without a storage of their own",
        "saving the state of one parameter writes that of all in its batch",
        f"{RUNTIME}/batching/buffers.py",
        "piece.device.type not in _SHARING",
        "piece.device.type in _SHARING",
    ),
    Mutant(
        "memory of others written to",
        "a weight that was put into a state as a first value changes with the state",
        f"{RUNTIME}/batching/buckets.py",
        "                batch = batch.clone()\n",
        "                batch = batch.view_as(batch)\n",
    ),
    Mutant(
        "count of a state not read again",
        "a count that is set by hand has no effect",
        f"{RUNTIME}/batching/counters.py",
        "            if count.cell[0] != count.shown:\n",
        "            if False:\n",
    ),
    Mutant(
        "no state before the first step",
        "torch's checkpoint helpers take a step to see the state, and training moves",
        f"{RUNTIME}/batching/states.py",
        "            if p.requires_grad and p in slots and not state.get(p):\n",
        "            if False:\n",
    ),
    Mutant(
        "first values kept from before the first step",
        "a state that was only looked at begins with zeros in place of its first values",
        f"{RUNTIME}/batching/states.py",
        "return names if _has_begun(entry, rule) else {name for name in names if _has_values(entry[name])}",
        "return {name for name in names if not _is_blank(entry[name])}",
    ),
    Mutant(
        "names do not count",
        "a checkpoint of parameters in another order lands on the wrong ones",
        f"{RUNTIME}/matching.py",
        "return _match_by_name(saved, *_comparable(mine, theirs))",
        "return _match_by_place(own, saved)",
    ),
    Mutant(
        "anything counts as a count",
        "a damaged count loads, and weights become NaN",
        f"{RUNTIME}/batching/counters.py",
        "if not is_number or not 0 <= plain <= COUNT_LIMIT or int(plain) != plain:",
        "if not is_number:",
    ),
    Mutant(
        "what was derived survives a load",
        "a loaded group's rule, split or precision has no effect",
        f"{RUNTIME}/optimizer.py",
        "super().__setstate__(state)\n        self._forget()\n",
        'super().__setstate__(state)\n        if not hasattr(self, "_arrangement"):\n            self._forget()\n',
    ),
    Mutant(
        "states in the parameter's dtype after a load",
        "a bfloat16 model loses the precision of its moments",
        f"{RUNTIME}/loading.py",
        ".detach().to(p.device, dtype, copy=True)",
        ".detach().to(p.device, p.dtype, copy=True)",
    ),
    Mutant(
        "loaded state shared",
        "training on changes the checkpoint in memory",
        f"{RUNTIME}/loading.py",
        ".detach().to(p.device, dtype, copy=True)",
        ".detach()",
    ),
    Mutant(
        "loaded groups shared",
        "two optimizers loaded from one checkpoint share an lr that is a tensor",
        f"{RUNTIME}/loading.py",
        "copies[key] = deepcopy(value)",
        "copies[key] = value",
    ),
    Mutant(
        "steps counted twice after a load",
        "bias corrections jump when training goes on",
        f"{RUNTIME}/loading.py",
        "return read | counts",
        "return read | {name: count + 1 for name, count in counts.items()}",
    ),
    Mutant(
        "lacking states accepted",
        "a damaged checkpoint loads, and moments start anew",
        f"{RUNTIME}/loading.py",
        'if lacking := sorted({*expected, "step"} - entry.keys()):',
        "states = [each for each in states if each[0].name in entry]\n        if lacking := []:",
    ),
    Mutant(
        "checkpoint of another spec accepted",
        "a state of the same name and another meaning is taken over",
        f"{RUNTIME}/loading.py",
        "        if self.spec is not None and (origin is None or origin.hash != self.spec.hash):\n            entry =",
        "        if self.spec is not None and origin is None:\n            entry =",
    ),
    Mutant(
        "pickle of another spec accepted",
        "the same for optimizers that were pickled whole",
        f"{RUNTIME}/checkpoints.py",
        'if spec is not None and state.get("_spec", spec.hash) != spec.hash:',
        'if spec is not None and state.get("_spec", spec.hash) is None:',
    ),
    Mutant(
        "options lost in copies",
        "a copied optimizer no longer skips what is not finite",
        f"{RUNTIME}/optimizer.py",
        'names = ("skip_nonfinite", "backend",',
        'names = ("backend",',
    ),
    # precision
    Mutant(
        "16 bits computed in 16 bits",
        "bfloat16 parameters have bfloat16 moments, and stall",
        f"{RUNTIME}/contract/precision.py",
        "return torch.float32 if dtype.itemsize < 4 else dtype",
        "return dtype",
    ),
    Mutant(
        "float64 orthogonalized in float32",
        "float64 runs have errors of 1e-7",
        f"{RUNTIME}/linalg/orthogonal.py",
        "    if dtype == torch.float64:\n        return torch.float64, torch.float64\n",
        "",
    ),
    Mutant(
        "compensation not read",
        'precision="kahan" is "plain"',
        f"{RUNTIME}/execution/computations.py",
        'given["weight"] = given["weight"] + stored["kahan"]',
        'given["weight"] = given["weight"] + 0 * stored["kahan"]',
    ),
    Mutant(
        "master not read",
        'precision="master" is "plain"',
        f"{RUNTIME}/execution/computations.py",
        'torch.where(master.to(self.dtype) == stored["weight"], master, given["weight"])',
        'torch.where(master.to(self.dtype) == stored["weight"], given["weight"], given["weight"])',
    ),
    Mutant(
        "master wins over weights set from outside",
        "a model that is loaded in mid-run jumps back at the next step",
        f"{RUNTIME}/execution/computations.py",
        'torch.where(master.to(self.dtype) == stored["weight"], master, given["weight"])',
        'torch.where(master.to(self.dtype) == stored["weight"], master, master)',
    ),
    Mutant(
        "stochastic rounding truncates",
        "weights drift towards zero",
        f"{RUNTIME}/linalg/numbers.py",
        "bits = _mix_(noise).bitwise_right_shift_(16).bitwise_and_(0xFFFF)",
        "bits = torch.zeros_like(noise)",
    ),
    Mutant(
        "every step rounds by the same noise",
        "an element that is rounded up once is rounded up always",
        f"{RUNTIME}/batching/noise.py",
        "bits = _mix(self._keys + turn)",
        "bits = _mix(self._keys)",
    ),
    Mutant(
        "infinity is finite",
        "skip_nonfinite lets overflows through",
        f"{RUNTIME}/execution/calls.py",
        "bool(get_total_norm(found, math.inf).isfinite())",
        "not bool(get_total_norm(found, math.inf).isnan())",
    ),
    # batches and layouts
    Mutant(
        "batch written back in another order",
        "parameters of one shape receive each other's steps",
        f"{RUNTIME}/batching/buckets.py",
        "torch._foreach_copy_(windows, parts)",
        "torch._foreach_copy_(windows, parts[::-1])",
    ),
    Mutant(
        "unequal parts one row off",
        "the parts of a split parameter overlap",
        f"{RUNTIME}/routing/places.py",
        "x.narrow(axis, self.start, self.parts * rows)",
        "x.narrow(axis, max(self.start - 1, 0), self.parts * rows)",
    ),
    Mutant(
        "transposed parameters read as stored",
        "rows and columns are swapped in the rule",
        f"{RUNTIME}/routing/places.py",
        "leading, sizes = shape[: view.batch], shape[view.batch :]",
        "view = View(False, view.split, view.batch)\n    leading, sizes = shape[: view.batch], shape[view.batch :]",
    ),
    Mutant(
        "several matrices read as one",
        "experts that are one parameter are orthogonalized together",
        f"{RUNTIME}/routing/places.py",
        "leading, sizes = shape[: view.batch], shape[view.batch :]",
        "view = View(view.transposed, view.split)\n    leading, sizes = shape[: view.batch], shape[view.batch :]",
    ),
    Mutant(
        "short parts of a batch in one place",
        "the parts of the first matrix are taken for those of all",
        f"{RUNTIME}/routing/places.py",
        "return x.narrow(0, math.prod(self.leading) * before, size)",
        "return x.narrow(0, before, size)",
    ),
    Mutant(
        "an lr of a group is a multiple of itself",
        "embeddings with an lr of their own hardly move",
        f"{RUNTIME}/routing/readings.py",
        "        group[ratio] = 1.0\n",
        "        group[ratio] = group[ratio]\n",
    ),
    Mutant(
        "last element of each block left out",
        "of large parameters one element in a quarter million stands still",
        f"{RUNTIME}/batching/buckets.py",
        "slice(i, i + CPU_BLOCK) for i in range",
        "slice(i, i + CPU_BLOCK - 1) for i in range",
    ),
    Mutant(
        "sum in the order of parameters",
        "totals differ in the last bits when a model lists its parameters otherwise",
        f"{RUNTIME}/execution/calls.py",
        ".flatten() for value in values]).sort().values.sum()",
        ".flatten() for value in values]).sum()",
    ),
    # ways to run: fused, recorded
    Mutant(
        "fused kernels on unlike strides",
        "weights and gradients that lie in memory differently are mixed up",
        f"{RUNTIME}/execution/fused.py",
        "return [x.shape for x in tensors], [x.stride() for x in tensors]",
        "return [x.shape for x in tensors], []",
    ),
    Mutant(
        "fused kernels on gradients that were not looked at",
        "gradients that lie in memory otherwise than before are mixed up",
        f"{RUNTIME}/execution/strategies.py",
        'elif not _are_like(weights[0], known[1], lists["grad"]):',
        "elif False:",
    ),
    Mutant(
        "fused kernels on weights that were not looked at",
        "weights that lie in memory otherwise than before are mixed up with their momentum",
        f"{RUNTIME}/execution/strategies.py",
        "if bucket.fused != known:",
        "if bucket.fused is None or bucket.fused[0] != kernel:",
    ),
    Mutant(
        "fused decay times lr twice",
        "weights hardly decay",
        f"{RUNTIME}/execution/fused.py",
        "weights, grads, ms, vs, [], steps, lr=lr, beta1=beta1, beta2=beta2, weight_decay=weight_decay, eps=eps,\n"
        "        amsgrad=False, maximize=False,\n"
        "    )  # fmt: skip\n\n\ndef fused_adam(",
        "weights, grads, ms, vs, [], steps, lr=lr, beta1=beta1, beta2=beta2, weight_decay=lr * weight_decay, eps=eps,\n"
        "        amsgrad=False, maximize=False,\n"
        "    )  # fmt: skip\n\n\ndef fused_adam(",
    ),
    Mutant(
        "Nesterov swapped",
        "SGD looks ahead exactly where it should not",
        f"{RUNTIME}/execution/fused.py",
        "dampening=dampening, nesterov=nesterov, maximize=False",
        "dampening=dampening, nesterov=not nesterov, maximize=False",
    ),
    Mutant(
        "lr baked into graphs",
        "recorded and compiled steps ignore schedulers",
        f"{RUNTIME}/execution/graphs.py",
        "numbers = {name: Number(recorder, value, name) for name, value in plain.items()}",
        'numbers = {name: value if name == "lr" else Number(recorder, value, name) for name, value in plain.items()}',
    ),
    Mutant(
        "guards of graphs ignored",
        "the first step's branch is taken for ever",
        f"{RUNTIME}/execution/graphs.py",
        "graph: Any = next((each for each in graphs if each.holds(*scalars.numbers.values())), None)",
        "graph: Any = next(iter(graphs), None)",
    ),
    Mutant(
        "old values taken for new ones",
        "what compiled steps store of another's old value is its new one",
        f"{RUNTIME}/execution/graphs.py",
        "_compile_when_run(_fence(module), self.is_elementwise, options)",
        "_compile_when_run(module, self.is_elementwise, options)",
    ),
    Mutant(
        "wrong graphs run",
        "steps are silently wrong where a compiler is",
        f"{RUNTIME}/execution/graphs.py",
        "if graph.problem is not None:",
        "if False:",
    ),
    Mutant(
        "graphs compared in first steps that hide mistakes",
        "a run that warms up from an lr of 0 is silently wrong where a compiler is",
        f"{RUNTIME}/execution/probes.py",
        "if abs(value) < PROBE_NUMBER and holds(tried):",
        "if False:",
    ),
    Mutant(
        "numbers of the last step",
        "recorded steps go on with the numbers of the first",
        f"{RUNTIME}/execution/graphs.py",
        "if last is not None and last[0] == numbers.tobytes():  # 0.0 == -0.0, and NaN is not NaN",
        "if last is not None:",
    ),
    Mutant(
        "states moved before they are read",
        "compiled steps on a CPU see the new state where the old one was meant",
        f"{RUNTIME}/recording/stages.py",
        "if node in rest and any(written_first[x] != to_move[x] for x in read):",
        "if False:",
    ),
    Mutant(
        "states moved after what they are made of has changed",
        "compiled steps on a CPU see old weights where new ones were meant",
        f"{RUNTIME}/recording/stages.py",
        "if node in first and any(written[x] != written_first[x] for x in read):",
        "if False:",
    ),
    Mutant(
        "failures of inductor not caught",
        "auto ends a training run where it could go on eagerly",
        f"{RUNTIME}/execution/strategies.py",
        "except (CompileError, torch._dynamo.exc.TorchDynamoException) as problem:",
        "except torch._dynamo.exc.TorchDynamoException as problem:",
    ),
    Mutant(
        "stages run before all are compiled",
        "the momentum moves twice in the step that falls back to running eagerly",
        f"{RUNTIME}/execution/graphs.py",
        "    then = prepare(last)\n",
        "    then = lambda *tensors: prepare(last)(*tensors)\n",
    ),
    # several ranks: which part of a parameter is where, what is exchanged, what is agreed on
    Mutant(
        "shards cut as evenly as can be",
        "parts of states and parameters are taken for others than torch has cut",
        f"{RUNTIME}/placement/layouts.py",
        "chunk = -(-size // self.ranks)",
        "chunk = max(1, round(size / self.ranks))",
    ),
    Mutant(
        "shards of transposed parameters",
        "norms of rows are those of columns where a transposed parameter is sharded",
        f"{RUNTIME}/placement/slots.py",
        'return "rows" if (axis == slot.view.transposed) != slot.places(layout)[0].turned else "cols"',
        'return "rows" if (axis == 0) != slot.places(layout)[0].turned else "cols"',
    ),
    Mutant(
        "gradients of other placements",
        "a gradient that is cut otherwise moves other rows than its own",
        f"{RUNTIME}/placement/parts.py",
        "if not slot.layout.holds(grad):",
        "if not slot.layout.holds(grad) and grad.shape != slot.layout.whole:",
    ),
    Mutant(
        "states of shards as if they were whole",
        "a checkpoint has the part of one rank as the state of the parameter",
        f"{RUNTIME}/placement/local_states.py",
        "self._entry[name] = value if kept is None else self._slot.wrapped(kept, value)",
        "self._entry[name] = value",
    ),
    Mutant(
        "parameters that FSDP has replaced",
        "an optimizer that was made before fully_shard() moves nothing, and nobody says so",
        f"{RUNTIME}/placement/fsdp.py",
        "if p.grad is None and p.requires_grad and hasattr(p, _REPLACED):",
        "if p.grad is not None and hasattr(p, _REPLACED):",
    ),
    Mutant(
        "means of what a rank has",
        "a mean over sharded rows is too large by the number of ranks",
        f"{RUNTIME}/exchange/over.py",
        "return (total / math.prod(sizes[axis] for axis in axes)).to(x.dtype)",
        "return (total / math.prod(x.shape[axis] for axis in axes)).to(x.dtype)",
    ),
    Mutant(
        "norms added up",
        "a norm over sharded rows is the sum of the norms of the shards",
        f"{RUNTIME}/exchange/over.py",
        'yield [Partial(partial.square(), "sum")]\n        return total.sqrt().to(x.dtype)',
        'yield [Partial(partial, "sum")]\n        return total.to(x.dtype)',
    ),
    Mutant(
        "a failure at one owner raised at once",
        "an error on one rank leaves the others waiting for ever",
        f"{RUNTIME}/exchange/over.py",
        "            self.failure = problem\n",
        "            raise\n",
    ),
    Mutant(
        "NaN of one rank dropped",
        "a NaN on one rank is not the largest element of the whole",
        f"{RUNTIME}/exchange/packing.py",
        "flat.isnan().to(flat.dtype)])",
        "torch.zeros_like(flat)])",
    ),
    Mutant(
        "pieces in the order of shards",
        "whole matrices are put together of pieces of several of them",
        f"{RUNTIME}/exchange/packing.py",
        "pieces = [shuffle.outgoing[rank].reshape(-1) for rank in ranks for shuffle in shuffles]",
        "pieces = [shuffle.outgoing[rank].reshape(-1) for shuffle in shuffles for rank in ranks]",
    ),
    Mutant(
        "owners in turn",
        "one rank computes most of what needs whole matrices while others wait",
        f"{RUNTIME}/exchange/owners.py",
        "(load + flops[index], rank))",
        "(load + 1, rank))",
    ),
    Mutant(
        "one batch under way at a time",
        "what travels is waited for before anything else is computed",
        f"{RUNTIME}/exchange/drive.py",
        "while len(under_way) < WINDOW and",
        "while not under_way and",
    ),
    Mutant(
        "a decision of some ranks",
        "a NaN on one rank skips the step there alone, and ranks drift apart",
        f"{RUNTIME}/exchange/agreement.py",
        "reach.reduce(flag, dist.ReduceOp.MIN, sent)",
        "reach.reduce(flag, dist.ReduceOp.MAX, sent)",
    ),
    Mutant(
        "sums of what one group has",
        "a global norm counts shards of one mesh in place of another's",
        f"{RUNTIME}/steps/sums.py",
        "if len(set(ranks)) == 1:",
        "if ranks:",
    ),
    Mutant(
        "ranks that are not asked",
        "ranks with other gradients or hypers step until one waits for ever",
        f"{RUNTIME}/steps/together.py",
        "        if not self.exchanges:\n            if self._asks",
        "        if self.exchanges:\n            if self._asks",
    ),
    Mutant(
        "steps of what travels not counted",
        "bias corrections of sharded matrices stay at the first step",
        f"{RUNTIME}/steps/jobs.py",
        "yield runner.begin(bucket, job.scalars, partial(advance, bucket.completed, runner.batch.count))",
        "yield runner.begin(bucket, job.scalars, lambda: None)",
    ),
    Mutant(
        "states stay with former owners",
        "the state of a matrix is lost where its owner changes, as when parameters are added",
        f"{RUNTIME}/steps/homes.py",
        "if place is not None and place != each[1].owner]",
        "if place is not None and place >= ranks.size]",
    ),
    # what the compiler writes
    Mutant(
        "averages the wrong way round",
        "moments hold the newest gradient almost alone",
        "compiler/targets/torch/passes/idioms.py",
        'return replace(node, operator="lerp", arguments=(start, end, share))',
        'return replace(node, operator="lerp", arguments=(start, end, decay))',
    ),
    Mutant(
        "branches of guards swapped",
        "what only the first step needs is computed in all others",
        "compiler/passes/sink_into_branches.py",
        "yield from uses(expr.then, with_condition(context, expr.condition))",
        "yield from uses(expr.then, with_condition(context, opposite))",
    ),
    Mutant(
        "outputs in another order",
        "weights and states are written back to each other",
        f"{RUNTIME}/contract/interface.py",
        'tuple(name for name in inputs if name not in ("grad", NOISE))',
        'tuple(name for name in inputs if name not in ("grad", NOISE))[::-1]',
    ),
    Mutant(
        "states lent to others",
        "a state that keeps the old value of another gets the new one",
        f"{RUNTIME}/execution/computations.py",
        "return [value.clone() if is_lent(name, value) else value for name, value in zip(names, values, strict=True)]",
        "return list(values)",
    ),
)


def mutated(text: str, mutant: Mutant) -> str:
    """The text of the mutant's file with the mistake; ValueError unless its old text occurs exactly once."""
    count = text.count(mutant.old)
    if count != 1:
        raise ValueError(f"{mutant.name}: its old text occurs {count} times in {mutant.file}")
    return text.replace(mutant.old, mutant.new)


# -- the copy ----------------------------------------------------------------------------------------------------------


class Copy:
    """The sources in a folder of their own: built, then changed for one mutant at a time and restored."""

    def __init__(self, folder: Path) -> None:
        self.home, self.folder = folder / "copy", folder
        self.home.mkdir()
        for name in source_files():
            target = self.home / name
            target.parent.mkdir(parents=True, exist_ok=True)
            if (ROOT / name).is_symlink():
                target.symlink_to(os.readlink(ROOT / name))
            else:
                target.write_bytes((ROOT / name).read_bytes())
        self.build()
        self.original = self.files()

    def files(self) -> dict[Path, bytes]:
        paths = [*self.home.rglob("*")]
        return {path: path.read_bytes() for path in paths if path.is_file() and not path.is_symlink()}

    def build(self) -> None:
        """RuntimeError if the sources do not compile the specs."""
        command, environment = [sys.executable, "-m", "optforge", "build"], {**os.environ, **self.environment()}
        done = subprocess.run(command, cwd=self.home, env=environment, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"optforge build failed: {done.stdout}{done.stderr}")

    def environment(self) -> dict[str, str]:
        """In which the sources of the copy come before those that are installed."""
        compiled = str(self.folder / "compiled")
        return {"PYTHONPATH": str(self.home / "src"), "PYTHONPYCACHEPREFIX": compiled, "PYTHONDONTWRITEBYTECODE": ""}

    def change(self, mutant: Mutant) -> None:
        path = self.home / mutant.file
        text = mutated(path.read_text(encoding="utf-8"), mutant)
        path.write_text(text, encoding="utf-8")
        if not mutant.file.startswith(f"{RUNTIME}/"):  # which generated modules import as it is
            self.build()

    def restore(self) -> None:
        now = self.files()
        for path in now.keys() - self.original.keys():
            path.unlink()
        for path, content in self.original.items():
            if now.get(path) != content:
                path.write_bytes(content)

    def caught_by(self) -> str | None:
        """The first contract test that fails, None if all pass; RuntimeError if they could not run."""
        output = self.folder / "output.txt"
        process = PROCESSES.Process(target=run_tests, args=(self.home, self.environment(), output, CONTRACT))
        process.start()
        process.join(LIMIT)
        if process.is_alive():
            process.kill()
            process.join()
        said, code = output.read_text(encoding="utf-8", errors="replace"), process.exitcode
        if code == 0:
            return None
        found = re.search(r"^FAILED tests/(\S+?::\w+(?:\[.*?\])?)(?: - |$)", said, re.MULTILINE)
        if code != 1 or found is None:
            raise RuntimeError(f"the tests could not run (exit code {code}):\n{said[-3000:]}")
        return found[1]


# Processes that begin with the slow imports done, which are none of ours.
PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(PRELOADED)


def run_tests(home: Path, environment: Mapping[str, str], output: Path, contract: Sequence[Sequence[str]]) -> None:
    """Runs the contract tests on the copy at `home` up to the first line that fails; exits with pytest's code."""
    with output.open("w") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    os.chdir(home)
    os.environ.update(environment)
    sys.pycache_prefix, sys.dont_write_bytecode = environment["PYTHONPYCACHEPREFIX"], False
    sys.path[:] = [str(home / "src"), *(path for path in sys.path if Path(path or ".").resolve() != ROOT)]
    for name in [name for name in sys.modules if name.partition(".")[0] == "tests"]:
        del sys.modules[name]

    import pytest

    import optforge
    from optforge import runtime

    if any(home.resolve() not in Path(module.__file__ or "").resolve().parents for module in (optforge, runtime)):
        sys.exit(NOT_THE_COPY)
    options = ("-x", "-q", "-m", "not wide and not peers", "-p", "no:cacheprovider", "-p", "no:xdist")
    for line in contract:
        code = pytest.main([*line, *options])
        sys.stdout.flush()
        if code:
            sys.exit(int(code))


def source_files() -> list[str]:
    """The files of the project: those that git tracks, and new ones that it does not ignore."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    names = dict.fromkeys(done.stdout.split("\0"))
    return [name for name in names if name and ((ROOT / name).is_file() or (ROOT / name).is_symlink())]


def verdicts(mutants: Sequence[Mutant]) -> Iterator[tuple[Mutant, str | None]]:
    """Each mutant with the test that caught it; RuntimeError if the tests fail without any mutant."""
    with tempfile.TemporaryDirectory() as folder:
        copy = Copy(Path(folder))
        for mutant in mutants:
            copy.change(mutant)
            try:
                yield mutant, copy.caught_by()
            finally:
                copy.restore()


def require_sound() -> None:
    """RuntimeError if a contract test fails on the copy as it is."""
    with tempfile.TemporaryDirectory() as folder:
        failed = Copy(Path(folder)).caught_by()
        if failed is not None:
            raise RuntimeError(f"without any mutant {failed} fails")


# -- the table ---------------------------------------------------------------------------------------------------------

HEAD = """# Mistakes that the contract tests see

Written by `make template-mutants`; do not edit. Each mistake is made in a copy of the sources: in the runtime, in a
template, or in a pass that writes kernels, that is, in what all generated classes share. Then the contract tests run on
the seed methods, the same command for every mistake. The table says which test was the first to fail.

| mistake | what a user would suffer | file | caught by |
|---|---|---|---|
"""
SURVIVED, UNTRIED = "**nothing**", "**not tried**"


def rows_of(text: str) -> dict[str, str]:
    """The rows of a table by the name of the mutant."""
    lines = text.partition("|---")[2].splitlines()[1:]
    return {line.split(" | ")[0].removeprefix("| "): line for line in lines}


def row(mutant: Mutant, caught: str | None, otherwise: str = SURVIVED) -> str:
    file = mutant.file.removeprefix("compiler/")
    by = f"`{caught}`" if caught else otherwise
    return f"| {mutant.name} | {mutant.suffers} | `{file}` | {by} |"


def table(rows: Mapping[str, str]) -> str:
    """The table of the mutants there are, whether they have been tried or not."""
    return HEAD + "".join(f"{rows.get(each.name) or row(each, None, UNTRIED)}\n" for each in MUTANTS)


def main() -> int:
    """Exit code 1 if a mutant survives."""
    parser = argparse.ArgumentParser(description="Make mistakes in what generated classes share; see who notices.")
    parser.add_argument("names", metavar="NAME", nargs="*", help="mutants (default: all)")
    parser.add_argument("--write", action="store_true", help=f"write tests/{TABLE.name}")
    parser.add_argument("--no-baseline", action="store_true", help="do not first run the tests without any mutant")
    options = parser.parse_args()
    known = {mutant.name: mutant for mutant in MUTANTS}
    if unknown := [name for name in options.names if name not in known]:
        parser.error(f"no such mutant: {', '.join(unknown)}")
    os.environ["OMP_NUM_THREADS"] = "1"
    if not options.no_baseline:
        require_sound()
    rows = rows_of(TABLE.read_text(encoding="utf-8")) if TABLE.exists() else {}
    survivors = 0
    for mutant, caught in verdicts([known[name] for name in options.names] or MUTANTS):
        survivors += caught is None
        rows[mutant.name] = row(mutant, caught)
        print(rows[mutant.name], flush=True)
        if options.write:  # each time, so that what has been found is kept if the rest is stopped
            TABLE.write_text(table(rows), encoding="utf-8")
    return 1 if survivors else 0


if __name__ == "__main__":
    sys.exit(main())
