"""Results of modded-nanogpt's optimization track, with exact norms."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from tests.references.loop import State
from tests.references.orthogonal import exact_iteration
from tests.references.polar import spectral_norm
from tests.references.preconditioned import falling_basis, is_square, orthonormal
from tests.references.spectral import EXACT, MuonLike, shape_scale
from tests.references.tabled import Hypers, ema

UNDECAYED = {**{name: pair for name, pair in EXACT.items() if name != "weight_decay"}, "lr": (0.0375, 1e-3)}


def ramp(t: int, begin: float, end: float) -> float:
    return min(1.0, max(0.0, (t - begin) / (end - begin)))


def as_long_as(X: Tensor, Y: Tensor) -> Tensor:
    return X / X.norm() * Y.norm()


class NorMuonFloor(MuonLike):
    """#9."""

    HYPERS: ClassVar = {**UNDECAYED, "beta2": (0.95, 0.7), "least": (0.35, 2.0)}

    def matrix(self, W: Tensor, G: Tensor, state: State, h: Hypers) -> Tensor:
        U = shape_scale(W) * self.direction(self.momentum(G, state, h), W, G, state, h)
        mean = U.square().mean(1, keepdim=True) if W.size(0) >= W.size(1) else U.square().mean(0, keepdim=True).T
        V = ema(state, "v", mean, h.beta2)
        U = as_long_as(U / (V if W.size(0) >= W.size(1) else V.T).clamp(min=1e-10).sqrt(), U)
        return W - h.lr * U * max(1.0, float(h.least * W.norm() / U.norm()))

    def direction(self, M: Tensor, W: Tensor, G: Tensor, state: State, h: Hypers) -> Tensor:
        return exact_iteration(M, h.steps)


class ContraNorMuon(NorMuonFloor):
    """#11."""

    HYPERS: ClassVar = {**NorMuonFloor.HYPERS, "contra": (0.4, 1.0)}

    def direction(self, M: Tensor, W: Tensor, G: Tensor, state: State, h: Hypers) -> Tensor:
        O = self.polar(M, h)
        return as_long_as(O - h.contra / 2 * M / spectral_norm(M), O)

    def polar(self, M: Tensor, h: Hypers) -> Tensor:
        return exact_iteration(M, h.steps)


class ContraNorMuonAurora(ContraNorMuon):
    """#17."""

    HYPERS: ClassVar = ContraNorMuon.HYPERS

    def polar(self, M: Tensor, h: Hypers) -> Tensor:
        rows, cols = M.shape
        if rows < cols:
            return self.polar(M.T, h).T
        if rows == cols:
            return exact_iteration(M, h.steps)
        D = 1 / M.norm(dim=1, keepdim=True)
        D = D * (cols / rows) ** 0.5 / exact_iteration(D * M, h.steps).norm(dim=1, keepdim=True)
        return exact_iteration(D * M, h.steps)


def sorted_and_moved(S: Tensor, Q: Tensor) -> tuple[Tensor, Tensor]:
    """The order of the columns of Q by what S is along them, and the basis after one power iteration in that order."""
    order = (Q * (S @ Q)).sum(0).argsort(descending=True)
    return order, orthonormal(S @ Q[:, order])


def soap(M: Tensor, G: Tensor, state: State, h: Hypers) -> Tensor:
    """Adam's scaling in the bases of the step before, as long as M; then the bases move on."""
    result = M
    if h.t > 1:
        Ql, Qr = state["m.q_l"], state["m.q_r"]
        P = Ql.T @ M @ Qr
        V = state["m.v"] = h.soap_beta2 * state["m.v"] + (1 - h.soap_beta2) * P * P
        result = as_long_as(Ql @ (P / (V.sqrt() + 1e-8)) @ Qr.T, M)
    L, R = ema(state, "m.l", G @ G.T, h.soap_beta2), ema(state, "m.r", G.T @ G, h.soap_beta2)
    if h.t == 1:
        state["m.q_l"], state["m.q_r"], state["m.v"] = falling_basis(L), falling_basis(R), torch.zeros_like(M)
    elif (h.t - 1) % h.every == 0:
        first, state["m.q_l"] = sorted_and_moved(L, state["m.q_l"])
        second, state["m.q_r"] = sorted_and_moved(R, state["m.q_r"])
        state["m.v"] = state["m.v"][first][:, second]
    return result


