"""Schedules as anybody writes them for torch's LambdaLR: the factor on the base lr at step t, which starts at 1."""

from __future__ import annotations

import math


def constant_factor(t: float, warmup: float = 0) -> float:
    return t / warmup if t < warmup else 1.0


def linear_factor(t: float, total: float, warmup: float = 0, final: float = 0.0) -> float:
    if t < warmup:
        return t / warmup
    if t > total:
        return final
    progress = (t - warmup) / (total - warmup)
    return (1 - progress) + progress * final


def cosine_factor(t: float, total: float, warmup: float = 0, final: float = 0.0) -> float:
    if t < warmup:
        return t / warmup
    if t > total:
        return final
    progress = (t - warmup) / (total - warmup)
    return final + 0.5 * (1 - final) * (1 + math.cos(math.pi * progress))


def wsd_factor(t: float, total: float, warmup: float = 0, decay: float = 0.2, final: float = 0.0) -> float:
    start = total - decay * total
    if t < warmup:
        return t / warmup
    if t <= start:
        return 1.0
    if t > total:
        return final
    progress = (t - start) / (total - start)
    return 1 - (1 - final) * progress


def power_cool_factor(t: float, total: float, warmup: float = 0, exponent: float = 1.2, flat: float = 0.2) -> float:
    if t < warmup:
        return t / warmup
    return min(1.0, (max(0.0, total - t) / (total * (1 - flat))) ** exponent)
