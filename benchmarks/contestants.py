"""Who is timed: generated classes and published ones, method by method.

A contestant is made from named parameters and gives a function that takes one step. All contestants of a method have
the same hypers, so that they do the same work; `like` says which generated class takes the same steps, which
`benchmarks.agreement` holds them to. Hypers are sums of few powers of two, which scalars in float32 hold.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from typing import Any

import torch
from torch import Tensor, nn

import optforge.generated as generated
from benchmarks.peers import installed
from benchmarks.shapes import Named, groups

Step = Callable[[], object]
Make = Callable[[Sequence[Named]], Step]
Hypers = Mapping[str, Any]

LR, BETA, BETA1, BETA2, DECAY, EPS = 2.0**-10, 0.9375, 0.875, 0.96875, 0.125, 1e-8
REST: Hypers = {"betas": (0.9, 0.95), "eps": 1e-10, "weight_decay": 0.0}  # AdamW of what Muon does not take
REST_RATIO = 0.25
BATCH = 4.0  # the batch of Sophia's drawn labels

HYPERS: dict[str, Hypers] = {
    "AdamW": {"lr": LR, "beta1": BETA1, "beta2": BETA2, "eps": EPS, "weight_decay": DECAY},
    "SGD": {"lr": LR, "momentum": BETA1},
    "SophiaG": {"lr": LR / 16, "beta1": BETA1, "beta2": BETA2, "rho": 0.0625, "eps": EPS, "weight_decay": DECAY},
    "Muon": {"lr": LR, "beta": BETA, "weight_decay": DECAY, "rest_ratio": REST_RATIO},
    "MuonYouJiacheng": {"lr": LR, "beta": BETA},
    "NAMO": {"lr": LR, "mu1": BETA, "mu2": 0.984375, "weight_decay": DECAY},
    "NAMOD": {"lr": LR, "mu1": BETA, "mu2": 0.984375, "weight_decay": DECAY},
    "NorMuon": {"lr": LR, "beta1": BETA, "beta2": BETA2, "eps": EPS, "weight_decay": DECAY},
    "Nora": {"lr": LR, "beta": BETA, "weight_decay": DECAY},
    "RMNP": {"lr": LR, "beta": BETA, "weight_decay": DECAY},
}


@dataclass(frozen=True)
class Contestant:
    """Who steps, and how it is made.

    Args:
        name: as the tables have it.
        method: the generated class whose mathematics it does; empty for a yardstick.
        make: from parameters to a function that takes one step on their gradients.
        package: where it comes from; "generated" for ours.
        like: the generated class whose steps it takes, to `within` of their size in float64.
        within: largest relative difference of a step.
        slow: only timed on request, as it takes minutes to compile.
        compiles: its first steps wait for a compiler.
    """

    name: str
    method: str
    make: Make
    package: str
    like: str = ""
    within: float = 1e-9
    slow: bool = False
    compiles: bool = False


# -- ours --------------------------------------------------------------------------------------------------------------


def backends(method: str) -> tuple[str, ...]:
    """The values of `backend` that a class takes; one empty name if it has no choice."""
    arguments = inspect.signature(getattr(generated, method).__init__).parameters
    return ("auto", "eager", "compile") if "backend" in arguments else ("",)


def make_optimizer(method: str, params: Sequence[Named], backend: str = "", **options: Any) -> Any:
    """The generated class with the hypers of the comparison, on groups by role."""
    chosen = {"backend": backend} if backend else {}
    return getattr(generated, method)(groups(params), **HYPERS[method], **chosen, **options)


def _generated(method: str, backend: str, params: Sequence[Named]) -> Step:
    step: Step = make_optimizer(method, params, backend).step
    return step


def ours(method: str) -> list[Contestant]:
    """The generated class in each of its backends; `like` itself, as the backends must agree too."""
    make = _sophia if method == "SophiaG" else partial(_generated, method)
    return [
        Contestant(
            f"generated {method} {backend}".strip(),
            method,
            partial(make, backend),
            "generated",
            method,
            compiles=backend == "compile",
        )
        for backend in backends(method)
    ]


def _sophia(backend: str, params: Sequence[Named]) -> Step:
    """Steps after one curvature, which the first call makes: its gradients are not there before."""
    optimizer = make_optimizer("SophiaG", params, backend)
    is_first = True

    def step() -> None:
        nonlocal is_first
        if is_first:
            optimizer.curvature(BATCH)
            is_first = False
        optimizer.step()

    return step


def _sophias_event(backend: str, params: Sequence[Named]) -> Step:
    return partial(make_optimizer("SophiaG", params, backend).curvature, BATCH)


def sophias_events() -> list[Contestant]:
    """The event alone, which training runs at every tenth step or so."""
    return [
        Contestant(f"generated SophiaG {b} curvature".replace("  ", " "), "", partial(_sophias_event, b), "generated")
        for b in backends("SophiaG")
    ]


# -- torch -------------------------------------------------------------------------------------------------------------


def tensors(params: Sequence[Named]) -> list[nn.Parameter]:
    return [p.tensor for p in params]


def hidden(params: Sequence[Named]) -> list[nn.Parameter]:
    return [p.tensor for p in params if p.role == "matrix"]


def _torchs_adamw(params: Sequence[Named], **flags: bool) -> torch.optim.AdamW:
    return torch.optim.AdamW(tensors(params), LR, (BETA1, BETA2), EPS, DECAY, **flags)


def _stepping_adamw(flags: Mapping[str, bool], params: Sequence[Named]) -> Step:
    return _torchs_adamw(params, **flags).step


def _compiled_adamw(params: Sequence[Named]) -> Step:
    optimizer = _torchs_adamw(params, foreach=True)
    # lr as a tensor, or each change of it would compile anew.
    optimizer.param_groups[0]["lr"] = torch.tensor(LR, device=params[0].tensor.device)
    return torch.compile(optimizer.step)


def _stepping_sgd(flags: Mapping[str, bool], params: Sequence[Named]) -> Step:
    return torch.optim.SGD(tensors(params), LR, BETA1, **flags).step


def _stepping_muon(params: Sequence[Named]) -> Step:
    """Muon on the hidden matrices, and fused AdamW on the rest if there is any."""
    muon = torch.optim.Muon(hidden(params), LR, DECAY, BETA)
    others = [p.tensor for p in params if p.role != "matrix"]
    if not others:
        return muon.step
    rest = torch.optim.AdamW(others, LR * REST_RATIO, **REST, fused=True)

    def step() -> None:
        muon.step()
        rest.step()

    return step


WAYS = {"fused": {"fused": True}, "foreach": {"foreach": True}, "for-loop": {"foreach": False}}


def torchs(method: str) -> list[Contestant]:
    """torch.optim's implementations of a method; the first is the baseline."""
    if method == "Muon":
        return [Contestant("torch Muon", "Muon", _stepping_muon, "torch", "Muon")]
    make = {"AdamW": _stepping_adamw, "SGD": _stepping_sgd}[method]
    found = [
        Contestant(f"torch {method} {way}", method, partial(make, flags), "torch", method)
        for way, flags in WAYS.items()
    ]
    if method == "AdamW":
        compiled = Contestant(
            "torch AdamW compiled", method, _compiled_adamw, "torch", method, slow=True, compiles=True
        )
        found.append(compiled)
    return found


