"""What became of each test of torch's `test/test_optim.py` here: `python -m tests.runtime.torch_suite`.

Runs `tests/runtime/test_torch_suite.py` for all classes, with the given options of pytest (`-n 2`), and writes
`tests/TORCH_SUITE.md`: for each of torch's tests and for those added to them what is asked of our classes, and how many
(class, input) cases passed; or why the test has no meaning here. The numbers are those of the run; with any failure
nothing is written.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch

FILE = Path(__file__).parents[1] / "TORCH_SUITE.md"
TESTS = Path(__file__).parent / "test_torch_suite.py"

# The tests of torch's TestOptimRenewed, in its order.
NAMES = (
    "test_optim_infos_do_not_specify_global_cliquey_kwargs",
    "test_errors",
    "test_forloop_goes_right_direction",
    "test_forloop_goes_right_direction_multigpu",
    "test_param_group_with_lrscheduler_goes_right_direction",
    "test_tensor_lr",
    "test_rosenbrock_sparse",
    "test_complex",
    "test_complex_2d",
    "test_foreach_matches_forloop",
    "test_mixed_device_dtype",
    "test_set_default_dtype_works_with_foreach",
    "test_foreach_large_tensor",
    "test_peak_memory_foreach",
    "test_fused_matches_forloop",
    "test_fused_error_on_params_on_meta",
    "test_fused_large_tensor",
    "test_fused_does_not_step_if_foundinf",
    "test_cpu_load_state_dict",
    "test_param_groups_weight_decay",
    "test_param_groups_lr",
    "test_step_is_noop_when_params_have_no_grad",
    "test_step_is_noop_for_zero_grads",
    "test_optimizer_can_be_printed",
    "test_state_dict_deterministic",
    "test_can_load_older_state_dict",
    "test_can_load_from_to_named_state_dict",
    "test_save_load_equality_with_weights_only",
    "test_load_nontensor_step",
    "test_state_dict_with_cuda_params",
    "test_state_dict_pre_hook",
    "test_state_dict_post_hook",
    "test_state_dict_pre_post_hook",
    "test_load_state_dict_pre_hook_and_prepend",
    "test_load_state_dict_post_hook",
    "test_load_state_dict_pre_post_hook",
    "test_step_post_hook",
    "test_step_pre_hook",
    "test_step_all_hooks",
    "test_deepcopy_copies_all_public_attrs",
    "test_second_order_optims_return_consistent_types",
    "test_fused_cpu_matches_cuda",
    "test_defaults_changed_to_foreach",
    "test_non_empty_state",
)

DOES_NOT_APPLY = {
    "test_forloop_goes_right_direction_multigpu": "needs two GPUs; devices in one optimizer: test_mixed_device_dtype",
    "test_complex_2d": "complex parameters are refused: test_complex",
    "test_foreach_large_tensor": "needs 16 GiB of gradient and weights, and as much again, on one device",
    "test_fused_matches_forloop": "there is no `fused`; it asks for nothing here: test_flags_of_torch_are_refused",
    "test_fused_error_on_params_on_meta": "there is no `fused`; steps on the meta device work: test_mixed_device_dtype",
    "test_fused_large_tensor": "there is no `fused`",
    "test_second_order_optims_return_consistent_types": "no step needs a closure, as that of LBFGS does",
    "test_fused_cpu_matches_cuda": "there is no `fused`",
    "test_defaults_changed_to_foreach": "there is no `foreach`; all parameters of a kind always step together",
}

INTRODUCTION = """\
# Torch's own optimizer tests on our classes

Written by `python -m tests.runtime.torch_suite`; do not edit. Torch keeps the tests of its optimizers in
`test/test_optim.py`, which no wheel has, and what they run on, a database of `OptimizerInfo`, in
`torch.testing._internal.common_optimizers`. `tests/runtime/torch_suite_database.py` has an entry of that form for every
generated class: the defaults, each hyper at a second value that its spec allows, and tensors as lr.
`tests/runtime/test_torch_suite.py` asks of each what torch's tests ask, and errors where torch has none are documented
there. A case is one test of one class with one of its inputs; a class sits out where it has nothing to test (a class
without weight decay, say), moves weights whatever the gradient, as five do, draws numbers by a parameter's place, as
APOLLO and SGLD do, or goes by a loss, as MoMo does (`EXEMPT`).

`maximize`, `foreach`, `fused` and `differentiable` are no hypers of any spec, and refused.
"""


@dataclass
class Counts:
    """A pytest plugin, with or without xdist: for each test the cases that passed and the classes that took part."""

    passed: dict[str, int] = field(default_factory=dict)
    classes: dict[str, set[str]] = field(default_factory=dict)

    def pytest_runtest_logreport(self, report: Any) -> None:
        name, _, label = report.location[2].partition("[")
        if report.when == "call" and report.passed:
            self.passed[name] = self.passed.get(name, 0) + dict(report.user_properties).get("cases", 0)
            if label:
                self.classes.setdefault(name, set()).add(label)


def read_docstrings() -> dict[str, str]:
    """Of the tests, in their order."""
    body = ast.parse(TESTS.read_text(encoding="utf-8")).body
    tests = [node for node in body if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")]
    return {test.name: ast.get_docstring(test) or "" for test in tests}


def described(docs: Mapping[str, str]) -> dict[str, str]:
    """All rows of the table: torch's tests in torch's order, and then our own; with what each asks, or why not."""
    order = [*NAMES, *(name for name in docs if name not in NAMES and not name.startswith("test_report"))]
    return {name: docs.get(name) or f"does not apply: {DOES_NOT_APPLY[name]}" for name in order}


def render(counts: Counts) -> str:
    docs = read_docstrings()
    rows = described(docs)
    total = sum(counts.passed.values())
    applied = [name for name in NAMES if name in docs]
    classes = len(set().union(*counts.classes.values()))
    return "\n".join(
        [
            INTRODUCTION,
            f"With torch {torch.__version__.partition('+')[0]}, {classes} classes: {len(applied)} of torch's "
            f"{len(NAMES)} tests apply, and {len(rows) - len(NAMES)} more; all {total:,} cases pass.\n",
            "| test | cases | classes | what is asked |",
            "|---|---:|---:|---|",
            *render_rows(rows, counts),
            "",
        ]
    )


def render_rows(rows: Mapping[str, str], counts: Counts) -> Iterator[str]:
    for name, text in rows.items():
        cases = counts.passed.get(name) or ""
        shown = name if name in NAMES else f"*{name}*"
        yield f"| {shown} | {cases} | {len(counts.classes.get(name, ())) or ''} | {text} |"


def read_table() -> dict[str, str]:
    """The rows of the document: each test and what stands beside it."""
    text = FILE.read_text(encoding="utf-8")
    return dict(re.findall(r"^\| \*?(test_\w+)\*? \| \d* \| \d* \| (.*) \|$", text, re.M))


def main() -> int:
    counts = Counts()
    report = "not test_report_lists_the_tests_that_exist"  # which holds once this is done
    code = pytest.main(["-q", "-m", "", "-k", report, *sys.argv[1:], str(TESTS)], plugins=[counts])
    if code:
        return int(code)
    FILE.write_text(render(counts), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
