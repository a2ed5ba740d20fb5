"""What people write who come from Python, torch or a paper, and how it is said here."""

from __future__ import annotations

# Values by the names that they have elsewhere.
VALUES = {
    **dict.fromkeys(("g", "gradient", "gradients", "G"), "grad"),
    **dict.fromkeys(("w", "W", "p", "param", "params", "parameter", "theta", "weights"), "weight"),
    **dict.fromkeys(("step", "steps", "iteration", "iterations", "k", "n_steps"), "t"),
    **dict.fromkeys(("nrows", "n_rows", "num_rows", "out_features"), "rows"),
    **dict.fromkeys(("ncols", "n_cols", "num_cols", "in_features", "columns"), "cols"),
    **dict.fromkeys(("True", "TRUE"), "true"),
    **dict.fromkeys(("False", "FALSE"), "false"),
    "infinity": "inf",
    "column": "col",
}

# Functions by the names that they have elsewhere.
FUNCTIONS = {
    **dict.fromkeys(("pow", "power"), "x^y"),
    "square": "x^2",
    **dict.fromkeys(("matmul", "mm", "bmm"), "x @ y"),
    **dict.fromkeys(("transpose", "T", "t"), "x'"),
    **dict.fromkeys(("select", "cond"), "a if condition else b"),
    **dict.fromkeys(("clip", "clamp_min"), "clamp(x, lo, hi)"),
    **dict.fromkeys(("maximum", "fmax"), "max(x, y)"),
    **dict.fromkeys(("minimum", "fmin"), "min(x, y)"),
    "relu": "max(x, 0)",
    "rsqrt": "1 / sqrt(x)",
    "reciprocal": "1 / x",
    **dict.fromkeys(("numel", "size", "len"), "rows * cols"),
    **dict.fromkeys(("frobenius_norm", "fro", "l2"), "norm(x)"),
    **dict.fromkeys(("inner", "vdot"), "dot(x, y)"),
    **dict.fromkeys(("newton_schulz", "newtonschulz5", "zeropower", "msign", "polar"), "orthogonalize(x)"),
    "svd": 'orthogonalize(x, method="svd")',
    **dict.fromkeys(("inv", "inverse"), "inverse_root(s, 1)"),
    **dict.fromkeys(("eigh", "eig"), "eigenbasis(s)"),
    **dict.fromkeys(("I", "eye"), "identity(s)"),
    **dict.fromkeys(("argsort", "topk"), "rank(x)"),
    **dict.fromkeys(("kthvalue", "percentile"), "quantile(x, q)"),
    **dict.fromkeys(("matrix_power", "matrix_sqrt", "sqrtm"), "mpower(s, p)"),
    **dict.fromkeys(("eigvalsh", "eigvals"), "eigenvalues(s)"),
    **dict.fromkeys(("diag", "diagflat"), "diagonal(s)"),
    "tril": "lower(s)",
    "triu": "upper(s)",
    **dict.fromkeys(("arange", "iota", "indices"), "index(row)"),
    **dict.fromkeys(("lstsq", "lu", "solve_triangular"), "solve(s, b)"),
    **dict.fromkeys(("arctan", "atan2", "arctan2"), "atan(y / x)"),
    **dict.fromkeys(("lerp", "moving_average"), "ema(x, decay)"),
    **dict.fromkeys(("last", "previous", "pre", "delay", "old"), "prev(x)"),
    "all_reduce": "total(x)",
    **dict.fromkeys(("rand", "random", "dropout"), "uniform()"),
    **dict.fromkeys(("randn", "gaussian", "noise", "gauss"), "normal()"),
    **dict.fromkeys(("rademacher", "random_sign"), "sign_noise()"),
    "bernoulli": "1 if uniform() < p else 0",
    "float": "1 if condition else 0",
    "int": "floor(x)",
    "std": "sqrt(mean((x - mean(x))^2))",
    "var": "mean((x - mean(x))^2)",
}

# What the language does not have, under whatever name: no name that is there means nearly the same.
ABSENT = {
    "step": "the rules of a wrapper call `step`, once each, and nothing else does",
    **dict.fromkeys(("sort", "argmax", "argmin"), "elements stay in their places: `rank(x)` numbers them by size"),
}
