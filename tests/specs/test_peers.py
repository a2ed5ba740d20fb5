"""Shipped specs beside published packages: the same steps, or a difference that is written down and explained."""

from __future__ import annotations

import re
from importlib.util import find_spec
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from optforge.compiler.verify.comparison.targets import parse_target
from optforge.compiler.verify.comparison.trials import Trial, make_trials
from tests.specs import differences
from tests.specs.differences import OF_AUTHORS, OF_PACKAGES, Difference
from tests.specs.peers import PACKAGES, Peer, all_in_float64, rows_between, their_target, variant

missing = [package for package in PACKAGES if find_spec(package) is None]
pytestmark = [
    pytest.mark.peers,
    pytest.mark.skipif(bool(missing), reason=f"`make test-all` installs {', '.join(PACKAGES)}"),
]

TOLERANCE = 1e-9
HEAVY = "lr=0.0009765625&betas=(0.875,0.96875)&eps=1e-20&storage_dtype=float64"
LIGHT = "lr=0.0009765625&beta1=0.875&beta2=0.96875&eps=1e-20"  # numbers that heavyball's float32 scalars hold
SLOW = "betas=(0.875,0.96875,0.9990234375)"
SOAPS = "lr=0.00390625&weight_decay=0&eps=1e-20"

PEERS = (
    Peer("Lion", "pytorch_optimizer:Lion?weight_decay=0.1", "weight_decay=0.1"),
    Peer("AdaBelief", "pytorch_optimizer:AdaBelief?weight_decay=0.01"),
    Peer("Tiger", "pytorch_optimizer:Tiger"),
    Peer("AdEMAMix", "pytorch_optimizer:AdEMAMix?weight_decay=0.01&weight_decouple=True"),
    Peer("LARS", "pytorch_optimizer:LARS?lr=0.1&weight_decay=5e-4"),
    Peer("NovoGrad", "pytorch_optimizer:NovoGrad?lr=0.01&weight_decay=1e-3"),
    Peer("Signum", "pytorch_optimizer:SignSGD?momentum=0.9&lr=1e-4"),
    Peer("SignSGD", "pytorch_optimizer:SignSGD?momentum=0.0&lr=1e-4&weight_decay=0.1", "weight_decay=0.1"),
    Peer("Grams", "pytorch_optimizer:Grams?weight_decay=0.01&eps=1e-8"),
    Peer("StableAdamW", "pytorch_optimizer:StableAdamW?kahan_sum=False"),
    Peer("Shampoo", "pytorch_optimizer:Shampoo?lr=0.1&matrix_eps=1e-4", "lr=0.1&momentum=0&eps=1e-4"),
    Peer("SOAP", "pytorch_optimizer:SOAP"),
    Peer("Muon", "pytorch_optimizer:Muon?weight_decay=0.1", "weight_decay=0.1"),
    Peer("Muon", "pytorch_optimizer:Muon?nesterov=False&ns_steps=3", "nesterov=false&steps=3"),
    Peer("Moonlight", "pytorch_optimizer:Muon?use_adjusted_lr=True&lr=1e-3&weight_decay=0.1"),
    Peer("NorMuonOfficial", "pytorch_optimizer:NorMuon?eps=1e-10"),
    Peer(
        "NorMuon", "pytorch_optimizer:NorMuon?nesterov=False&update_scale=match_rms&lr=3.6e-4&weight_decay=0.1&eps=1e-8"
    ),
    Peer(
        "ScheduleFreeSGD", "schedulefree:SGDScheduleFree?weight_decay=0.1&warmup_steps=5", "weight_decay=0.1&warmup=5"
    ),
    Peer("Adafactor", "pytorch_optimizer:AdaFactor?lr=None&betas=(None,0.999)"),
    Peer("Scion", "pytorch_optimizer:SCION?lr=0.001&scale=50&constraint=True", "lr=0.001"),
    Peer("UnconstrainedScion", "pytorch_optimizer:SCION?lr=0.001&scale=50", "lr=0.001"),
    Peer("AdamW", f"heavyball:AdamW?{HEAVY}&weight_decay=0.125", f"{LIGHT}&weight_decay=0.125"),
    Peer("LaProp", f"heavyball:LaProp?{HEAVY}&weight_decay=0.125", f"{LIGHT}&weight_decay=0.125"),
    Peer("NAdam", f"heavyball:NAdam?{HEAVY}&momentum_decay=0.00390625", f"{LIGHT}&momentum_decay=0.00390625"),
    Peer(
        "MuonYouJiacheng",
        "heavyball:Muon?lr=0.0009765625&betas=(0.9375,0.9375)&heavyball_momentum=True&storage_dtype=float64",
        "lr=0.0009765625&beta=0.9375",
    ),
    Peer(
        "MuonYouJiacheng",
        "heavyball:Muon?lr=0.0009765625&betas=(0.9375,0.9375)&nesterov=False&storage_dtype=float64",
        "lr=0.0009765625&beta=0.9375&nesterov=false",
    ),
    Peer("SGD", "heavyball:SGD?lr=0.0009765625&beta=0.875&storage_dtype=float64", "lr=0.0009765625&momentum=0.875"),
    Peer(
        "AdEMAMix",
        f"heavyball:AdEMAMix?lr=0.0009765625&{SLOW}&eps=1e-20&alpha=5&storage_dtype=float64",
        f"{LIGHT}&beta3=0.9990234375&weight_decay=0",
    ),
    Peer(
        "SOAP",
        f"heavyball:SOAP?{SOAPS}&betas=(0.9375,0.9375)&shampoo_beta=0.9375&precondition_frequency=10"
        "&merge_dims=False&storage_dtype=float64",
        f"{SOAPS}&beta1=0.9375&beta2=0.9375",
    ),
)
ALL = (*OF_PACKAGES, *OF_AUTHORS)


