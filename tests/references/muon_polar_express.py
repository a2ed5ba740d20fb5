"""Muon with the polynomials of Polar Express (arXiv 2505.16932) for singular values between 1e-3 and 1."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor

from tests.references.muon import Muon
from tests.references.muon_variant import MuonVariant
from tests.references.polar import iterate

# Seven steps; the last goes on for ever.
POLYNOMIALS = (
    (8.28721201814563, -23.595886519098837, 17.300387312530933),
    (4.107059111542203, -2.9478499167379106, 0.5448431082926601),
    (3.9486908534822946, -2.908902115962949, 0.5518191394370137),
    (3.3184196573706015, -2.488488024314874, 0.51004894012372),
    (2.300652019954817, -1.6689039845747493, 0.4188073119525673),
    (1.891301407787398, -1.2679958271945868, 0.37680408948524835),
    (1.8750014808534479, -1.2500016453999487, 0.3750001645474248),
)
AFTER = (1.875, -1.25, 0.375)
SAFETY = 1.01


class MuonPolarExpress(MuonVariant):
    """Every step but the last takes X / 1.01 instead of X, and so does the division by the norm."""

    SECOND: ClassVar = {**Muon.SECOND, "steps": {"steps": 9}}
    SENSITIVITY = 1026.0  # the slope of the five polynomials at zero

    def direction(self, M: Tensor, *_: Any, steps: int, **__: Any) -> Tensor:
        chosen = [*POLYNOMIALS, *[AFTER] * steps][:steps]
        safe = [(a / SAFETY, b / SAFETY**3, c / SAFETY**5) for a, b, c in chosen[:-1]]
        return iterate(M / (SAFETY * M.norm()), [*safe, chosen[-1]])
