"""What one optimizer step does to each weight matrix: its size, its direction, and its largest singular value.

In: the weights and gradients just before a step, and the weights after it. Out: a ``TelemetryRecord``. It costs one
copy of the measured weights and a few products of them with vectors, at the measured steps only; it draws no random
number that training would notice. Of a model in shards every process measures whole matrices.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from examples.gpt2.logs import TelemetryRecord
from examples.gpt2.sharding import whole

ITERATIONS = 8
"""Products with a step and its transpose that find its spectral norm: from below, to a tenth where others are near."""


class StepProbe:
    """Remembers matrices before a step and measures the step after it.

    probe = StepProbe(model)
    optimizer.step()
    record = probe.measure(step=10)
    """

    def __init__(self, model: nn.Module) -> None:
        self._named = {name: p for name, p in model.named_parameters() if p.ndim >= 2 and p.grad is not None}
        self._before = {name: whole(p.detach()).clone() for name, p in self._named.items()}
        self._gradients = {name: whole(p.grad.detach()) for name, p in self._named.items() if p.grad is not None}

    @torch.no_grad()
    def measure(self, step: int) -> TelemetryRecord:
        """The measures of every matrix; ``step_rms`` is per element, ``cosine`` that with the descent direction."""
        layers = {}
        for name, p in self._named.items():
            change = whole(p.detach()) - self._before[name]
            layers[name] = describe_step(change, self._before[name], self._gradients[name])
        return TelemetryRecord(step, _as_floats(layers))


def describe_step(change: Tensor, weight: Tensor, gradient: Tensor) -> dict[str, Tensor]:
    """Measures of ``change``, the step that ``weight`` took under ``gradient``; all three have one shape."""
    length = change.norm()
    return {
        "step_rms": length / change.numel() ** 0.5,
        "step_to_weight": length / weight.norm(),
        "cosine": -(change * gradient).sum() / (length * gradient.norm()),
        "spectral_norm": spectral_norm(change.flatten(1)),
    }


def spectral_norm(matrix: Tensor) -> Tensor:
    """The largest singular value of ``matrix`` (rows, cols), by power iteration from a fixed vector."""
    generator = torch.Generator().manual_seed(0)
    vector = torch.randn(matrix.shape[1], generator=generator).to(matrix)
    for _ in range(ITERATIONS):
        vector = nn.functional.normalize(matrix.mT @ (matrix @ vector), dim=0)
    return (matrix @ vector).norm()


def _as_floats(layers: Mapping[str, Mapping[str, Tensor]]) -> dict[str, dict[str, float]]:
    """The numbers, fetched from the device at once."""
    flat: Iterable[Tensor] = (value for measures in layers.values() for value in measures.values())
    values = iter(torch.stack([value.double() for value in flat]).tolist() if layers else [])
    return {name: {key: next(values) for key in measures} for name, measures in layers.items()}
