"""What operators mean in NumPy, on arrays with two dimensions.

Nothing here is shared with what a target writes. NumPy is imported late: checking a spec needs no arrays.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


def lazy_numpy() -> Any:
    import numpy

    return numpy


def numpy_function(name: str) -> Callable[..., Any]:
    def call(*arguments: Any) -> Any:
        return getattr(lazy_numpy(), name)(*arguments)

    return call


def axis_of(axis: str) -> Any:
    return {"all": (0, 1), "row": 1, "col": 0}[axis]


def reduced(reduce: Callable[..., Any]) -> Callable[..., Any]:
    """A reduction of a product of arrays over an axis, dimensions kept."""

    def call(*arguments: Any) -> Any:
        *arrays, axis = arguments
        whole = lazy_numpy().broadcast_arrays(*arrays)
        return reduce(lazy_numpy(), *whole, axis=axis_of(axis))

    return call


def symmetric_part(x: Any) -> Any:
    return (x + x.T) / 2


def reference_inverse_root(s: Any, p: float, eps: float) -> Any:
    np = lazy_numpy()
    if not np.isfinite(s).all():
        return np.full_like(s, np.nan)
    values, vectors = np.linalg.eigh(symmetric_part(s))
    return (vectors * (np.maximum(values, 0) + eps) ** (-1 / p)) @ vectors.T


def reference_mpower(s: Any, ridge: Any, a: float) -> Any:
    np = lazy_numpy()

    def root(symmetric: Any) -> Any:
        values, vectors = np.linalg.eigh(symmetric)
        return (vectors * (np.maximum(values, 0) + ridge) ** a) @ vectors.T

    return factored(root, symmetric_part(s))


def reference_eigenvalues(s: Any) -> Any:
    np = lazy_numpy()
    return np.linalg.eigvalsh(symmetric_part(s))[None] if np.isfinite(s).all() else np.full_like(s[:1], np.nan)


def along_axis(function: Callable[..., Any], x: Any, axis: str) -> Any:
    """function(values) for all values along the axis, in the order of their places; its result lies there."""
    if axis == "all":
        found = function(x.reshape(1, -1))
        return found.reshape(x.shape if found.size == x.size else (1, 1))
    return function(x) if axis == "row" else function(x.T).T


def reference_rank(x: Any, axis: str) -> Any:
    np = lazy_numpy()
    return along_axis(lambda lines: lines.argsort(axis=1, kind="stable").argsort(axis=1) + 0.0, np.asarray(x), axis)


def reference_quantile(x: Any, q: float, axis: str) -> Any:
    np = lazy_numpy()

    def of_lines(lines: Any) -> Any:
        ordered = np.sort(lines, axis=1)
        place = q * (lines.shape[1] - 1)
        first, share = int(place), place % 1
        found = ordered[:, first : first + 1]
        if share:
            found = (1 - share) * found + share * ordered[:, first + 1 : first + 2]
        return np.where(np.isnan(ordered[:, -1:]), np.nan, found)

    return along_axis(of_lines, np.asarray(x), axis)


def reference_eigenbasis(s: Any) -> Any:
    np = lazy_numpy()
    if not np.isfinite(s).all():
        return np.full_like(s, np.nan)
    _, vectors = np.linalg.eigh(symmetric_part(s))
    largest = np.abs(vectors).argmax(axis=0)
    return vectors * np.where(vectors[largest, np.arange(vectors.shape[1])] < 0, -1.0, 1.0)


def factored(function: Callable[..., Any], *matrices: Any) -> Any:
    """function(*matrices), which has the shape of the last; NaN where these are not finite, or have no such factor."""
    np = lazy_numpy()
    if all(np.isfinite(each).all() for each in matrices):
        try:
            return function(*matrices)
        except np.linalg.LinAlgError:
            pass
    return np.full_like(matrices[-1], np.nan)


def reference_qr(x: Any) -> Any:
    np = lazy_numpy()

    def factor(square: Any) -> Any:
        q, r = np.linalg.qr(square)
        return q * np.where(np.diagonal(r) < 0, -1.0, 1.0)

    return factored(factor, x)


def reference_index(of: Any, per: str) -> Any:
    return reference_place(per, (len(of), 1) if per == "row" else (1, of.shape[1]))


def reference_place(per: str, size: tuple[int, int]) -> Any:
    np = lazy_numpy()
    return np.arange(float(np.prod(size))).reshape(size)


def reference_solve(s: Any, b: Any) -> Any:
    return factored(lazy_numpy().linalg.solve, s, b)


def reference_cholesky(s: Any) -> Any:
    return factored(lazy_numpy().linalg.cholesky, symmetric_part(s))


KELLER_JORDAN = (3.4445, -4.7750, 2.0315)
EXACT = (2.0, -1.5, 0.5)
POLAR_EXPRESS = (
    (8.28721201814563, -23.595886519098837, 17.300387312530933),
    (4.107059111542203, -2.9478499167379106, 0.5448431082926601),
    (3.9486908534822946, -2.908902115962949, 0.5518191394370137),
    (3.3184196573706015, -2.488488024314874, 0.51004894012372),
    (2.300652019954817, -1.6689039845747493, 0.4188073119525673),
    (1.891301407787398, -1.2679958271945868, 0.37680408948524835),
    (1.8750014808534479, -1.2500016453999487, 0.3750001645474248),
    (1.875, -1.25, 0.375),
)


def orthogonalization_coefficients(steps: int, method: str) -> list[tuple[float, float, float]]:
    """The (a, b, c) of each step; polar express with its 1.01 safety on all steps but the last."""
    if method == "newton_schulz":
        return [KELLER_JORDAN] * steps
    if method == "exact":
        return [EXACT] * steps
    raw = [POLAR_EXPRESS[min(step, 7)] for step in range(steps)]
    safe = [(a / 1.01, b / 1.01**3, c / 1.01**5) for a, b, c in raw[:-1]]
    return safe + raw[-1:]


def schatten4_norm(x: Any) -> Any:
    """(sum of s^4)^(1/4) over the singular values s: the root of the Gram matrix's norm."""
    np = lazy_numpy()
    largest = np.abs(x).max(initial=0.0)
    return largest * np.sqrt(np.linalg.norm((x / largest).T @ (x / largest))) if largest > 0 else largest


def reference_orthogonalize(x: Any, steps: float, method: str, coefficients: Any, eps: float, scale: str) -> Any:
    np = lazy_numpy()
    if method == "svd" and not coefficients:
        if not np.isfinite(x).all():
            return np.full_like(x, np.nan)
        u, _, vt = np.linalg.svd(x, full_matrices=False)
        return np.where(x.any(1, keepdims=True) & x.any(0, keepdims=True), u @ vt, 0.0)
    triples = coefficients or orthogonalization_coefficients(int(steps), method)
    norm = schatten4_norm(x) if scale == "schatten4" else np.linalg.norm(x)
    y = x / max(norm * (1.01 if method == "polar_express" and not coefficients else 1.0) + eps, 1e-30)
    for a, b, c in triples:
        gram = y @ y.T
        y = a * y + (b * gram + c * gram @ gram) @ y
    return y


def reference_power(x: Any, y: Any) -> Any:
    np = lazy_numpy()
    root = np.sqrt(x)
    return np.where(y == 0.5, root, np.where(y == -0.5, 1 / root, np.power(x, y)))


def reference_sign(x: Any) -> Any:
    return (x > 0) * 1.0 - (x < 0) * 1.0
