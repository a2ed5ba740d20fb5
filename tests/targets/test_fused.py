"""Rules that run by torch's fused kernels: which ones do, which nearly are and do not, and that all compute the same.

Errors are measured relative to the largest step. A match is never believed: whatever is recognized, in the shipped
specs, in specs put together at random and in mutants of these, is run beside the rule's own function.
"""

from __future__ import annotations

import inspect
import itertools
import math
import os
import random
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from optforge import generated
from optforge.compiler.driver import check_source, compile_program, map_functions, run_passes
from optforge.compiler.frontend.files import SPECS
from optforge.compiler.ir import nodes as ir
from optforge.compiler.ir.operators import OPERATORS
from optforge.compiler.targets.torch.fused import FUNCTIONS, kernels
from optforge.compiler.targets.torch.passes.in_place import plan_storage
from optforge.compiler.targets.torch.render import render_program
from optforge.compiler.targets.torch.target import TORCH
from optforge.dsl.source import Source
from optforge.runtime.contract.interface import Kernel
from optforge.runtime.execution import fused as runtime
from tests.support.classes import generated_classes
from tools.programs.differential import load_module

CASES = Path(__file__).parents[1] / "cases" / "fused.txt"
STEPS = 20
FLOAT64 = 1e-12  # of the largest step, after STEPS steps
SHAPES = ((3, 7), (5,), (), (2, 3, 4), (33,))
COUNTS = [math.prod(shape) for shape in SHAPES]

# Which rules are recognized. Those that follow AdamW outside of their matrices, by `use` or from what they extend:
WITH_ADAMW = [
    "AdaGO",
    "AdamH",
    "AdamMini",
    "AdamP",
    "AdaMuon",
    "APOLLO",
    "ARO",
    "ASGO",
    "Aurora",
    "AuroraH",
    "CAME",
    "CASPR",
    "CautiousMano",
    "CautiousMuon",
    "CautiousNAMO",
    "CautiousNora",
    "CautiousNorMuon",
    "Conda",
    "ContraAurora",
    "ContraMuon",
    "ContraMuonRestored",
    "ContraNorMuon",
    "ContraNorMuonAurora",
    "Dion",
    "DynMuon",
    "Freon",
    "GaLore",
    "HTMuon",
    "Mano",
    "MARSAdamW",
    "MARSLion",
    "MARSM",
    "MiMuon",
    "Moonlight",
    "MOSO",
    "Mousse",
    "MUD",
    "Muon",
    "MuonCANS",
    "MuonClip",
    "MuonCubic",
    "MuonDeepSeek",
    "MuonEq",
    "MuonExact",
    "MuonH",
    "MuonHeavyBall",
    "MuonNSR",
    "MuonPlus",
    "MuonPolarExpress",
    "MuonSphere",
    "MuonSquared",
    "MuonSVD",
    "MuonTorch",
    "MuonYouJiacheng",
    "Muown",
    "NAMO",
    "NAMOD",
    "NAMODH",
    "NAMOH",
    "NewtonMuon",
    "Nora",
    "NorMuon",
    "NorMuonDion",
    "NorMuonFloor",
    "NorMuonFromMuon",
    "NorMuonH",
    "NorMuonOfficial",
    "NuMuon",
    "OneSidedShampoo",
    "PinnedMuon",
    "PinnedSOAPMuon",
    "PMuon",
    "PolarGrad",
    "PRISM",
    "RACS",
    "RadialBrakeMuon",
    "REG",
    "RMNP",
    "RMNPOfficial",
    "RowFloorSOAPMuon",
    "SGDSaI",
    "ShampooQuarter",
    "SinkGD",
    "SOAP",
    "SOAPMuon",
    "SoftMuon",
    "SpectralDescent",
    "SPEL",
    "SWAN",
    "TrustSOAPMuon",
    "TurboMuon",
    "UWFloorMuon",
]
RECOGNIZED = {
    ("AdamW", "tensor"): "fused_adamw",
    ("Adam", "tensor"): "fused_adam",
    ("SGD", "tensor"): "fused_sgd",
    ("Adagrad", "tensor"): "fused_adagrad",
    ("Shampoo", "rest"): "fused_adagrad",
    ("SGDP", "rest"): "fused_sgd",
    **{(name, "rest"): "fused_adamw" for name in WITH_ADAMW},
}
# AdamW in spirit, but with eps beside the root as it is before its correction.
RAW_EPS = {"AdamWRawEps", "NAMOOfficial", "NAMODOfficial", "NoraOfficial"}


def called(kernel: Kernel) -> str:
    """The function of the runtime that a kernel's fused function calls."""
    assert kernel.fused is not None
    (name,) = {"fused_adamw", "fused_adam", "fused_adagrad", "fused_sgd"} & set(kernel.fused.__code__.co_names)
    return name


