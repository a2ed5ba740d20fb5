"""Shipped wrappers around AdamW agree with the same written by hand, and with what compositions are said to be."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import optforge
from optforge.dsl.diagnostics import SpecError
from tests.references.wrappers import (
    Mechanic,
    ada_gc,
    adamw,
    agc,
    averaged,
    cautious,
    cautious_decay,
    ema_nesterov,
    gpa,
    grad_power,
    gradient_centralization,
    grokfast,
    hyperball,
    lookahead,
    mechanic,
    mgup,
    mu_loco,
    ortho_grad,
    reference_readout,
    schedule_free,
    snoo,
    soda,
    spectra,
    swa,
    tail_ema,
    trail_delta,
    z_clip,
)

STEPS = 12
TOLERANCE = 1e-9

CASES = {
    "AdaGC(warmup=4)": lambda: ada_gc(adamw(), warmup=4),
    "AGC(clip=0.4)": lambda: agc(adamw(), clip=0.4),
    "Averaged(decay=0.9)": lambda: averaged(adamw(), decay=0.9),
    "Cautious": cautious,
    "CautiousDecay": cautious_decay,
    "EMANesterov(decay=0.7)": lambda: ema_nesterov(adamw(), decay=0.7),
    "GPA(mu_x=0.7)": lambda: gpa(adamw(), mu_x=0.7),
    "GradPower": lambda: grad_power(adamw()),
    "Grokfast(alpha=0.8)": lambda: grokfast(adamw(), alpha=0.8),
    "Hyperball": hyperball,
    "Lookahead": lambda: lookahead(adamw()),
    "Mechanic(s_init=0.1)": lambda: mechanic(adamw(), s_init=0.1),
    "OrthoGrad": lambda: ortho_grad(adamw()),
    "SNOO(every=3)": lambda: snoo(adamw(), every=3),
    "SODA": lambda: soda(adamw()),
    "SPECTRA(cap=1)": lambda: spectra(cap=1.0),
    "ScheduleFree": lambda: schedule_free(adamw()),
    "ZClip(warmup=4, threshold=0.5)": lambda: z_clip(adamw(), warmup=4, threshold=0.5),
    "GradientCentralization": lambda: gradient_centralization(adamw()),
    "MGUP(share=0.3)": lambda: mgup(share=0.3),
    "MuLoCo(sync=3)": lambda: mu_loco(adamw(), sync=3),
    "ReferenceReadout(capture=5)": lambda: reference_readout(adamw(), capture=5),
    "SWA(begin=4, every=3)": lambda: swa(adamw(), begin=4, every=3),
    "TailEMA(begin=3, horizon=4)": lambda: tail_ema(adamw(), begin=3, horizon=4),
    "TrailDelta(first=3, interval=2, last=10)": lambda: trail_delta(adamw(), 3, 2, 10),
    "Grokfast(alpha=0.8) |> Lookahead(every=2) |> Grokfast": lambda: grokfast(
        lookahead(grokfast(adamw(), alpha=0.8), every=2)
    ),
}


def trial(shape: tuple[int, int], seed: int) -> tuple[np.ndarray, list[np.ndarray]]:
    dice = np.random.default_rng(seed)
    return dice.normal(size=shape), [dice.normal(size=shape) * (1 + step % 4) for step in range(STEPS)]


@pytest.mark.parametrize("shape", [(6, 4), (4, 6)], ids=str)
@pytest.mark.parametrize("wrapper", CASES)
def test_wrapper_agrees_with_the_one_by_hand(wrapper, shape):
    weight, grads = trial(shape, 5)
    parameter = torch.nn.Parameter(torch.tensor(weight))
    optimizer = optforge.load(f"AdamW |> {wrapper}")([{"params": [parameter], "rule": "matrix"}])
    step = CASES[wrapper]()
    for t, grad in enumerate(grads, 1):
        expected = step(weight, grad, t)
        parameter.grad = torch.tensor(grad)
        optimizer.step()
        size = np.linalg.norm(expected - weight)
        assert np.linalg.norm(parameter.detach().numpy() - expected) <= TOLERANCE * size
        if hasattr(step, "shown"):
            optimizer.eval()
            assert np.linalg.norm(parameter.detach().numpy() - step.shown) <= TOLERANCE * size
            optimizer.train()
            assert np.linalg.norm(parameter.detach().numpy() - expected) <= TOLERANCE * size
        weight = expected


def test_mechanic_has_one_scale_for_parameters_of_all_groups():
    """Also for one that comes late and one that rests; with hypers from which the scale grows within a few steps."""
    shapes, dice = [(6, 4), (4,), (3, 5)], np.random.default_rng(7)
    weights = [dice.normal(size=shape) for shape in shapes]
    parameters = [torch.nn.Parameter(torch.tensor(w)) for w in weights]
    groups = [{"params": parameters[:2]}, {"params": parameters[2:]}]
    optimizer = optforge.load("AdamW |> Mechanic(s_init=0.1, decay=0.3)")(groups)
    by_hand = Mechanic([adamw() for _ in shapes], s_init=0.1, decay=0.3)
    centres = [w + dice.normal(size=w.shape) for w in weights]
    for t in range(1, STEPS + 1):
        rests = {1} if t == 7 else {2} if t < 5 else set()
        grads = [None if i in rests else w - centres[i] for i, w in enumerate(weights)]
        expected = by_hand.step(weights, grads)
        for parameter, grad in zip(parameters, grads, strict=True):
            parameter.grad = None if grad is None else torch.tensor(grad)
        optimizer.step()
        for i in {0, 1, 2} - rests:
            step = np.linalg.norm(expected[i] - weights[i])
            assert np.linalg.norm(parameters[i].detach().numpy() - expected[i]) <= TOLERANCE * step
        weights = expected
    scales = {float(optimizer.state[p]["Mechanic.scale"]) for p in parameters}
    assert len(scales) == 1 and scales.pop() > 0.2


def test_mechanic_around_several_rules_is_refused():
    """There the scale would be one for each rule, which the method does not have."""
    with pytest.raises(SpecError, match=r"`Mechanic\.moved` does not exist in the parameters of other rules"):
        optforge.load("Muon |> Mechanic")