SOAP = {"soap_beta2": (0.9, 0.6), "every": (1, 3)}


class SOAPMuon(MuonLike):
    """The polar factor of SOAP's direction."""

    HYPERS: ClassVar = {**EXACT, **SOAP, "lr": (0.0375, 1e-3)}
    NAME = "raw"
    SENSITIVITY = 1e4
    is_determined = staticmethod(is_square)

    def momentum(self, G: Tensor, state: State, h: Hypers) -> Tensor:
        M = ema(state, self.NAME, G, h.beta)
        return (1 - h.beta) * G + h.beta * M if h.nesterov else M

    def direction(self, M: Tensor, W: Tensor, G: Tensor, state: State, h: Hypers) -> Tensor:
        return exact_iteration(self.mixed(M, soap(M, G, state, h), G, h), h.steps)

    def mixed(self, M: Tensor, S: Tensor, G: Tensor, h: Hypers) -> Tensor:
        return S


class TrustSOAPMuon(SOAPMuon):
    """The gate of #16."""

    HYPERS: ClassVar = {
        **SOAPMuon.HYPERS,
        "least_agree": (0.2, 0.7),
        "early_floor": (0.45, 0.8),
        "early_cap": (0.85, 0.5),
        "floor_end": (1375, {"floor_end": 3, "fade_end": 10}),
        "fade_end": (1625, {"floor_end": 3, "fade_end": 8}),
    }

    def mixed(self, M: Tensor, S: Tensor, G: Tensor, h: Hypers) -> Tensor:
        def cosine(X: Tensor, Y: Tensor) -> float:
            return float((X * Y).sum() / (X.norm() * Y.norm()))

        agree = min(1.0, max(0.0, (cosine(S, M) - h.least_agree) / (1 - h.least_agree)))
        align = min(1.0, max(0.0, cosine(S, G) / max(cosine(M, G), 1e-8)))
        low = h.early_floor * (1 - ramp(h.t - 1, h.floor_end, h.fade_end))
        high = h.early_cap if h.t - 1 < h.fade_end else 1.0
        gate = min(high, max(low, agree * align))
        return as_long_as((1 - gate) * M + gate * S, M)


class PinnedMuon(MuonLike):
    """The steps of #29."""

    HYPERS: ClassVar = {**UNDECAYED, "outward": (0.5, 0.1), "least": (0.3825, 2.0)}

    def matrix(self, W: Tensor, G: Tensor, state: State, h: Hypers) -> Tensor:
        U = shape_scale(W) * self.direction(self.momentum(G, state, h), W, G, state, h)
        U = self.lengthened(self.braked(U, W, h), W, h)
        radius = W.norm() - h.lr * (U * W).sum() / W.norm()
        moved = W - h.lr * U
        return self.decayed(moved / moved.norm() * radius, U, W, h)

    def braked(self, U: Tensor, W: Tensor, h: Hypers) -> Tensor:
        c = (U * W).sum() / (W * W).sum()
        return U - (1 - h.outward) * c.clamp(max=0) * W

    def lengthened(self, U: Tensor, W: Tensor, h: Hypers) -> Tensor:
        return U * (h.least * W.norm() / U.norm()).clamp(min=1)

    def decayed(self, moved: Tensor, U: Tensor, W: Tensor, h: Hypers) -> Tensor:
        return moved

    def direction(self, M: Tensor, W: Tensor, G: Tensor, state: State, h: Hypers) -> Tensor:
        return exact_iteration(M, h.steps)


