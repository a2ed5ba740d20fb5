"""Wrappers by hand, in NumPy: what a wrapper makes of a step of another optimizer, one parameter at a time.

Each function takes the step that it wraps, ``step(weight, grad, t, **hypers)``, and gives another such step; what it
remembers is its own. ``adamw`` is what the tests wrap; ``turn`` changes its direction.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

Step = Callable[..., np.ndarray]


def adamw(turn: Callable[..., Any] = lambda u, w, g: u) -> Step:
    """AdamW with the defaults of the spec."""
    m, v = 0.0, 0.0

    def step(w, g, t, lr=1e-3, weight_decay=1e-2):
        nonlocal m, v
        m = 0.9 * m + 0.1 * g
        v = 0.999 * v + 0.001 * g * g
        u = (m / (1 - 0.9**t)) / (np.sqrt(v / (1 - 0.999**t)) + 1e-8)
        decay = weight_decay(u, w) if callable(weight_decay) else weight_decay
        return w - lr * decay * w - lr * turn(u, w, g)

    return step


def grokfast(inner: Step, alpha: float = 0.98, amplify: float = 2.0) -> Step:
    slow = 0.0

    def step(w, g, t, **hypers):
        nonlocal slow
        slow = alpha * slow + (1 - alpha) * g
        return inner(w, g + amplify * slow, t, **hypers)

    return step


def lookahead(inner: Step, alpha: float = 0.5, every: int = 5) -> Step:
    slow = None

    def step(w, g, t, **hypers):
        nonlocal slow
        slow = w if slow is None else slow
        fast = inner(w, g, t, **hypers)
        if t % every:
            return fast
        slow = slow + alpha * (fast - slow)
        return slow

    return step


def snoo(inner: Step, outer_lr: float = 0.7, mu: float = 0.9, every: int = 20) -> Step:
    slow, b = None, 0.0

    def step(w, g, t, **hypers):
        nonlocal slow, b
        slow = w if slow is None else slow
        fast = inner(w, g, t, **hypers)
        if t % every:
            return fast
        b = mu * b + (slow - fast)
        slow = slow - outer_lr * (mu * b + (slow - fast))
        return slow

    return step


def ema_nesterov(inner: Step, share: float = 0.3, decay: float = 0.99) -> Step:
    last, average = None, 0.0

    def step(w, g, t, **hypers):
        nonlocal last, average
        point = inner(w, g, t, **hypers)
        average = decay * average + (1 - decay) * (point - (w if last is None else last))
        last = point
        return point + share * average

    return step


def agc(inner: Step, clip: float = 0.01, least: float = 1e-3) -> Step:
    def step(w, g, t, **hypers):
        most = clip * np.maximum(np.linalg.norm(w, axis=1, keepdims=True), least)
        long = np.linalg.norm(g, axis=1, keepdims=True)
        return inner(w, np.where(long > most, g * most / np.maximum(long, 1e-6), g), t, **hypers)

    return step


def z_clip(inner: Step, alpha: float = 0.97, threshold: float = 2.5, warmup: int = 25) -> Step:
    """For the only parameter of an optimizer, whose norm is the global one."""
    norms: list[float] = []
    mean, var = 0.0, 0.0

    def step(w, g, t, **hypers):
        nonlocal mean, var
        n = float(np.sqrt((g * g).sum()))
        used = n
        if t <= warmup:
            norms.append(n)
            mean, var = float(np.mean(norms)), float(np.mean(np.square(norms)) - np.mean(norms) ** 2)
        else:
            sigma = np.sqrt(var)
            z = (n - mean) / (sigma + 1e-6)
            used = mean + threshold**2 / z * sigma if z > threshold else n
            mean, var = alpha * mean + (1 - alpha) * used, alpha * var + (1 - alpha) * (used - mean) ** 2
        return inner(w, g * used / n, t, **hypers)

    return step


def ortho_grad(inner: Step) -> Step:
    def step(w, g, t, **hypers):
        across = g - (w * g).sum() / ((w * w).sum() + 1e-30) * w
        return inner(w, across * np.linalg.norm(g) / np.linalg.norm(across), t, **hypers)

    return step


def grad_power(inner: Step, exponent: float = 1.2) -> Step:
    return lambda w, g, t, **hypers: inner(w, np.sign(g) * np.abs(g) ** exponent, t, **hypers)


def soda(inner: Step) -> Step:
    start = None

    def step(w, g, t, **hypers):
        nonlocal start
        start = w if start is None else start
        moved = inner(w, g, t, **{**hypers, "weight_decay": 0.0}) - w
        k = t - 1
        return (1 - 1 / (k + 2)) * w + (start + (k + 2) * moved) / (k + 2)

    return step


def schedule_free(inner: Step, beta: float = 0.9) -> Step:
    """``shown`` of the step is the mean."""
    z = x = None

    def step(w, g, t, **hypers):
        nonlocal z, x
        z, x = (w, w) if z is None else (z, x)
        z = z + inner(w, g, t, **hypers) - w
        x = (1 - 1 / t) * x + z / t
        step.shown = x
        return beta * x + (1 - beta) * z

    return step


def gpa(inner: Step, mu_x: float = 0.995, mu_y: float = 0.9) -> Step:
    z = x = None

    def step(w, g, t, **hypers):
        nonlocal z, x
        z, x = (w, w) if z is None else (z, x)
        z = z + inner(w, g, t, **hypers) - w
        x = mu_x * x + (1 - mu_x) * z
        step.shown = x
        return mu_y * x + (1 - mu_y) * z

    return step


def averaged(inner: Step, decay: float = 0.999) -> Step:
    total, count = 0.0, 0.0

    def step(w, g, t, **hypers):
        nonlocal total, count
        moved = inner(w, g, t, **hypers)
        total, count = decay * total + (1 - decay) * moved, decay * count + (1 - decay)
        step.shown = total / count
        return moved

    return step


def mu_loco(inner: Step, outer_lr: float = 0.7, mu: float = 0.5, sync: int = 30) -> Step:
    anchor, b = None, 0.0

    def step(w, g, t, **hypers):
        nonlocal anchor, b
        anchor = w if anchor is None else anchor
        fast = inner(w, g, t, **hypers)
        if t % sync:
            return fast
        b = mu * b + outer_lr * (anchor - fast)
        anchor = anchor - (mu * b + outer_lr * (anchor - fast))
        return anchor

    return step


def tail_ema(inner: Step, horizon: float = 150, begin: int = 2400, blend: float = 0.6) -> Step:
    late = None

    def step(w, g, t, **hypers):
        nonlocal late
        moved = inner(w, g, t, **hypers)
        late = moved if t <= begin else (1 - 1 / horizon) * late + moved / horizon
        step.shown = (1 - blend) * moved + blend * late
        return moved

    return step


def reference_readout(inner: Step, capture: int = 2375, gamma: float = -0.075) -> Step:
    captured = None

    def step(w, g, t, **hypers):
        nonlocal captured
        moved = inner(w, g, t, **hypers)
        captured = moved if t <= capture else captured
        step.shown = (1 + gamma) * moved - gamma * captured
        return moved

    return step


def trail_delta(
    inner: Step,
    first: int,
    interval: int,
    last: int,
    gamma_first: float = -0.04,
    gamma_last: float = -0.12,
    keep: float = 1,
) -> Step:
    anchor, trail = None, 0.0

    def step(w, g, t, **hypers):
        nonlocal anchor, trail
        moved = inner(w, g, t, **hypers)
        if first < t <= last and (t - first) % interval == 0:
            trail = moved - anchor + keep * trail
            moved = moved + (gamma_first if t == first + interval else gamma_last) * trail
            anchor = moved
        anchor = moved if t <= first else anchor
        return moved

    return step


def gradient_centralization(inner: Step) -> Step:
    return lambda w, g, t, **hypers: inner(w, g - g.mean(axis=1, keepdims=True), t, **hypers)


def ada_gc(inner: Step, limit: float = 1.05, beta: float = 0.98, warmup: int = 100, clip: float = 1.0) -> Step:
    """For the only parameter of an optimizer, whose norm is the global one."""
    length = np.inf

    def step(w, g, t, **hypers):
        nonlocal length
        n = np.linalg.norm(g)
        used = min(n, clip) if t <= warmup else min(n, limit * length)
        length = min(length, used) if t <= warmup else beta * length + (1 - beta) * used
        return inner(w, g * used / n, t, **hypers)

    return step


def swa(inner: Step, begin: int = 1000, every: int = 10) -> Step:
    counted: list[np.ndarray] = []

    def step(w, g, t, **hypers):
        moved = inner(w, g, t, **hypers)
        if t >= begin and (t - begin) % every == 0:
            counted.append(moved)
        step.shown = np.mean(counted, axis=0) if counted else moved
        return moved

    return step


# Those that change the direction of what they wrap


def cautious() -> Step:
    def turn(u, w, g):
        mask = (u * g > 0).astype(float)
        return u * mask / max(mask.mean(), 1e-3)

    return adamw(turn)


def cautious_decay() -> Step:
    inner = adamw()
    return lambda w, g, t: inner(w, g, t, weight_decay=lambda u, w: 1e-2 * (u * w >= 0))


def spectra(cap: float = 10.0) -> Step:
    def turn(u, w, g):
        left, values, right = np.linalg.svd(u, full_matrices=False)
        return left @ np.diag(np.minimum(values, cap)) @ right

    return adamw(turn)


def hyperball() -> Step:
    radius = None

    def turn(u, w, g):
        return u / np.linalg.norm(u) * radius

    inner = adamw(turn)

    def step(w, g, t):
        nonlocal radius
        radius = np.linalg.norm(w) if radius is None else radius
        moved = inner(w, g, t, weight_decay=0.0)
        return moved / np.linalg.norm(moved) * radius

    return step


class Mechanic:
    """One scale for several parameters, each with the step that is wrapped; who has no gradient takes no part."""

    BETAS = np.array([0.9, 0.99, 0.999, 0.9999, 0.99999, 0.999999])

    def __init__(self, inner: list[Step], s_init: float = 1e-8, decay: float = 1e-2, tiny: float = 1e-8) -> None:
        self.inner, self.s_init, self.decay, self.tiny = inner, s_init, decay, tiny
        self.m, self.v, self.r, self.s = np.zeros((4, 6))
        self.start: list[Any] = [None] * len(inner)
        self.moved: list[Any] = [0.0] * len(inner)
        self.count = [0] * len(inner)

    def step(self, weights: list[np.ndarray], grads: list[np.ndarray | None]) -> list[np.ndarray]:
        given = [(i, weights[i], g) for i, g in enumerate(grads) if g is not None]
        slope, size = (np.sqrt(sum(np.sum(x * x) for x in each)) for each in list(zip(*given, strict=True))[:0:-1])
        pull = self.decay * self.s.sum() * slope / (size + self.tiny)
        h = sum(np.sum(self.moved[i] * (g + pull * w)) for i, w, g in given)
        self.r = np.maximum(0, self.BETAS * self.r - self.s * h)
        self.m = np.maximum(self.BETAS * self.m, abs(h))
        self.v = self.BETAS**2 * self.v + h * h
        self.s = (self.s_init / 6 * self.m + self.r) / (np.sqrt(self.v) + self.tiny)
        new = list(weights)
        for i, w, g in given:
            self.count[i] += 1
            self.start[i] = w if self.start[i] is None else self.start[i]
            self.moved[i] = self.moved[i] + self.inner[i](w, g, self.count[i]) - w
            new[i] = self.start[i] + self.s.sum() * self.moved[i]
        return new


def mechanic(inner: Step, **hypers: float) -> Step:
    """For one parameter alone."""
    one = Mechanic([inner], **hypers)
    return lambda w, g, t: one.step([w], [g])[0]


def mgup(share: float = 0.5) -> Step:
    def turn(u, w, g):
        return u * np.where(u * g > np.quantile(u * g, 1 - share), 1 / share, share)

    return adamw(turn)
