"""Which names a spec may give to its values, hypers, events and classes."""

from __future__ import annotations

import keyword

from optforge.compiler.library import Report
from optforge.compiler.ops import CALLABLE, OPERATORS
from optforge.compiler.universal import CLAIM_FORMS, RESERVED
from optforge.dsl import ast, errors

NAME_LIMIT = 60

# Keys that every parameter group has, and arguments of every constructor.
GROUP_KEYS = {
    "params", "param_names", "rule", "split", "transposed", "precision", "skip_nonfinite", "generator",
    "initial_lr", "self", "maximize", "foreach", "capturable", "differentiable", "fused", "model", "backend",
}  # fmt: skip

# Attributes of torch.optim.Optimizer and of the runtime's base class that an event must not hide.
METHODS = {
    "step", "zero_grad", "state", "state_dict", "load_state_dict", "add_param_group", "param_groups", "defaults",
    "fire", "check_hypers", "profile_hook_step", "register_step_pre_hook", "register_step_post_hook",
    "register_state_dict_pre_hook", "register_state_dict_post_hook", "register_load_state_dict_pre_hook",
    "register_load_state_dict_post_hook",
}  # fmt: skip

# Module-level names of generated files.
CLASS_NAMES = {
    "Tensor", "Module", "Kernel", "Memory", "Rule", "Event", "SpecOptimizer", "SpecSchedule", "SpecPenalty",
    "Optimizer", "LRScheduler", "Any", "None", "True", "False",
}  # fmt: skip

# What generated functions call, and arguments that stand beside the hypers in their signatures.
PYTHON_NAMES = {
    "abs", "min", "max", "math", "torch", "require", "event", "optimizer", "last_epoch",
    *(name for operator in OPERATORS.values() for name in operator.imports),
}  # fmt: skip

KINDS = {
    "hyperparameter": (GROUP_KEYS, "every parameter group has a key of that name"),
    "event": (METHODS, "every optimizer has a method of that name"),
    "class": (CLASS_NAMES, "every generated module has a class of that name"),
}


def require_usable_name(name: ast.Identifier, kind: str, report: Report) -> None:
    """Report a name that has a meaning already or that generated Python could not carry."""
    text = name.name
    taken, reason = KINDS.get(kind, (set(), ""))
    if text in RESERVED:
        report(errors.reserved_name(text, name.span))
    elif keyword.iskeyword(text) or keyword.issoftkeyword(text):
        report(errors.python_name(text, "it is a word of Python", name.span))
    elif text.startswith("__"):
        report(errors.python_name(text, "names with two leading underscores belong to Python", name.span))
    elif text in taken:
        report(errors.python_name(text, reason, name.span))
    elif kind == "hyperparameter" and text in PYTHON_NAMES:
        report(errors.python_name(text, "generated functions use that name", name.span))
    elif len(text) > NAME_LIMIT:
        report(errors.too_large("this name is too long", NAME_LIMIT, name.span))


def require_usable_function_name(name: ast.Identifier, report: Report) -> None:
    if name.name in CALLABLE or name.name in CLAIM_FORMS or name.name in RESERVED:
        report(errors.reserved_name(name.name, name.span))
