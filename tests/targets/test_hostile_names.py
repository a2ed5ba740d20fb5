"""Names that Python, torch or the runtime use: refused clearly, or generated code that still means the same."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from pkgutil import walk_packages
from types import ModuleType

import numpy as np
import pytest
import torch

from optforge import runtime
from optforge.compiler.driver import check_source, compile_program, run_passes
from optforge.compiler.ir import nodes as ir
from optforge.compiler.load import compile_source
from optforge.compiler.oracle import interpreter as interpret
from optforge.compiler.targets.torch.render import render_program, render_standalone
from optforge.compiler.targets.torch.reserved import METHODS, MODULE_NAMES, RESERVED
from optforge.compiler.targets.torch.target import TORCH
from optforge.dsl.source import Source

ROOT = Path(__file__).parents[2]
LISTED = """
    abs args annotations AdamW all Any bool case cls closure col cols condition defaults denominator det device dict dim
    dtype e1 ema eval event events Event exec factor False fill fire float generator grad holds hyper_ hypers id import
    in_place inf initial input int Kernel keepdim l lambda layout lerp list loss lr m m_2 m_part match math matrix
    matrix_init matrix_rule max State min mod momentum mT name nan new_full None norm O object open Optimizer
    orthogonalize other p param_groups parameter params per pi plain_matrix_rule Plain power precision prev print
    property RULES require rest_lr row rows rule Rule scale self shape skip_nonfinite Source SpecOptimizer square
    staticmethod state state_dict step str sum super t tensor Tensor torch total_1 type update value weight weight_
    weight_2 weights ParameterBatch x X _ _x __class__ __import__ __init__ zero_grad
"""
NAMES = LISTED.split()
CLASSES = """
    X Plain_ A2 A10 A1b AB Ab a aB a2 a10 b_1 B_1 B1 B_ Z9 ZZ9 SGD SGD2 SGD10 NAdam NAMO NAMOD Nora x9 x10 x1_a
"""

# One spec for each place that a name can stand in, with functions of every kind around it.
PLACES = {
    "hyper": """
optimizer Plain:
    hyper NAME = 0.5 where NAME > 0
    for matrix:
        m = ema(grad, 0.9)
        weight <- weight - NAME * max(m, 0)^1.5 * sqrt(abs(NAME)) / max(norm(m), NAME)
""",
    "binding": """
optimizer Plain:
    hyper lr = 0.1 where lr > 0
    for matrix:
        NAME = orthogonalize(grad) + max(grad, 0)^1.5
        weight <- weight - lr * sqrt(abs(NAME)) * min(norm(NAME), lr) - lr * NAME
""",
    "state": """
optimizer Plain:
    hyper lr = 0.1 where lr > 0
    for matrix:
        NAME = 0.9 * prev(NAME, norm(weight)) + grad
        weight <- weight - lr * max(NAME, 0)^1.5 * rows - lr * NAME
    for rest:
        weight <- weight - lr * grad
""",
    "event": """
optimizer Plain:
    hyper lr = 0.1 where lr > 0
    on NAME(scale):
        h = ema(scale * grad^2, 0.9)
    for matrix:
        weight <- weight - lr * grad / (1 + h)
""",
    "argument": """
optimizer Plain:
    hyper lr = 0.1 where lr > 0
    on measure(NAME):
        h = ema(max(NAME, 1) * grad^2, 0.9)
    for matrix:
        weight <- weight - lr * grad / (1 + h)
""",
    "stream of an event": """
optimizer Plain:
    hyper lr = 0.1 where lr > 0
    on measure(scale):
        NAME = ema(scale * grad^2, 0.9)
    for matrix:
        weight <- weight - lr * grad / (1 + NAME)
""",
    "class": """
optimizer NAME:
    hyper lr = 0.1 where lr > 0
    for matrix:
        m = ema(orthogonalize(grad), 0.9)
        weight <- weight - lr * max(m, 0)^1.5
""",
    "classes": """
optimizer NAME:
    hyper lr = 0.1 where lr > 0
    for matrix:
        weight <- weight - lr * max(grad, 0)

schedule Plain_:
    hyper n = 5 where n > 0
    factor <- max(1 - t / n, 0)
""",
    "function": """
def NAME(x, k=2):
    inner = prev(inner) + x
    return k * inner

optimizer Plain:
    hyper lr = 0.1 where lr > 0
    for matrix:
        m = NAME(grad)
        weight <- weight - lr * max(m, 0)^1.5
""",
    "inside of a function": """
def remembered(NAME, k=2):
    return_ = prev(return_) + NAME
    return k * return_

def nested(x):
    NAME = prev(NAME) / 2 + abs(x)
    return NAME

optimizer Plain:
    hyper lr = 0.1 where lr > 0
    for matrix:
        m = remembered(grad) + nested(grad)
        weight <- weight - lr * max(m, 0)^1.5
""",
    "hyper of a delegate": """
optimizer Base:
    hyper NAME = 0.5 where NAME > 0
    for tensor:
        weight <- weight - NAME * max(grad, 0)^1.5

optimizer Plain:
    for matrix: use Base()
""",
    "schedule": """
schedule NAME:
    hyper n = 5 where n > 0
    factor <- max(1 - t / n, 0) + abs(cos(t))
""",
    "hyper of a schedule": """