# -- packages ----------------------------------------------------------------------------------------------------------


def _muons_of_package(cls: str, options: Hypers, params: Sequence[Named]) -> Step:
    """pytorch_optimizer's classes that want to be told what to orthogonalize."""
    rest = [p.tensor for p in params if p.role != "matrix"]
    found = [{"params": hidden(params), "use_muon": True}]
    if rest:
        found.append({"params": rest, "use_muon": False, "lr": LR * REST_RATIO, **REST})
    step: Step = getattr(import_module("pytorch_optimizer"), cls)(found, **options).step
    return step


def _sgd_of_package(params: Sequence[Named]) -> Step:
    step: Step = import_module("pytorch_optimizer").SGDW(tensors(params), lr=LR, momentum=BETA1).step
    return step


def _sophia_of_package(params: Sequence[Named]) -> Step:
    """Clips the quotient at rho, where ours divides by rho and clips at 1; hence the factors."""
    rho = HYPERS["SophiaG"]["rho"]
    optimizer = import_module("pytorch_optimizer").SophiaH(
        tensors(params),
        lr=HYPERS["SophiaG"]["lr"] / rho,
        betas=(BETA1, BETA2),
        weight_decay=DECAY * rho,
        p=rho,
        eps=EPS / rho,
        update_period=1 << 30,
    )

    def step() -> None:
        first = not optimizer.state
        optimizer.step(hessian=[BATCH * _gradient(p).square() for p in tensors(params)] if first else None)

    return step


