"""Names that generated modules, constructors and parameter groups have for themselves."""

from __future__ import annotations

import builtins

from optforge.compiler.frontend.reporting import ReservedNames
from optforge.compiler.ir.operators import OPERATORS

# Arguments of the constructors of optimizers, schedules and penalties, and of `fire`.
ARGUMENTS = {
    "self", "params", "model", "optimizer", "precision", "seed", "skip_nonfinite", "backend", "capturable",
    "options", "last_epoch", "event",
}  # fmt: skip

# Keys that a parameter group has, may have, or has for other optimizers and torch's own code.
GROUP_KEYS = {
    "param_names", "rule", "split", "transposed", "batch", "betas", "initial_lr", "max_lr", "min_lr", "base_momentum",
    "max_momentum", "swa_lr", "maximize", "foreach", "capturable", "differentiable", "fused", "backend", "spec",
}  # fmt: skip

# Attributes of torch.optim.Optimizer and of the runtime's base class that an event must not hide.
METHODS = {
    "step", "zero_grad", "state", "state_dict", "load_state_dict", "add_param_group", "param_groups", "defaults",
    "fire", "check_hypers", "skip_nonfinite", "backend", "capturable", "compile_options",
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
    "DEVICE_ALONE", "DEVICE_BATCH", "DIMENSIONS", "DTYPES", "DeviceCounters", "EXACT_QUINTIC", "Event", "ExitStack",
    "Defaults", "FEW_ELEMENTS", "Homes", "MEMBERS", "NOWHERE", "ParameterBatch", "Shards", "GroupValues",
    "FORCED", "FakeTensor", "FrameType", "FunctionType", "GENERIC", "GRAPHS_LIMIT", "Generated", "Graph", "GraphModule",
    "Group", "HEADS", "HEAD_NAMES", "HEAD_TYPES", "Iterable", "Iterator", "Kernel", "LARGEST", "LASTS", "LAYERS",
    "LAYOUTS", "LEAST_WIDTH", "LOOKUPS", "LRScheduler", "Layer", "MANY_ELEMENTS", "MOMENTUM", "Mapping", "State",
    "Module", "ModuleNode", "MutableMapping", "NEWTON_SCHULZ", "NUMBERS_LIMIT", "Named", "NamedTuple", "Node", "Number",
    "OPTIONS", "OUTERMOST", "Occurrence", "OpOverload", "Optimizer", "Options", "PARAMETER", "PARAMETERS",
    "PLACES", "POLAR_EXPRESS", "POLAR_EXPRESS_SAFETY", "PRECISIONS", "PROBE_LOOKS", "PROBE_NUMBER", "PROBE_ROUNDS",
    "Place", "Probe", "RECURRENT", "REPARAMETRIZED", "ROLES", "RULINGS", "Reading", "Real", "Recorder", "Refused",
    "Roster", "Route", "Rule", "Ruling", "Runner", "SCHEDULER_KEYS", "SCHEMA_VERSION", "SPEC_KEY", "SYMMETRIC_BLOCK",
    "Scalars", "Sequence", "SimpleNamespace", "Slot", "Source", "Spec", "SpecOptimizer", "SpecPenalty", "SpecSchedule",
    "StorageWeakRef", "Stored", "Strategy", "Surroundings", "TALL", "Tensor", "TooManyNumbers", "TracebackType",
    "Triples", "TypedDict", "UNEVEN", "Unpack", "VERSION", "VIEW_KEYS", "View", "WEIGHTS", "WHOLE_NAMES", "WIDTHS",
    "WORD", "WRAPPERS", "Was", "WrongGraph", "annotations", "array", "cache", "cached_property", "cast",
    "chain", "cholesky", "solve", "eigenvalues", "mpower", "quantiles", "ranks",
    "contextmanager", "dataclass", "deepcopy", "defaultdict", "det", "difflib", "eigenbasis", "explain_orthogonalize",
    "explain_routing", "explain_schedule", "field", "fields", "find_spec", "from_dlpack", "fused_adagrad", "fused_adam",
    "fused_adamw", "fused_sgd", "get_proxy_mode", "get_total_norm", "groupby", "ieee", "importlib", "inspect",
    "index",
    "inverse_root", "iterate_in", "json", "logdet", "lru_cache", "make_fx", "math", "nn", "no_type_check",
    "nullcontext", "operator", "orthogonalize", "os", "param_groups", "partial", "platform", "power", "qr", "re",
    "replace", "require", "round_stochastically", "route", "shutil", "signal", "symmetric_products", "sys", "threading",
    "DeviceMesh", "Layout", "LocalEntry", "LocalSlot", "LocalStates", "Part", "TypeGuard", "dist",
    "CPU_CROSSING", "DEVICE_CROSSING", "Dims", "FULL", "Generator", "Job", "Known", "Message", "Over", "Owners",
    "Communication", "Firing", "NoReturn", "Partial", "Ranks", "Reach", "Request", "Run", "Sharding", "Shuffle", "Step",
    "TEXT_BYTES", "Together", "TypeVar", "WINDOW", "communication", "deque", "hashlib", "heapq",
    "Asked", "Crossing", "FakeTensorMode", "GIVEN_MARK", "GivenTensors", "Forms", "Narrow", "Piece", "Pieces",
    "Hashable", "Lattice", "Mark", "NOISE", "NOTHING", "OWN_DIMENSIONS", "Rank", "Noise", "accumulate", "norm", "zlib",
    "NormalDist", "Segment", "corner", "normal", "sign_noise", "uniform",
    "tl", "torch", "trace", "tree_map", "warnings", "wraps",
}  # fmt: skip

# What generated functions call: a parameter of that name would hide it.
CALLED = {
    "abs", "min", "max", "math", "torch", "require", "fused_adagrad", "fused_adam", "fused_adamw", "fused_sgd",
    *(name for operator in OPERATORS.values() for name in operator.imports),
}  # fmt: skip

# The reason that counts is the last one: what a user would meet first.
PARAMETER_REASONS = {
    **dict.fromkeys(CALLED, "generated functions use that name"),
    **dict.fromkeys(GROUP_KEYS, "parameter groups have a key of that name"),
    **dict.fromkeys(ARGUMENTS, "constructors have an argument of that name"),
}
RESERVED = ReservedNames(
    {
        "hyperparameter": PARAMETER_REASONS,
        "argument": PARAMETER_REASONS,
        "event": dict.fromkeys(METHODS, "every optimizer has an attribute of that name"),
        "class": dict.fromkeys((*MODULE_NAMES, *dir(builtins)), "generated modules use that name"),
    }
)
