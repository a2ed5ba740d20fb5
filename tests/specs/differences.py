"""Where published code steps otherwise than a shipped spec: `python -m tests.specs.differences`.

Writes `tests/references/DIFFERENCES.md`: the measured ratio and cosine of the steps, one sentence on why, and, where it
can be said in a few equations, the change to the spec that makes it agree. `test_peers.py` holds each to that.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from optforge.compiler.verify.comparison.compare import Row
from optforge.compiler.verify.comparison.measures import Measures
from optforge.compiler.verify.comparison.targets import parse_target
from tests.specs.peers import PACKAGES, rows_between, their_target

ROUNDING = 1e-9
FILE = Path(__file__).parents[1] / "references" / "DIFFERENCES.md"


@dataclass(frozen=True)
class Difference:
    """``exactly`` is what a variant of the spec says instead; it agrees with theirs up to ``within`` of each step.

    Where ours is an optimizer with wrappers around it, the variant is one of ``base``, without these.
    """

    ours: str
    theirs: str
    why: str
    exactly: str = ""
    within: float = 1e-9
    base: str = ""


TENSOR = "    for tensor:\n        "
MATRIX = "    for matrix:\n        "
HEAVY = "lr=0.0009765625&eps=1e-20&storage_dtype=float64"

OF_PACKAGES = (
    Difference(
        "Adan",
        "pytorch_optimizer:Adan?weight_decay=0.02",
        "All three averages start at zero and are bias-corrected; the paper starts them at their first values.",
        TENSOR + "m = ema(grad, beta1)\n"
        "        n = ema((grad + beta2 * change)^2, beta3)\n"
        "        u = (debias(m, beta1) + beta2 * debias(v, beta2)) / (sqrt(debias(n, beta3)) + eps)\n",
    ),
    Difference(
        "Yogi",
        "pytorch_optimizer:Yogi",
        "Both moments are bias-corrected although they start at `initial` instead of zero, so early steps are shorter.",
        TENSOR + "m = ema(grad, beta1, init=initial)\n"
        "        weight <- weight - lr * debias(m, beta1) / (sqrt(debias(v, beta2)) + eps)\n",
    ),
    Difference(
        "LaProp?weight_decay=0.1",
        "pytorch_optimizer:LaProp?weight_decay=0.1&foreach=False",
        "Decay comes after the step and shrinks it too; eps stands before the bias correction, with 1e-15 in the root. "
        "(With foreach, step sizes are rounded to float32.)",
        TENSOR + "m = ema(grad * sqrt(1 - beta2^t) / (sqrt(v + 1e-15) + eps), beta1)\n"
        "        weight <- (1 - lr * weight_decay) * (weight - lr * debias(m, beta1))\n",
    ),
    Difference(
        "LAMB",
        "pytorch_optimizer:Lamb?weight_decay=0.01&weight_decouple=False&eps=1e-6",
        "The momentum's bias correction is applied to lr, after the trust ratio has fixed the length of the step: the "
        "first step is ten times as long as lr times the weights.",
        TENSOR + "d = m / (sqrt(v) + eps) + weight_decay * weight\n"
        "        weight <- weight - lr / (1 - beta1^t) * norm(weight) / (norm(d) + eps) * d\n",
    ),
    Difference(
        "ADOPT",
        "pytorch_optimizer:ADOPT",
        "The bound on normalized gradients counts the first step, which makes none: t^0.25 instead of (t - 1)^0.25.",
        TENSOR + "limit = t^0.25 if t > 1 else 0\n",
    ),
    Difference(
        "ADOPT?lr=0.0009765625&beta1=0.875&beta2=0.96875",
        f"heavyball:ADOPT?betas=(0.875,0.96875)&{HEAVY}",
        "Normalized gradients are not bounded, and both averages are bias-corrected (with scalars in float32).",
        TENSOR + "moment = debias(ema(grad^2, beta2), beta2)\n"
        "        n      = grad / sqrt(prev(moment, grad^2)) if t > 1 else 0\n"
        "        m      = ema(n, beta1)\n"
        "        weight <- weight - lr * m / (1 - beta1^(t - 1)) if t > 1 else weight\n",
        within=1e-6,
    ),
    Difference(
        "RMSprop?lr=0.0009765625&alpha=0.96875&eps=1e-20",
        f"heavyball:RMSprop?betas=(0.875,0.96875)&{HEAVY}",
        "The second moment is bias-corrected (with scalars in float32).",
        TENSOR + "u = g / (sqrt(debias(v, alpha)) + eps)\n",
        within=1e-6,
    ),
    Difference(
        "MARSAdamW",
        "pytorch_optimizer:MARS",
        "eps stands before the bias correction, with 1e-15 in the root.",
        "    for matrix, embedding, head:\n"
        "        u = debias(m, beta1) * sqrt(1 - beta2^t) / (sqrt(v + 1e-15) + eps)\n",
    ),
    Difference(
        "ScheduleFreeAdamW?weight_decay=0.1&warmup=5",
        "schedulefree:AdamWScheduleFree?weight_decay=0.1&warmup_steps=5",
        "The bias correction is in the divisor alone; the paper has it in the step size, and so in the mean's weights.",
        TENSOR + "gamma = lr * (t / warmup if t < warmup else 1)\n"
        "        d     = grad / (sqrt(debias(v, beta2)) + eps)\n",
    ),
    Difference(
        "AdamP?delta=2&weight_decay=0.1",
        "pytorch_optimizer:AdamP?delta=2&weight_decay=0.1",
        "Projection is decided for all rows at once, by the largest cosine, or else for the matrix as one vector; "
        "where it takes place decay is a tenth. eps stands before the bias correction and is added to norms.",
        MATRIX + "u       = debias(m, beta1) * sqrt(1 - beta2^t) / (sqrt(v) + eps)\n"
        "        channel = max(abs(cosine)) < delta / sqrt(cols)\n"
        "        layer   = abs(dot(weight, grad)) / (norm(weight) * norm(grad)) < delta / sqrt(rows * cols)\n"
        "        unit    = weight / (norm(weight, per=row) + eps)\n"
        "        whole   = weight / (norm(weight) + eps)\n"
        "        other   = u - dot(u, whole) * whole if layer else u\n"
        "        d       = u - dot(u, unit, per=row) * unit if channel else other\n"
        "        share   = 0.1 if channel or layer else 1\n"
        "        weight <- (1 - lr * weight_decay * share) * weight - lr * d\n",
    ),
    Difference(
        "Prodigy?weight_decay=0.1",
        "pytorch_optimizer:Prodigy?weight_decay=0.1",
        "eps is multiplied by the new estimate of the distance, not by the one the moments were scaled with.",
        TENSOR + "u = m / (sqrt(v) + d * eps)\n",
    ),
    Difference(
        "DAdaptAdam?d0=0.01&weight_decay=0.1",
        "pytorch_optimizer:DAdaptAdam?d0=0.01&weight_decay=0.1&weight_decouple=True&foreach=False",
        "r is weighed by the second moments of the step before, without the new gradient, so that d grows faster.",
        TENSOR + "shared r = ema(total(rate * dot(grad, prev(s) / (sqrt(prev(v)) + eps))), kept)\n",
    ),
    Difference(
        "CautiousLion",
        "pytorch_optimizer:Lion?cautious=True",
        "What is kept is scaled up by n / (kept + 1), as if one more element had been kept.",
        TENSOR + "whole = sign(beta1 * prev(m) + (1 - beta1) * grad)\n"
        "        mask  = 1 if whole * grad > 0 else 0\n"
        "        u     = whole * mask * sum(mask * 0 + 1) / (sum(mask) + 1)\n",
        base="Lion",
    ),
    Difference(
        "CautiousMuon",
        "pytorch_optimizer:Muon?cautious=True",
        "Agreement is with the mix of gradient and momentum, which has taken the gradient's place by then; and what is "
        "kept is scaled up by n / (kept + 1).",
        MATRIX + "whole  = orthogonalize(m, steps)\n"
        "        mask   = 1 if whole * m > 0 else 0\n"
        "        update = whole * mask * rows * cols / (sum(mask) + 1)\n",
        base="Muon",
    ),
    Difference(
        "MuonYouJiacheng?lr=0.0009765625&beta=0.9375",
        "heavyball:Muon?lr=0.0009765625&betas=(0.9375,0.9375)&storage_dtype=float64",
        "The look-ahead adds the whole gradient to its average, in which it has the weight 1 - beta; with "
        "heavyball_momentum=True it is Nesterov's.",
        MATRIX + "m = grad + ema(grad, beta)\n",
    ),
    Difference(
        "AdamH?lr=0.0009765625&beta1=0.875&beta2=0.96875&eps=1e-20",
        f"heavyball:HyperBallAdamW?betas=(0.875,0.96875)&{HEAVY}",
        "There is no momentum, whatever beta1: the gradient is divided by its second moment and taken as it is.",
        MATRIX + "u = grad / (sqrt(debias(v, beta2)) + eps)\n",
    ),
    Difference(
        "AdaMuon?weight_decay=0.1&lr=0.02&eps=1e-10",
        "pytorch_optimizer:AdaMuon?weight_decay=0.1&eps=1e-10",
        "The paper's first version: no sign, no look-ahead, a bias-corrected second moment, and a momentum of 0.9.",
        MATRIX + "m = momentum(grad, 0.9)\n"
        "        o = orthogonalize(m)\n"
        "        u = o / (sqrt(debias(v, beta)) + eps)\n",
    ),
)

OF_AUTHORS = (
    Difference(
        "NAMO",
        "NAMOOfficial",
        "The official code has Nesterov's mix, whose norm is in the numerator (1 + mu1 at the first step), the factor "
        "0.2 sqrt(max(rows, cols)) on the update but not on the decay, and caps at 1.",
    ),
    Difference(
        "NAMOD?lr=0.01",
        "NAMODOfficial",
        "As NAMO's official code: Nesterov's mix, the factor on the update alone, and caps on update and decay.",
    ),
    Difference(
        "Nora",
        "NoraOfficial",
        "The official code has Nesterov's mix, and steps of tall matrices are multiplied by sqrt(rows / cols).",
    ),
    Difference(
        "RMNP?lr=0.02&weight_decay=0",
        "RMNPOfficial",
        "The official code has Nesterov's mix, and steps of tall matrices are multiplied by sqrt(rows / cols).",
    ),
    Difference(
        "NorMuon?lr=0.02&weight_decay=0",
        "NorMuonOfficial",
        "The official code has Nesterov's mix, and steps as long as Muon's; the paper's have root mean square 0.2 lr.",
    ),
    Difference(
        "NorMuonOfficial?lr=0.01&weight_decay=0.01",
        "NorMuonDion",
        "The dion package has no look-ahead, iterates by Polar Express and multiplies every step by sqrt(rows / cols).",
    ),
    Difference(
        "MuonTorch",
        "torch.optim:Muon",
        "torch iterates in bfloat16 whatever the dtype; with its iteration in float64 "
        "tests/specs/test_torch_agreement.py finds no difference above 1e-10.",
    ),
    Difference(
        "Muon",
        "pytorch_optimizer:Muon",
        "It iterates in bfloat16 whatever the dtype; tests/specs/test_peers.py finds no difference above 1e-9 in "
        "float64.",
    ),
)

INTRODUCTION = """\
# Where published code steps otherwise than the specs