def _gradient(p: Tensor) -> Tensor:
    if p.grad is None:
        raise ValueError("a parameter has no gradient")
    return p.grad


def _heavyballs(cls: str, options: Hypers, params: Sequence[Named]) -> Step:
    dtype = "float64" if params[0].tensor.dtype == torch.float64 else "float32"
    step: Step = getattr(import_module("heavyball"), cls)(tensors(params), storage_dtype=dtype, **options).step
    return step


def packages(method: str) -> list[Contestant]:
    """Published implementations of a method, of the packages that are installed."""
    muon = {"lr": LR, "momentum": BETA, "weight_decay": DECAY}
    normuon = {**muon, "beta2": BETA2, "nesterov": False, "update_scale": "match_rms", "eps": EPS}
    adamw = {"lr": LR, "betas": (BETA1, BETA2), "eps": EPS, "weight_decay": DECAY}
    heavy_muon = {"lr": LR, "betas": (BETA, BETA), "heavyball_momentum": True}
    theirs = partial(Contestant, package="pytorch_optimizer")
    heavy = partial(Contestant, package="heavyball")
    found = {
        "AdamW": [heavy("heavyball AdamW", "AdamW", partial(_heavyballs, "AdamW", adamw), like="AdamW", within=1e-5)],
        "SGD": [
            theirs("pytorch_optimizer SGDW", "SGD", _sgd_of_package, like="SGD"),
            heavy(
                "heavyball SGD", "SGD", partial(_heavyballs, "SGD", {"lr": LR, "beta": BETA1}), like="SGD", slow=True
            ),
        ],
        "SophiaG": [theirs("pytorch_optimizer SophiaH", "SophiaG", _sophia_of_package, like="SophiaG")],
        "Muon": [
            theirs("pytorch_optimizer Muon", "Muon", partial(_muons_of_package, "Muon", muon), like="Muon"),
            theirs(
                "pytorch_optimizer Muon, Gram form",
                "Muon",
                partial(_muons_of_package, "Muon", {**muon, "ns_method": "gram_newton_schulz"}),
                like="Muon",
                within=1e-4,  # its norm is in float32
            ),
        ],
        "NorMuon": [
            theirs(
                "pytorch_optimizer NorMuon", "NorMuon", partial(_muons_of_package, "NorMuon", normuon), like="NorMuon"
            )
        ],
        "MuonYouJiacheng": [
            heavy("heavyball Muon", "Muon", partial(_heavyballs, "Muon", heavy_muon), like="MuonYouJiacheng")
        ],
    }
    return [contestant for contestant in found.get(method, ()) if installed(contestant.package)]


# -- CUDA graphs -------------------------------------------------------------------------------------------------------


def replayed(make: Make, params: Sequence[Named]) -> Step:
    """Steps recorded in a CUDA graph at the third call: the first two warm up on the stream of the recording."""
    step, calls, stream = make(params), 0, torch.cuda.Stream()
    graph = torch.cuda.CUDAGraph()

    def run() -> None:
        nonlocal calls
        calls += 1
        if calls > 3:
            graph.replay()
        elif calls == 3:
            with torch.cuda.graph(graph, stream=stream):
                step()
            graph.replay()
        else:
            stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(stream):
                step()
            torch.cuda.current_stream().wait_stream(stream)

    return run


def _capturable(method: str, params: Sequence[Named]) -> Step:
    step: Step = make_optimizer(method, params, capturable=True).step
    return step


def in_graphs(method: str) -> list[Contestant]:
    """Contestants for CUDA alone; ours only if the class can be captured."""
    found = []
    if method == "AdamW":
        make = partial(_stepping_adamw, {"fused": True, "capturable": True})
        found.append(Contestant("torch AdamW fused, graph", method, partial(replayed, make), "torch", method))
    if "capturable" in inspect.signature(getattr(generated, method).__init__).parameters:
        make = partial(_capturable, method)
        found.append(Contestant(f"generated {method}, graph", method, partial(replayed, make), "generated", method))
    return found