def test_the_rules_that_are_recognized() -> None:
    rules = [(cls.__name__, rule) for cls in generated_classes() for rule in cls.RULES]
    found = {(name, rule.name): called(rule.step) for name, rule in rules if rule.step.fused}
    assert found == RECOGNIZED
    assert {name for name, _ in rules} >= RAW_EPS
    assert not {name for name, _ in found} & (RAW_EPS | {"AMSGrad", "NAdam", "RAdam", "Adan", "SAM", "LARS", "Signum"})


def test_kernels_have_the_arguments_of_the_functions_that_call_torch() -> None:
    assert {kernel.name for kernel, _ in kernels()} == FUNCTIONS.keys()
    for kernel, _ in kernels():
        arguments = inspect.signature(getattr(runtime, FUNCTIONS[kernel.name])).parameters.values()
        given = {hyper.name for hyper in kernel.hypers} | {"t"}
        needed = {a.name for a in arguments if a.kind is a.KEYWORD_ONLY and a.default is a.empty}
        assert needed <= given and {a.name for a in arguments if a.kind is a.KEYWORD_ONLY} >= given - {"t"}


# Fixtures


def compiled(text: str) -> ir.Program:
    return compile_program(Source("case.opt", text), TORCH, SPECS)


def kernel_of(program: ir.Program) -> Kernel:
    """The step of the last rule of the last optimizer."""
    module = load_module(render_program(program, "a test"))
    return getattr(module, program.declarations[-1].name).RULES[-1].step  # type: ignore[no-any-return]


def fused_text(text: str) -> str:
    """The functions of a spec that call fused kernels, as they are generated."""
    functions = re.findall(r"^def \w+_fused\([\s\S]*?\n(?=\n\n)", render_program(compiled(text), "a test"), re.M)
    return "\n\n".join(function.strip() for function in functions) or "no fused kernel"


def test_before_and_after() -> None:
    _, *pieces = re.split(r"^=== (.*)$", CASES.read_text(encoding="utf-8"), flags=re.M)
    shown = []
    for title, body in zip(pieces[::2], pieces[1::2], strict=True):
        spec = body.split("\n--- ")[0].strip()
        shown.append(f"=== {title}\n\n{spec}\n\n--- by fused kernels\n\n{fused_text(spec)}")
    text = "\n\n\n".join(shown) + "\n"
    if os.environ.get("OPTFORGE_UPDATE"):
        CASES.write_text(text, encoding="utf-8")
    assert text == CASES.read_text(encoding="utf-8"), "run with OPTFORGE_UPDATE=1 and look at the difference"


# Running both