@pytest.mark.parametrize("peer", PEERS, ids=lambda peer: f"{peer.name}-{peer.theirs.partition('?')[0]}")
def test_the_same_steps(peer: Peer) -> None:
    with all_in_float64():
        rows = rows_between(parse_target(peer.ours), their_target(peer.theirs))
    assert {row.trial.shape: row.worst for row in rows if not row.worst <= TOLERANCE} == {}


# -- what is not only stepped ------------------------------------------------------------------------------------------

SOPHIA = Peer(
    "SophiaH",
    "pytorch_optimizer:SophiaH?lr=0.05&p=0.01&weight_decay=0.1&eps=1e-12&update_period=1000",
    "lr=0.0005&rho=0.01&weight_decay=10&eps=1e-14",  # their bound p is on the quotient, before lr
)
ASCENT = Peer(
    "SAM", "pytorch_optimizer:SAM?lr=0.1&momentum=0.9&weight_decay=0.1", "lr=0.1&momentum=0.9&weight_decay=0.1"
)
MEAN = Peer("ScheduleFreeSGD", "schedulefree:SGDScheduleFree?lr=0.5", "lr=0.5")


def test_sophia_with_the_same_curvature_at_every_third_step() -> None:
    (weights, ours), (their_weights, theirs), trial = side_by_side(SOPHIA)
    for step, grad in enumerate(map(torch.tensor, trial.grads)):
        curvature = 10 * torch.tensor(trial.grads[step - 1])
        if step % 3 == 0:
            weights.grad = curvature
            ours.curvature()
        weights.grad, their_weights.grad = grad, grad.clone()
        before = weights.detach().clone()
        ours.step()
        theirs.step(hessian=[curvature] if step % 3 == 0 else None)
        require_same_step(weights, their_weights, before)


def test_sam_on_a_quadratic() -> None:
    """As closely as their norm of the gradient is known, which is always a float32."""
    (weights, ours), (their_weights, theirs), trial = side_by_side(ASCENT)
    curvature = torch.tensor(trial.grads[0]) ** 2
    for _ in range(10):
        before = weights.detach().clone()
        weights.grad, their_weights.grad = curvature * weights.detach(), curvature * their_weights.detach()
        ours.ascend()
        theirs.first_step()
        require_same_step(weights, their_weights, before, within=1e-6)
        weights.grad, their_weights.grad = curvature * weights.detach(), curvature * their_weights.detach()
        ours.step()
        theirs.second_step()
        require_same_step(weights, their_weights, before, within=1e-6)


def test_schedule_free_shows_the_same_mean() -> None:
    (weights, ours), (their_weights, theirs), trial = side_by_side(MEAN)
    theirs.train()
    for grad in map(torch.tensor, trial.grads):
        before = weights.detach().clone()
        weights.grad, their_weights.grad = grad, grad.clone()
        ours.step()
        theirs.step()
        require_same_step(weights, their_weights, before)
        ours.eval()
        theirs.eval()
        require_same_step(weights, their_weights, before)
        ours.train()
        theirs.train()


def side_by_side(peer: Peer) -> tuple[tuple[nn.Parameter, Any], tuple[nn.Parameter, Any], Trial]:
    """Equal weights with an optimizer each, ours and theirs, and gradients for them."""
    (trial,) = make_trials(((6, 4),), dtypes=("float64",))
    weights, their_weights = (nn.Parameter(torch.tensor(trial.weight)) for _ in range(2))
    ours, theirs = parse_target(peer.ours), their_target(peer.theirs)
    return (weights, ours.optimizer(weights)), (their_weights, theirs.optimizer(their_weights)), trial


def require_same_step(
    weights: nn.Parameter, their_weights: nn.Parameter, before: Tensor, within: float = TOLERANCE
) -> None:
    step, distance = (weights - before).norm(), (weights - their_weights).norm()
    assert step > 0 and distance <= within * step


# -- differences -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("difference", [d for d in ALL if d.exactly], ids=lambda d: d.theirs.partition("?")[0])
def test_a_difference_is_exactly_what_is_written_down(difference: Difference) -> None:
    with all_in_float64():
        rows = rows_between(
            variant(difference.base or difference.ours, difference.exactly), their_target(difference.theirs)
        )
    assert {row.trial.shape: row.worst for row in rows if not row.worst <= difference.within} == {}


@pytest.mark.parametrize("difference", ALL, ids=lambda d: d.theirs.partition("?")[0])
def test_what_is_written_down_is_a_difference(difference: Difference) -> None:
    """A release in which it is gone belongs among the peers that agree."""
    assert max(row.worst for row in differences.measured(difference)) > 10 * difference.within


NUMBER = re.compile(r"-?\d+\.\d{4,5}\b")
SIZE = re.compile(r"\d\.\de[-+]\d+")


def test_the_file_of_differences_is_current() -> None:
    """Its text to the letter; its numbers as far as iterations in bfloat16 agree on different processors."""
    written, fresh = differences.FILE.read_text(encoding="utf-8"), differences.render(differences.parts())
    texts = [SIZE.sub("#", NUMBER.sub("#", text)) for text in (written, fresh)]
    assert texts[0] == texts[1], "run: python -m tests.specs.differences"
    for pattern, relative in ((NUMBER, 5e-3), (SIZE, 0.2)):
        old, new = ([float(number) for number in pattern.findall(text)] for text in (written, fresh))
        assert old == pytest.approx(new, rel=relative, abs=0), "run: python -m tests.specs.differences"
