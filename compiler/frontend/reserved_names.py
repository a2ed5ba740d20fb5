"""Which names a spec may give to its values, hypers, events and classes."""

from __future__ import annotations

import builtins
import keyword

from optforge.compiler.frontend.builtins import CLAIM_FORMS, RESERVED
from optforge.compiler.frontend.reporting import Report
from optforge.compiler.ir.operators import CALLABLE, OPERATORS
from optforge.dsl import ast, errors

NAME_LIMIT = 60

# Arguments of the constructors of optimizers, schedules and penalties, and of `fire`.
ARGUMENTS = {
    "self", "params", "model", "optimizer", "precision", "skip_nonfinite", "backend", "capturable", "generator",
    "options", "last_epoch", "event",
}  # fmt: skip

# Keys that a parameter group has, may have, or has for other optimizers and torch's own code.
GROUP_KEYS = {
    "param_names", "rule", "split", "transposed", "batch", "initial_lr", "max_lr", "min_lr", "base_momentum",
    "max_momentum", "swa_lr", "maximize", "foreach", "capturable", "differentiable", "fused", "backend", "spec",
}  # fmt: skip

# Attributes of torch.optim.Optimizer and of the runtime's base class that an event must not hide.
METHODS = {
    "step", "zero_grad", "state", "state_dict", "load_state_dict", "add_param_group", "param_groups", "defaults",
    "fire", "check_hypers", "generator", "skip_nonfinite", "backend", "capturable", "compile_options",
    "profile_hook_step", "register_step_pre_hook",
    "register_step_post_hook", "register_state_dict_pre_hook", "register_state_dict_post_hook",
    "register_load_state_dict_pre_hook", "register_load_state_dict_post_hook", "OptimizerPreHook",
    "OptimizerPostHook", "RULES", "SPEC", "MOMENTUM",
}  # fmt: skip

# Names at the top of generated modules, which may have the whole runtime written out in them.
MODULE_NAMES = {
    "ADVICE", "AUTO_ELEMENTS", "AbstractContextManager", "Any", "Arrangement", "BACKENDS", "BRIDGES", "Bucket",
    "Buffer", "CHUNKS", "CONTAINERS", "COUNT_LIMIT", "CPU_ALONE", "CPU_BATCH", "CPU_BLOCK", "Call", "Callable",
    "ClassVar", "Collection", "CompileError", "Computation", "ContextVar", "Count", "Counter", "Counters", "DEFAULTS",
    "DEVICE_ALONE", "DEVICE_BATCH", "DTYPES", "DeviceCounters", "EXACT_QUINTIC", "Event", "ExitStack", "FEW_ELEMENTS",
    "FORCED", "FakeTensor", "FrameType", "FunctionType", "GENERIC", "GRAPHS_LIMIT", "Generated", "Graph", "GraphModule",
    "Group", "HEADS", "HEAD_NAMES", "HEAD_TYPES", "Iterable", "Iterator", "Kernel", "LASTS", "LAYERS", "LAYOUTS",
    "LEAST_WIDTH", "LOOKUPS", "LRScheduler", "Layer", "MANY_ELEMENTS", "MOMENTUM", "Mapping", "Memory", "Module",
    "ModuleNode", "MutableMapping", "NEWTON_SCHULZ", "NUMBERS_LIMIT", "Named", "NamedTuple", "Node", "Number", "OLDEST",
    "OPTIONS", "OUTERMOST", "Occurrence", "OpOverload", "Optimizer", "Options", "PARAMETER", "PARAMETERS", "PLACES",
    "POLAR_EXPRESS", "POLAR_EXPRESS_SAFETY", "PRECISIONS", "PROBE_LOOKS", "PROBE_NUMBER", "PROBE_ROUNDS", "Place",
    "Probe", "RECURRENT", "REPARAMETRIZED", "ROLES", "RULINGS", "Reading", "Real", "Recorder", "Refused", "Roster",
    "Route", "Rule", "Ruling", "Runner", "SCHEDULER_KEYS", "SCHEMA_VERSION", "SPEC_KEY", "SYMMETRIC_BLOCK", "Scalars",
    "Sequence", "SimpleNamespace", "Slot", "Source", "Spec", "SpecOptimizer", "SpecPenalty", "SpecSchedule",
    "StorageWeakRef", "Stored", "Strategy", "Surroundings", "Tensor", "TooManyNumbers", "TracebackType", "Triples",
    "TypedDict", "UNEVEN", "Unpack", "VERSION", "VIEW_KEYS", "View", "WEIGHTS", "WHOLE_NAMES", "WIDTHS", "WORD",
    "WRAPPERS", "Was", "Work", "WrongGraph", "annotations", "array", "cache", "cached_property", "cast", "chain",
    "contextmanager", "dataclass", "deepcopy", "defaultdict", "det", "difflib", "eigenbasis", "explain_orthogonalize",
    "explain_routing", "explain_schedule", "field", "fields", "find_spec", "from_dlpack", "fused_adagrad", "fused_adam",
    "fused_adamw", "fused_sgd", "get_proxy_mode", "get_total_norm", "groupby", "ieee", "importlib", "inspect",
    "inverse_root", "iterate_in", "json", "logdet", "lru_cache", "make_fx", "math", "nn", "no_type_check",
    "nullcontext", "operator", "orthogonalize", "os", "param_groups", "partial", "platform", "power", "qr", "re",
    "replace", "require", "round_stochastically", "route", "shutil", "signal", "symmetric_products", "sys", "threading",
    "tl", "torch", "trace", "tree_map", "warnings", "wraps",
}  # fmt: skip