Written by `python -m tests.specs.differences`; do not edit. Each number compares the steps of the second optimizer with
those of the first on the same weights and gradients in float64, as `optforge compare` does: the ratio of their norms,
their cosine, and the norm of what is between them relative to the first, for a square (32x32), a tall (48x16) and a
wide (16x48) matrix, at the first and the tenth step.

Equations, where they are shown, are what the spec would have to say instead: `tests/specs/test_peers.py` holds that
variant to the published code within 1e-9 of the size of each step (1e-6 where the code computes with scalars in
float32). What agrees without any change stands there as well.
"""


def measured(difference: Difference) -> list[Row]:
    return rows_between(parse_target(difference.ours), their_target(difference.theirs))


def render(parts: Sequence[tuple[str, Sequence[Difference]]]) -> str:
    blocks = [INTRODUCTION]
    for title, differences in parts:
        blocks.append(f"## {title}\n")
        blocks += ["\n".join(render_difference(each, measured(each))) for each in differences]
    return "\n".join(blocks)


def render_difference(difference: Difference, rows: Sequence[Row]) -> Iterator[str]:
    yield f"### `{difference.ours}` and `{difference.theirs}`\n"
    yield f"{difference.why}\n"
    columns = [f"{kind}: ratio | cosine | difference" for kind in ("square", "tall", "wide")]
    yield f"| step | {' | '.join(columns)} |"
    yield "|---|" + "---|" * 9
    for step in rows[0].measures:
        yield f"| {step} | {' | '.join(render_measures(row.measures[step]) for row in rows)} |"
    yield ""
    if difference.exactly:
        yield f"```\n{difference.exactly}```\n"


def render_measures(measures: Measures) -> str:
    """What is left after rounding differs from machine to machine, and is none."""
    difference = "none" if measures.difference <= ROUNDING else f"{measures.difference:.1e}"
    return f"{measures.ratio:.4f} | {measures.cosine:.5f} | {difference}".replace("nan", "–")


def parts() -> list[tuple[str, Sequence[Difference]]]:
    versions = ", ".join(PACKAGES)
    return [
        (f"Packages ({versions})", OF_PACKAGES),
        ("Official code, and what torch and others iterate in", OF_AUTHORS),
    ]


if __name__ == "__main__":
    FILE.write_text(render(parts()), encoding="utf-8")
