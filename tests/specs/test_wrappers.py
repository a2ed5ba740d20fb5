"""Shipped wrappers around AdamW agree with the same written by hand, and with what compositions are said to be."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import optforge
from tests.references.wrappers import (
    adamw,
    agc,
    averaged,
    cautious,
    cautious_decay,
    ema_nesterov,
    gpa,
    grad_power,
    grokfast,
    hyperball,
    lookahead,
    ortho_grad,
    schedule_free,
    snoo,
    soda,
    spectra,
    z_clip,
)

STEPS = 12
TOLERANCE = 1e-9

CASES = {
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
    "OrthoGrad": lambda: ortho_grad(adamw()),
    "SNOO(every=3)": lambda: snoo(adamw(), every=3),
    "SODA": lambda: soda(adamw()),
    "SPECTRA(cap=1)": lambda: spectra(cap=1.0),
    "ScheduleFree": lambda: schedule_free(adamw()),
    "ZClip(warmup=4, threshold=0.5)": lambda: z_clip(adamw(), warmup=4, threshold=0.5),
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