schedule Plain:
    hyper NAME = 5 where NAME > 0
    factor <- max(1 - t / NAME, 0) + abs(cos(t))
""",
    "penalty": """
penalty NAME:
    hyper scale = 0.5
    for matrix:
        loss <- scale * norm(weight)^1.5
""",
}

# What a place shares with one that is looked at always.
LIKE_OTHERS = {"argument", "stream of an event", "inside of a function", "hyper of a delegate", "hyper of a schedule"}

# What may be said of a name: a word of the language, reserved, not for Python, taken already, or not for a state.
CLEAR = {"E004", "E010", "E011", "E013", "E029"}


def accepted(place: str) -> Iterator[tuple[str, ir.Program]]:
    """Each name that a place takes, with the program of its spec."""
    for name in NAMES:
        text = PLACES[place].replace("NAME", name).lstrip()
        result = check_source(Source("spec.opt", text), reserved=RESERVED)
        if result.program is not None:
            yield name, run_passes(result.program, TORCH.rewrites)
        else:
            codes = {diagnostic.code for diagnostic in result.diagnostics if diagnostic.severity == "error"}
            assert codes & CLEAR, (place, name, codes)


def executed(text: str, package: str = "optforge.generated") -> ModuleType:
    module = ModuleType("hostile")
    module.__package__ = package
    sys.modules["hostile"] = module
    exec(compile(text, "hostile.py", "exec"), vars(module))
    del sys.modules["hostile"]
    return module


def steps_like_the_oracle(module: ModuleType, program: ir.Program) -> bool:
    for declaration in program.declarations:
        made = getattr(module, declaration.name)
        defaults = {hyper.name: hyper.default.value for hyper in declaration.hypers if hyper.default}
        match declaration:
            case ir.Optimizer():
                if not same_steps(made, declaration, defaults):
                    return False
            case ir.Schedule():
                if not np.isclose(made.factor(3, **defaults), interpret.schedule_factor(declaration, 3.0, defaults)):
                    return False
            case ir.Penalty():
                if not made([torch.nn.Parameter(torch.ones(3, 4))])().item() > 0:
                    return False
    return True


def same_steps(made: type, declaration: ir.Optimizer, hypers: dict[str, object]) -> bool:
    rng = np.random.default_rng(0)
    (rule,) = (rule for rule in declaration.rules if "matrix" in rule.roles)
    p = torch.nn.Parameter(torch.from_numpy(rng.normal(size=(4, 3))))
    optimizer, oracle = made([p]), interpret.OracleParameter(p.detach().numpy().copy(), rule)
    for _ in range(2):
        grad = rng.normal(size=(4, 3))
        p.grad = torch.from_numpy(grad)
        for event in rule.events:
            arguments = {parameter.name: 2.0 for parameter in event.parameters}
            getattr(optimizer, event.name)(**arguments)
            interpret.fire_event([oracle], event.name, [grad], [hypers], arguments)
        optimizer.step()
        interpret.run_step([oracle], [grad], [hypers])
    return np.allclose(p.detach().numpy(), oracle.value, rtol=1e-9, atol=1e-12)


def require_ruff(folder: Path) -> None:
    for arguments in (["check"], ["format", "--check"]):
        command = [sys.executable, "-m", "ruff", *arguments, "--config", str(ROOT / "pyproject.toml"), str(folder)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(
    "place", [pytest.param(place, marks=pytest.mark.wide if place in LIKE_OTHERS else ()) for place in PLACES]
)
def test_a_name_is_refused_clearly_or_changes_nothing(place, tmp_path):
    """Accepted ones give modules that pass the linter and step like the interpreter, also with the runtime in them."""
    kept = dict(accepted(place))
    assert {"X", "weights"} <= set(kept)
    for name, program in kept.items():
        generated = render_program(program, "Test.")
        (tmp_path / f"spec_{name}_.py").write_text(generated)
        assert steps_like_the_oracle(executed(generated), program), (place, name)
    require_ruff(tmp_path)


def test_no_class_hides_what_a_standalone_module_holds():
    found = [each for each in walk_packages(runtime.__path__, f"{runtime.__name__}.") if not each.ispkg]
    modules = [import_module(each.name) for each in found]
    held = {name for module in modules for name in vars(module) if name.isidentifier() and name[0] != "_"}
    assert held and held <= MODULE_NAMES
    for name in ("Works", "Bucket_", "routed"):
        text = PLACES["class"].replace("NAME", name)
        executed(render_standalone(render_program(compile_program(Source("spec.opt", text), TORCH), "Test.")))


def test_no_event_hides_an_attribute_of_optimizers():
    module = compile_source(PLACES["hyper"].replace("NAME", "lr"))
    optimizer = module.Plain([torch.zeros(2, 2)])
    public = {name for name in {*dir(runtime.SpecOptimizer), *vars(optimizer)} if not name.startswith("_")}
    assert public <= METHODS


def test_classes_are_exported_in_the_order_of_the_linter(tmp_path):
    text = "".join(f"optimizer {name}:\n    for tensor:\n        weight <- weight - grad\n" for name in CLASSES.split())
    generated = render_program(compile_program(Source("spec.opt", text), TORCH), "Test.")
    (tmp_path / "spec.py").write_text(generated)
    require_ruff(tmp_path)