class PinnedSOAPMuon(PinnedMuon):
    """#44 without its look ahead."""

    HYPERS: ClassVar = {
        **PinnedMuon.HYPERS,
        **SOAP,
        "beta_min": (0.85, 0.3),
        "warmup": (300, 4),
        "cooldown": (200, {"cooldown": 5, "total": 12, "warmup": 2}),
        "total": (2900, {"total": 10, "cooldown": 5, "warmup": 2}),
    }
    SENSITIVITY = 1e4
    is_determined = staticmethod(is_square)

    def momentum(self, G: Tensor, state: State, h: Hypers) -> Tensor:
        up, down = ramp(h.t - 1, 0, h.warmup), ramp(h.t - 1, h.total - h.cooldown, h.total)
        beta = h.beta_min + (h.beta - h.beta_min) * (up - down)
        M = ema(state, "raw", G, beta)
        return (1 - beta) * G + beta * M if h.nesterov else M

    def direction(self, M: Tensor, W: Tensor, G: Tensor, state: State, h: Hypers) -> Tensor:
        return exact_iteration(soap(M, G, state, h), h.steps)


class LooksAhead(MuonLike):
    """EMANesterov around all parameters."""

    def matrix(self, W: Tensor, G: Tensor, state: State, h: Hypers) -> Tensor:
        return self.ahead(super().matrix(W.clone(), G, state, h), W, state, h)

    def rest(self, p: Tensor, g: Tensor, state: State, h: Hypers) -> Tensor:
        return self.ahead(super().rest(p.clone(), g, state, h), p, state, h)

    def ahead(self, point: Tensor, w: Tensor, state: State, h: Hypers) -> Tensor:
        way = point - state.get("EMANesterov.point", w)
        state["EMANesterov.point"] = point
        return point + h.ema_nesterov_share * ema(state, "EMANesterov.ahead", way, h.ema_nesterov_decay)


AHEAD = {"ema_nesterov_share": (0.3, 0.9), "ema_nesterov_decay": (0.99, 0.7)}


class Record44(LooksAhead, PinnedSOAPMuon):
    """#44."""

    HYPERS: ClassVar = {**PinnedSOAPMuon.HYPERS, **AHEAD}


class ReadsTail(LooksAhead):
    """TailEMA around the whole; the tests show the blend before every third step."""

    EVENTS: ClassVar = {"eval": {}, "train": {}}

    def ahead(self, point: Tensor, w: Tensor, state: State, h: Hypers) -> Tensor:
        moved = super().ahead(point, w, state, h)
        late = state.get("TailEMA.late", moved)
        state["TailEMA.late"] = moved if h.t <= h.tail_ema_begin else late + (moved - late) / h.tail_ema_horizon
        return moved

    @torch.no_grad()
    def eval(self) -> None:
        for group, p, state in self.active():
            if "TailEMA.late" in state:
                state["TailEMA.kept"] = p.clone()
                share = group["tail_ema_blend"]
                p.copy_((1 - share) * p + share * state["TailEMA.late"].view_as(p))

    @torch.no_grad()
    def train(self) -> None:
        for _, p, state in self.active():
            p.copy_(state.get("TailEMA.kept", p))


TAIL = {
    "tail_ema_horizon": (150, {"tail_ema_horizon": 4, "tail_ema_begin": 2}),
    "tail_ema_begin": (2400, 3),
    "tail_ema_blend": (0.6, {"tail_ema_blend": 0.3, "tail_ema_begin": 2}),
}


class Record45(ReadsTail, Record44):
    """#45."""

    HYPERS: ClassVar = {**Record44.HYPERS, **TAIL}


class RowFloorSOAPMuon(PinnedSOAPMuon):
    """#46 without its look ahead and its tail."""

    HYPERS: ClassVar = {**PinnedSOAPMuon.HYPERS, "decay": (0.025, 0.5)}

    def lengthened(self, U: Tensor, W: Tensor, h: Hypers) -> Tensor:
        return U * (h.least * W.norm(dim=1, keepdim=True) / U.norm(dim=1, keepdim=True)).clamp(min=1)

    def decayed(self, moved: Tensor, U: Tensor, W: Tensor, h: Hypers) -> Tensor:
        return torch.where(U * W > 0, (1 - h.lr * h.decay) * moved, moved)


class Record46(ReadsTail, RowFloorSOAPMuon):
    """#46."""

    HYPERS: ClassVar = {**RowFloorSOAPMuon.HYPERS, **AHEAD, **TAIL}