# What generated functions call: a parameter of that name would hide it.
CALLED = {
    "abs", "min", "max", "math", "torch", "require", "fused_adagrad", "fused_adam", "fused_adamw", "fused_sgd",
    *(name for operator in OPERATORS.values() for name in operator.imports),
}  # fmt: skip

WORD = "it is a word of Python"
CONSTRUCTOR = "constructors have an argument of that name"
FUNCTIONS = "generated functions use that name"


def require_usable_name(name: ast.Identifier, kind: str, report: Report) -> None:
    """Report a name that has a meaning already or that generated Python could not carry."""
    text = name.name
    reason = reason_against(text, kind)
    if text in RESERVED:
        report(errors.reserved_name(text, name.span))
    elif reason:
        report(errors.python_name(text, reason, name.span))
    elif len(text) > NAME_LIMIT:
        report(errors.too_large("this name is too long", NAME_LIMIT, name.span))


def reason_against(text: str, kind: str) -> str | None:
    """Why something of this kind cannot have that name in generated Python; None where it can."""
    if keyword.iskeyword(text) or keyword.issoftkeyword(text):
        return WORD
    if text.startswith("__"):
        return "names with two leading underscores belong to Python"
    match kind:
        case "hyperparameter" | "argument":
            return reason_against_parameter(text)
        case "event" if text in METHODS:
            return "every optimizer has an attribute of that name"
        case "class" if text in MODULE_NAMES or text in dir(builtins):
            return "generated modules use that name"
        case "event" | "class" if text in ("l", "O", "I"):
            return "it looks like a digit"
        case "event" | "class" if text.startswith("_"):
            return "in Python a leading underscore says that nobody else should use it"
        case _:
            return None


def reason_against_parameter(text: str) -> str | None:
    if text in ARGUMENTS:
        return CONSTRUCTOR
    if text in GROUP_KEYS:
        return "parameter groups have a key of that name"
    return FUNCTIONS if text in CALLED else None


def require_usable_function_name(name: ast.Identifier, report: Report) -> None:
    if name.name in CALLABLE or name.name in CLAIM_FORMS or name.name in RESERVED:
        report(errors.reserved_name(name.name, name.span))