def tensors(dtype: torch.dtype, seed: int, scale: float = 1.0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [(torch.randn(s, generator=generator, dtype=torch.float64) * scale).to(dtype) for s in SHAPES]


@dataclass(frozen=True)
class Run:
    """The largest difference of two runs, the largest step, and the largest value: of the weights, or of a state."""

    difference: float
    step: float
    size: float

    def agrees(self, of_step: float = FLOAT64, unit: float = 2.0**-53) -> bool:
        """Whether they differ by that share of a step and by what rounding each sum once in each step makes of it."""
        return self.difference <= of_step * self.step + 2 * STEPS * unit * self.size


def run_both(
    kernel: Kernel, scalars: dict[str, Any], dtype: torch.dtype = torch.float64, steps: int = STEPS
) -> dict[str, Run]:
    """The kernel's function and its fused function from the same weights, each on its own; by weight and state."""
    states = [name for name in kernel.inputs if name not in ("weight", "grad")]
    start = {
        "weight": tensors(dtype, 1),
        **{name: [torch.zeros_like(w) for w in tensors(dtype, 1)] for name in states},
    }
    plain, fused = ({k: [x.clone() for x in v] for k, v in start.items()} for _ in range(2))
    moved = dict.fromkeys(start, 0.0)
    assert kernel.fused is not None
    for t in range(1, steps + 1):
        grads = tensors(dtype, 100 + t)
        given = {name: {**scalars, "t": t}[name] for name in kernel.scalars}
        before = plain
        flat = {k: torch.cat([x.flatten() for x in v]) for k, v in (plain | {"grad": grads}).items()}
        values = kernel.function(*(flat[name] for name in kernel.inputs), **given)
        parts = zip(kernel.outputs, values, strict=True)
        plain = {name: [x.view(s) for x, s in zip(value.split(COUNTS), SHAPES, strict=True)] for name, value in parts}
        kept = [g.clone() for g in grads]
        kernel.fused(*(grads if name == "grad" else fused[name] for name in kernel.inputs), **given)
        assert all(torch.equal(g, k) for g, k in zip(grads, kept, strict=True)), "a gradient was written"
        for name in start:
            moved[name] = max(moved[name], largest(plain[name], before[name]))
    zero = [torch.zeros(()) for _ in SHAPES]
    sizes = {name: max(largest(plain[name], zero), largest(start[name], zero)) for name in start}
    return {name: Run(largest(plain[name], fused[name]), moved[name], sizes[name]) for name in start}


def largest(one: list[Tensor], two: list[Tensor]) -> float:
    assert all(x.isfinite().all() and y.isfinite().all() for x, y in zip(one, two, strict=True))
    return max(float((x.double() - y.double()).abs().max()) for x, y in zip(one, two, strict=True))


def step_of(name: str) -> Kernel:
    cls = next(cls for cls in generated_classes() if cls.__name__ == name)
    return cls.RULES[-1].step  # type: ignore[no-any-return]


VALUES: dict[str, tuple[Any, ...]] = {
    "lr": (0.1, 1e-2, 0.0),
    "rest_ratio": (0.3, 2.0),
    "beta1": (0.9, 0.0, 0.99),
    "rest_beta1": (0.9, 0.0, 0.99),
    "beta2": (0.999, 0.0, 0.5),
    "eps": (1e-8, 0.1, 1e-4),
    "rest_eps": (1e-8, 0.1),
    "weight_decay": (0.0, 0.1, 2.0),
    "momentum": (0.9, 0.0, 1.5, 0.5),
    "dampening": (0.0, 0.3, 1.0),
    "nesterov": (False, True),
    "lr_decay": (0.0, 0.05),
    "initial": (0.0,),
}


def settings(kernel: Kernel) -> Iterator[dict[str, Any]]:
    """Each hyper at each of its values, the others at their first or their second."""
    names = [name for name in kernel.scalars if name != "t"]
    seen: list[dict[str, Any]] = []
    for first in (0, 1):
        base = {name: VALUES[name][min(first, len(VALUES[name]) - 1)] for name in names}
        for name in names:
            for value in VALUES[name]:
                scalars = {**base, name: value}
                if scalars not in seen:
                    seen.append(scalars)
                    yield scalars


MORE = ("NAMO", "RMNPOfficial", "SOAP", "AdamP", "Shampoo")
DIFFERENT = ("AdamW", "Adam", "SGD", "Adagrad", "Muon", *(pytest.param(name, marks=pytest.mark.wide) for name in MORE))


@pytest.mark.parametrize("name", DIFFERENT)
def test_fused_steps_are_the_rules_steps(name: str) -> None:
    kernel = step_of(name)
    for scalars in settings(kernel):
        runs = run_both(kernel, scalars)
        assert all(run.agrees() for run in runs.values()), (scalars, runs)
        assert runs["weight"].step > 0 or 0.0 in (scalars["lr"],), scalars


@pytest.mark.parametrize("name", ("AdamW", "Adam", "SGD", "Adagrad"))
def test_float32_steps_differ_by_no_more_than_rounding(name: str) -> None:
    """Each side rounds less than 32 times in what makes a step, and once where the step is added to the weight.

    On processors that fuse no product with a sum both may round alike, to the bit.
    """
    unit = 2.0**-24
    hypers = {"lr": 1e-2, "beta1": 0.9, "beta2": 0.99, "eps": 1e-6, "weight_decay": 0.1, "momentum": 0.9}
    scalars = {**{name: values[0] for name, values in VALUES.items()}, **hypers}
    runs = run_both(step_of(name), scalars, torch.float32)
    assert runs["weight"].step > 0
    assert all(run.agrees(2 * STEPS * 32 * unit, unit) for run in runs.values()), runs


# What nearly is a fused kernel


ADAMW = """
optimizer X:
    hyper lr           = 0.1  where lr >= 0
    hyper beta1        = 0.9  where 0 <= beta1 < 1
    hyper beta2        = 0.99 where 0 <= beta2 < 1
    hyper eps          = 1e-3 where eps > 0
    hyper weight_decay = 0.1  where weight_decay >= 0
    hyper ratio        = 0.5

    for tensor:
        g = grad
        m = beta1 * prev(m) + (1 - beta1) * g
        v = beta2 * prev(v) + (1 - beta2) * g^2
        u = m / (1 - beta1^t) / (sqrt(v / (1 - beta2^t)) + eps)
        weight <- (1 - lr * weight_decay) * weight - lr * u
"""
SGD = """
optimizer X:
    hyper lr           = 0.1
    hyper momentum     = 0.9
    hyper damp         = 0.2
    hyper weight_decay = 0.1
    hyper ratio        = 0.5

    for tensor:
        g = grad + weight_decay * weight
        m = momentum * prev(m) + (1 - damp) * g
        weight <- weight - lr * m
"""
ADAGRAD = """
optimizer X:
    hyper lr           = 0.1
    hyper eps          = 1e-3
    hyper weight_decay = 0.1
    hyper ratio        = 0.5 where ratio >= 0

    for tensor:
        g = grad + weight_decay * weight
        s = prev(s) + g^2
        weight <- weight - lr * g / (sqrt(s) + eps)
"""
NEAR_MISSES = [
    (ADAMW, "m = beta1 * prev(m)", "m = beta2 * prev(m)"),
    (ADAMW, "+ (1 - beta1) * g", "+ g"),
    (ADAMW, "+ (1 - beta1) * g", "+ (1 - beta2) * g"),
    (ADAMW, "+ (1 - beta1) * g", "- (1 - beta1) * g"),
    (ADAMW, "v = beta2 * prev(v)", "v = beta1 * prev(v)"),
    (ADAMW, "(1 - beta2) * g^2", "(1 - beta2) * g^3"),
    (ADAMW, "(1 - beta2) * g^2", "(1 - beta2) * abs(g)"),
    (ADAMW, "(1 - beta2) * g^2", "(1 - beta2) * g * m"),
    (ADAMW, "(1 - beta2) * g^2", "(1 - beta2) * 1.0001 * g^2"),
    (ADAMW, "(1 - beta2) * g^2", "(1 - beta2) * (g - prev(m))^2"),
    (ADAMW, "/ (1 - beta1^t)", ""),
    (ADAMW, "/ (1 - beta1^t)", "/ (1 - beta2^t)"),
    (ADAMW, "/ (1 - beta1^t)", "/ (1 - beta1^(t + 1))"),
    (ADAMW, "/ (1 - beta1^t)", "/ (1 + beta1^t)"),
    (ADAMW, "v / (1 - beta2^t)", "v"),
    (ADAMW, "v / (1 - beta2^t)", "v / (1 - beta1^t)"),
    (ADAMW, "sqrt(v / (1 - beta2^t)) + eps", "sqrt(v / (1 - beta2^t) + eps)"),
    (ADAMW, "sqrt(v / (1 - beta2^t)) + eps", "max(sqrt(v / (1 - beta2^t)), eps)"),
    (ADAMW, "sqrt(v / (1 - beta2^t)) + eps", "v / (1 - beta2^t) + eps"),
    (ADAMW, "sqrt(v / (1 - beta2^t)) + eps", "sqrt(prev(v) / (1 - beta2^t)) + eps"),
    (ADAMW, "u = m /", "u = g /"),
    (ADAMW, "u = m /", "u = prev(m) /"),
    (ADAMW, "u = m /", "u = (beta1 * m + (1 - beta1) * g) /"),
    (ADAMW, "(1 - lr * weight_decay)", "(1 - weight_decay)"),  # lr may be 0
    (ADAMW, "(1 - lr * weight_decay)", "(2 - lr * weight_decay)"),
    (ADAMW, "(1 - lr * weight_decay) * weight - lr * u", "(1 - lr * weight_decay) * (weight - lr * u)"),
    (ADAMW, "(1 - lr * weight_decay) * weight", "(1 - lr * weight_decay) * prev(weight)"),
    (ADAMW, "g = grad", "g = grad + weight_decay * weight"),  # both kinds of decay
    (ADAMW, "g = grad", "g = 2 * grad"),
    (ADAMW, "g = grad", "g = grad / max(norm(grad), 1)"),
    (ADAMW, "where 0 <= beta2 < 1", ""),
    (ADAMW, "where 0 <= beta2 < 1", "where 0 <= beta2 <= 1"),
    (ADAMW, "where 0 <= beta1 < 1", "where beta1 < 1"),
    (ADAMW, "- lr * u", "- lr * norm(weight) * u"),
    (SGD, "weight - lr * m", "(1 - lr * weight_decay) * weight - lr * m"),
    (SGD, "weight - lr * m", "weight - lr * (momentum * m + (1 - momentum) * g)"),
    (SGD, "weight - lr * m", "weight - lr * (g + 2 * momentum * m)"),
    (SGD, "weight - lr * m", "weight - lr * prev(m)"),
    (SGD, "weight - lr * m", "weight - lr * sign(m)"),
    (SGD, "weight - lr * m", "2 * weight - lr * m"),
    (SGD, "weight - lr * m", "m"),
    (SGD, "weight - lr * m", "grad"),
    (SGD, "weight - lr * m", "weight"),
    (SGD, "(1 - damp) * g", "(1 - damp) * g + weight"),
    (SGD, "(1 - damp) * g", "(1 - damp) * weight"),
    (ADAGRAD, "prev(s) + g^2", "0.9 * prev(s) + g^2"),
    (ADAGRAD, "prev(s) + g^2", "prev(s) + grad^2"),
    (ADAGRAD, "prev(s) + g^2", "prev(s) + 2 * g^2"),
    (ADAGRAD, "lr * g /", "lr * grad /"),
    (ADAGRAD, "sqrt(s) + eps", "sqrt(s + eps)"),
    (ADAGRAD, "sqrt(s) + eps", "sqrt(prev(s)) + eps"),
    (ADAGRAD, "sqrt(s) + eps", "2 * sqrt(s) + eps + weight"),
    # Equal for finite numbers alone: differences of infinities, products with 0, what divides by 0 or is too large.
    (ADAMW, "m = beta1 * prev(m) + (1 - beta1) * g", "m = prev(m) + (1 - beta1) * (g - prev(m))"),
    (SGD, "weight - lr * m", "weight - lr * (inf - inf + m)"),
    (SGD, "weight - lr * m", "weight - lr * (m + grad - grad)"),
    (SGD, "weight - lr * m", "weight - lr * (m + 0 * grad)"),
    (SGD, "weight - lr * m", "weight - lr * m / (t - 2)"),
    (SGD, "weight - lr * m", "weight - 1e200 * m * lr * 1e-200"),
    (SGD, "weight - lr * m", "weight - lr * m / 1e-320"),
    (SGD, "weight - lr * m", "weight - (lr * ratio / ratio) * m"),
    (ADAGRAD, "lr * g /", "lr / (1 + (t - 3) * ratio) * g /"),
]
OTHER_SPELLINGS = [
    (ADAMW, "v = beta2 * prev(v) + (1 - beta2) * g^2", "v = ema(g * g, beta2)"),
    (ADAMW, "v / (1 - beta2^t)", "debias(v, beta2)"),
    (ADAMW, "sqrt(v / (1 - beta2^t)) + eps", "eps + sqrt(v) / sqrt(1 - beta2^t)"),
    (ADAMW, "sqrt(v / (1 - beta2^t)) + eps", "sqrt(v / (1 - beta2^t))"),  # eps of 0
    (ADAMW, "/ (sqrt(v / (1 - beta2^t)) + eps)", "/ (4 * sqrt(v / (1 - beta2^t)) + 4 * eps) * 4"),
    (ADAMW, "(1 - lr * weight_decay) * weight - lr * u", "weight - lr * (u + weight_decay * weight)"),
    (ADAMW, "(1 - lr * weight_decay) * weight - lr * u", "-(lr * u) + weight - weight * weight_decay * lr"),
    (ADAMW, "(1 - lr * weight_decay) * weight - lr * u", "weight - ratio * lr * (u + 0.3 * weight)"),
    (ADAMW, "(1 - lr * weight_decay) * weight - lr * u", "weight - (lr / t if t > 5 else 0) * u"),
    (ADAMW, "- lr * u", "- 1e-3 * 0 - lr * u"),
    (ADAMW, "sqrt(v / (1 - beta2^t)) + eps", "(sqrt(v) + eps) / sqrt(1 - beta2^t)"),  # with an eps that depends on t
    (ADAMW, "where 0 <= beta2 < 1", "where not false and (1 > beta1 >= 0 and (beta2 < 1 and 0 <= beta2))"),
    (SGD, "weight - lr * m", "weight - lr * (g + momentum * m)"),
    (SGD, "weight - lr * m", "weight - m"),
    (SGD, "(1 - damp) * g", "0.25 * g"),
    (SGD, "(1 - damp) * g", "(g if t == 1 else damp * g)"),
    (SGD, "momentum * prev(m) + (1 - damp) * g", "momentum * (prev(m) + g)"),
    (SGD, "m = momentum * prev(m) + (1 - damp) * g", "m = 0 - damp * prev(m) - g"),
    (SGD, "grad + weight_decay * weight", "grad - weight_decay * weight"),
    (ADAGRAD, "prev(s) + g^2", "g * g + prev(s)"),
    (ADAGRAD, "lr * g /", "lr / (1 + (t - 1) * ratio) * g /"),
    (ADAGRAD, "grad + weight_decay * weight", "grad"),
]
HYPERS = {"lr": 0.1, "beta1": 0.8, "beta2": 0.95, "eps": 1e-3, "weight_decay": 0.1, "ratio": 0.5, "momentum": 0.9}
HYPERS |= {"damp": 0.2}


def changed(case: tuple[str, str, str]) -> str:
    spec, old, new = case
    assert spec.count(old) == 1, old
    return spec.replace(old, new)


def require_agreement(kernel: Kernel, scalars: dict[str, Any], about: Any) -> None:
    runs = run_both(kernel, scalars, steps=6)
    assert all(run.agrees() for run in runs.values()), (about, runs)


@pytest.mark.parametrize("spec", (ADAMW, SGD, ADAGRAD))
def test_the_specs_that_are_changed_below_are_recognized(spec: str) -> None:
    require_agreement(kernel_of(compiled(spec)), HYPERS, spec)


@pytest.mark.parametrize("case", NEAR_MISSES, ids=lambda case: f"{case[1]} as {case[2]}")
def test_near_misses_are_not_recognized(case: tuple[str, str, str]) -> None:
    assert kernel_of(compiled(changed(case))).fused is None


@pytest.mark.parametrize("case", OTHER_SPELLINGS, ids=lambda case: f"{case[1]} as {case[2]}")
def test_other_spellings_are_recognized(case: tuple[str, str, str]) -> None:
    kernel = kernel_of(compiled(changed(case)))
    assert kernel.fused is not None
    require_agreement(kernel, HYPERS, case)


@pytest.mark.parametrize("growth", ("{0} + {0}", "{0} * {0}", "exp({0} + {0})", "1 / (1 + {0}) + {0}", "{0} / {0}"))
@pytest.mark.parametrize("start", ("lr", "grad"))
def test_what_would_grow_without_end_is_left_alone(start: str, growth: str) -> None:
    names = [start, *(f"x{i}" for i in range(30))]
    chain = [f"        {new} = {growth.format(old)}" for old, new in itertools.pairwise(names)]
    update = "weight - x29 * grad" if start == "lr" else "weight - lr * x29"
    text = "\n".join(["optimizer X:", "    hyper lr = 0.1", "    for tensor:", *chain, f"        weight <- {update}"])
    kernel = kernel_of(compiled(text + "\n"))
    assert (kernel.fused is None) == ((start, growth) != ("grad", "{0} + {0}"))


UNUSUAL = [
    ("weight - lr * grad - lr * scale * weight", {"lr": math.inf, "scale": 1.0}),  # one difference of infinities
    ("weight - lr * grad * scale", {"lr": 1e300, "scale": 1e-300}),  # which the kernel would get as 1
]


@pytest.mark.parametrize(("update", "hypers"), UNUSUAL, ids=str)
def test_numbers_that_mean_something_else_in_another_form_are_left_to_the_rule(
    update: str, hypers: dict[str, float]
) -> None:
    """A kernel computes rules in a form of its own, which is the same for tame numbers only."""
    text = "\n".join(
        ["optimizer X:", "    hyper lr = 0.1 where lr > 0", "    hyper scale = 0.5 where scale > 0", "    for tensor:"]
    )
    module: Any = load_module(render_program(compiled(f"{text}\n        weight <- {update}\n"), "a test"))
    assert module.X.RULES[0].step.fused is not None
    steps = {}
    for backend in ("auto", "eager"):
        weight = torch.nn.Parameter(torch.tensor([1.0, -1.0, 1e-300], dtype=torch.float64))
        optimizer = module.X([weight], **hypers, backend=backend)
        weight.grad = torch.tensor([2.0, 2.0, 1e20], dtype=torch.float64)
        optimizer.step()
        steps[backend] = weight.detach().nan_to_num(7.0, 8.0, 9.0)
    assert torch.equal(steps["auto"], steps["eager"])


# Specs put together at random: what fits together is known piece by piece

GRADS = {"grad": "plain", "grad + weight_decay * weight": "decayed", "weight * weight_decay + grad": "decayed"}
GRADS |= {"grad - 0.5 * weight": "decayed", "3 * grad": "no", "grad * grad": "no"}
FIRSTS = {"ema(g, beta1)": "yes", "g - beta1 * g + beta1 * prev(m)": "yes", "heavy_ball(g, beta1)": "no"}
FIRSTS |= {"ema(grad, beta1)": "undecayed", "ema(g, 0.8)": "no"}
SECONDS = {"ema(g^2, beta2)": "yes", "beta2 * (prev(v) - g * g) + g^2": "yes", "ema(grad^2, beta2)": "undecayed"}
SECONDS |= {"ema(m^2, beta2)": "no", "prev(v) + g^2": "no"}
TOPS = {"debias(m, beta1)": "yes", "ratio * m / (1 - beta1^t)": "scaled", "m": "no", "debias(m, beta2)": "no"}
BOTTOMS = {"sqrt(debias(v, beta2)) + eps": "yes", "0.1 + sqrt(v) / sqrt(1 - beta2^t)": "yes"}
BOTTOMS |= {"sqrt(debias(v, beta2) + eps)": "no", "sqrt(v) + eps": "no", "sqrt(debias(v, beta1)) + eps": "no"}
WEIGHTS = {
    "weight - lr * u": "plain",
    "weight - u / 7": "plain",
    "weight - lr * (u + weight_decay * weight)": "decayed",
}
WEIGHTS |= {
    "weight * (1 - weight_decay * lr) - u * lr": "decayed",
    "weight - lr * u + lr * weight_decay * weight": "decayed",
}
WEIGHTS |= {"(weight - lr * u) * (1 - lr * weight_decay)": "no", "weight + lr * u - weight_decay * weight": "no"}
PIECES = (GRADS, FIRSTS, SECONDS, TOPS, BOTTOMS, WEIGHTS)


def put_together(pieces: tuple[str, ...]) -> str:
    g, m, v, top, bottom, weight = pieces
    head = ADAMW.partition("        g = ")[0]
    lines = (f"g = {g}", f"m = {m}", f"v = {v}", f"u = ({top}) / ({bottom})", f"weight <- {weight}")
    return head + "".join(f"        {line}\n" for line in lines)


def fits_together(pieces: tuple[str, ...]) -> bool:
    g, m, v, top, bottom, weight = (known[piece] for known, piece in zip(PIECES, pieces, strict=True))
    if (m, v) == ("undecayed", "undecayed"):
        g = m = v = "plain"  # nothing reads g
    if "no" in (g, m, v, top, bottom, weight) or (g, weight) == ("decayed", "decayed"):
        return False
    if g == "decayed" and "undecayed" in (m, v):
        return False
    return not (top == "scaled" and weight == "decayed")  # the decay would be a quotient by ratio


def check_random_specs(seed: int, count: int) -> tuple[int, int]:
    """How many of them fitted, and how many did not."""
    choose = random.Random(seed)
    fitting = 0
    for _ in range(count):
        # Pieces that fit are drawn more often, so that as many specs fit as do not.
        pieces = tuple(choose.choices(list(p), [1 + 14 * (kind != "no") for kind in p.values()])[0] for p in PIECES)
        kernel = kernel_of(compiled(put_together(pieces)))
        assert (kernel.fused is not None) == fits_together(pieces), pieces
        if kernel.fused is not None:
            fitting += 1
            require_agreement(kernel, HYPERS, pieces)
    return fitting, count - fitting


def test_random_specs() -> None:
    assert min(check_random_specs(2, 16)) >= 5


@pytest.mark.wide
@pytest.mark.parametrize("seed", range(3, 7))
def test_more_random_specs(seed: int) -> None:
    assert min(check_random_specs(seed, 200)) >= 40


# Mutants: every operator, number and hyper of the rules changed, one at a time

SWAPPED = {"add": "sub", "sub": "add", "mul": "div", "div": "mul", "sqrt": "abs", "square": "abs", "pow": "mul"}


def mutants_of(expr: ir.Expr, hypers: list[ir.Input]) -> Iterator[ir.Expr]:
    """The expression with one node changed."""
    match expr:
        case ir.Literal(value=float() as value):
            yield replace(expr, value=value + 1, spelling=repr(value + 1))
        case ir.Input(source=ir.InputSource.HYPER | ir.InputSource.STEP):
            yield from (other for other in hypers if other.name != expr.name)
        case ir.Apply(operator=operator, arguments=arguments):
            if operator in SWAPPED:
                yield replace(expr, operator=SWAPPED[operator])
            if len(arguments) == 2 and not OPERATORS[operator].commutative and arguments[0].type == arguments[1].type:
                yield replace(expr, arguments=arguments[::-1])
    children = ir.children(expr)
    for index, child in enumerate(children):
        for mutant in mutants_of(child, hypers):
            new = iter([*children[:index], mutant, *children[index + 1 :]])
            yield ir.map_children(lambda _, new=new: next(new), expr)  # type: ignore[misc]


def mutated_programs(spec: str) -> Iterator[ir.Program]:
    before = run_passes(check_source(Source("case.opt", spec), SPECS).require(), TORCH.rewrites, until="guard")
    (optimizer,) = before.declarations
    (rule,) = optimizer.rules  # type: ignore[union-attr]
    values = [equation.value for equation in rule.update.equations]
    inputs = [node for value in values for node in ir.walk(value) if isinstance(node, ir.Input)]
    hypers = list({n.name: n for n in inputs if n.source in (ir.InputSource.HYPER, ir.InputSource.STEP)}.values())
    for index, equation in enumerate(rule.update.equations):
        for value in mutants_of(equation.value, hypers):
            changed_one = replace(equation, value=value)
            equations = (*rule.update.equations[:index], changed_one, *rule.update.equations[index + 1 :])
            mutant = replace(rule, step=(ir.Stage(replace(rule.update, equations=equations)),))
            program = replace(before, declarations=(replace(optimizer, rules=(mutant,)),))
            yield map_functions(plan_storage, program)


@pytest.mark.parametrize(
    "spec, least",
    [pytest.param(ADAMW, 25, marks=pytest.mark.wide), (SGD, 5), (ADAGRAD, 5)],
    ids=("adamw", "sgd", "adagrad"),
)
def test_mutants_that_are_recognized_agree(spec: str, least: int) -> None:
    """Some mutants are other values of the kernel's arguments, the rest are other rules."""
    recognized, others = 0, 0
    for program in mutated_programs(spec):
        kernel = kernel_of(program)
        if kernel.fused is None:
            others += 1
            continue
        recognized += 1
        require_agreement(kernel, HYPERS, render_program(program, "a test"))
    assert recognized >= 3 and others >= least, (recognized, others)


# Tensors that the kernels can take


def lists(change: Callable[[Tensor], Tensor] = lambda x: x, count: int = 3) -> list[list[Tensor]]:
    """Weights, gradients and states of two parameters; `change` makes something else of the last tensor."""
    found = [[torch.ones(4, 6), torch.ones(3)] for _ in range(count)]
    found[-1][0] = change(found[-1][0])
    return found


class Marked(Tensor):
    pass


def test_equal_dense_tensors_fit() -> None:
    assert runtime._fused_fits(*lists())
    assert runtime._fused_fits([torch.ones(())], [torch.ones(())])
    assert runtime._fused_fits([torch.nn.Parameter(torch.ones(2, 3))], [torch.ones(2, 3)])
    assert runtime._fused_fits(*([[torch.ones(3, 5).T, torch.ones(3)]] * 3))
    images = [torch.ones(2, 3, 4, 5).contiguous(memory_format=torch.channels_last) for _ in range(3)]
    assert runtime._fused_fits(*([image] for image in images))
    assert runtime._fused_fits(*([each.double() for each in group] for group in lists()))


@pytest.mark.parametrize(
    "change",
    [
        lambda x: x.double(),
        lambda x: x.flatten(),
        lambda x: x[:1],
        lambda x: x.T.contiguous().T,
        lambda x: torch.ones(4, 12)[:, ::2],
        lambda x: torch.ones(4, 1).expand(4, 6),
        lambda x: x.to("meta"),
        lambda x: x.to_sparse(),
        lambda x: x.as_subclass(Marked),
    ],
)
def test_one_tensor_unlike_the_others_does_not_fit(change: Callable[[Tensor], Tensor]) -> None:
    assert not runtime._fused_fits(*lists(change))


@pytest.mark.parametrize(
    "every",
    [
        lambda: torch.ones(4, 6, dtype=torch.bfloat16),
        lambda: torch.ones(0, 6),
        lambda: torch.ones(4, 12)[:, ::2],
        lambda: torch.ones(4, 1).expand(4, 6),
        lambda: torch.ones(4, 6, device="meta"),
        lambda: torch.ones(10).as_strided((4, 6), (1, 1)),
    ],
)
def test_tensors_that_no_kernel_can_take(every: Callable[[], Tensor]) -> None:
    assert not runtime._fused_fits([every()], [every()])


def test_lists_of_different_lengths_do_not_fit() -> None:
    assert not runtime._fused_fits([], [])
    assert not runtime._fused_fits([torch.ones(3)], [])


@pytest.mark.parametrize("name", ("AdamW", "Adam", "SGD", "Adagrad"))
def test_other_orders_in_memory_give_the_same(name: str) -> None:
    """Dense tensors of one layout fit, and step as their contiguous copies do."""
    kernel = step_of(name)
    assert kernel.fused is not None
    scalars = {each: {**{k: v[0] for k, v in VALUES.items()}, "t": 3}[each] for each in kernel.scalars}
    generator = torch.Generator().manual_seed(3)
    wide = [torch.rand(5, 4, 3, generator=generator) for _ in kernel.inputs]
    copies = [tensor.permute(2, 0, 1).contiguous() for tensor in wide]
    views = [tensor.permute(2, 0, 1) for tensor in wide]
    assert runtime._fused_fits(*([view] for view in views)) and not views[0].is_contiguous()
    kernel.fused(*([copy] for copy in copies), **scalars)
    kernel.fused(*([view] for view in views), **scalars)
    assert all(torch.allclose(view, copy, rtol=1e-6) for view, copy in zip(views, copies, strict=True))
    assert not torch.equal(views[0], torch.rand(5, 4, 3, generator=torch.Generator().manual_seed(3)).permute(2, 0, 1))


@pytest.mark.parametrize("name", ("AdamW", "Adam", "Adagrad"))
def test_steps_follow_tensors_that_come_to_lie_otherwise_in_memory(name: str) -> None:
    """What fitted the kernel in one step may not fit it in the next."""

    def turned(x: Tensor) -> Tensor:
        return x.T.contiguous().T

    generator = torch.Generator().manual_seed(7)
    start, *grads = (torch.randn(6, 4, generator=generator) for _ in range(7))
    fused, eager = (nn.Parameter(start.clone()) for _ in range(2))
    optimizers = [getattr(generated, name)([fused], lr=0.1), getattr(generated, name)([eager], lr=0.1, backend="eager")]
    for t, grad in enumerate(grads):
        eager.grad, fused.grad = grad, turned(grad) if t in (2, 5) else grad
        if t == 3:
            fused.data = turned(fused.data)
        for optimizer in optimizers:
            optimizer.step()
        assert (fused - eager).abs().max() < 1e-6, t
    assert fused.stride() == (1, 6) and (eager - start).abs().max() > 0.1


def test_adagrad_without_a_fused_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtime, "_has_kernel", lambda *_: False)
    monkeypatch.setattr(torch, "_fused_adagrad_", None)
    kernel = step_of("Adagrad")
    for scalars in settings(kernel):
        assert all(run.agrees() for run in run_both(kernel, scalars).values())


@pytest.mark.parametrize("nesterov", (False, True))
@pytest.mark.parametrize("momentum", (0.0, -0.5))
def test_sums_without_momentum(momentum: float, nesterov: bool) -> None:
    """Torch's kernel keeps no sums without momentum; the rule does."""
    kernel = step_of("SGD")
    for dampening in (0.0, 0.4):
        scalars = {"lr": 0.1, "momentum": momentum, "dampening": dampening, "weight_decay": 0.1, "nesterov": nesterov}
        assert all(run.agrees() for run in run_both(kernel, scalars).values())
