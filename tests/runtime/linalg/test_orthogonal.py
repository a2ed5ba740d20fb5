"""`orthogonalize`: its accuracy by dtype and form, what it is while torch traces, and products that are symmetric."""

from __future__ import annotations

import importlib.util
import math
import re
import sys
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor
from torch._subclasses import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx

from optforge import runtime
from optforge.compiler.targets.torch.render import render_standalone
from optforge.runtime import explain_orthogonalize, iterate_in, orthogonalize, symmetric_products
from optforge.runtime.linalg import orthogonal, symmetric

SPECS = Path(__file__).parents[3] / "specs"
ONE = orthogonal._Divisor()
NS = (3.4445, -4.7750, 2.0315)
ASK_ONEDNN = orthogonal._onednn_multiplies_bfloat16  # the function itself, which --bfloat16 replaces


@pytest.fixture(autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    yield
    torch.set_num_threads(threads)


def with_spectrum(rows: int, cols: int, sigma: Tensor) -> Tensor:
    u = torch.linalg.qr(torch.randn(rows, rows, dtype=torch.float64))[0]
    v = torch.linalg.qr(torch.randn(cols, cols, dtype=torch.float64))[0]
    k = len(sigma)
    return u[:, :k] * sigma @ v[:, :k].mT


def on_singular_values(x: Tensor, triples, margin: float = 1.0, divide: bool = True) -> Tensor:
    """What the iteration does, by the map on singular values."""
    u, s, vh = torch.linalg.svd(x.double(), full_matrices=False)
    s = s / (s.square().sum(-1, keepdim=True).sqrt() * margin) if divide else s
    for a, b, c in triples:
        s = a * s + b * s**3 + c * s**5
    return (u * s.unsqueeze(-2)) @ vh


def spectra(k: int, l: int) -> dict[str, Tensor]:
    return {
        "gaussian": torch.randn(k, l, dtype=torch.float64),
        "log-spaced": with_spectrum(k, l, torch.logspace(0, -6, min(k, l), dtype=torch.float64)),
        "rank 8": torch.randn(k, 8, dtype=torch.float64) @ torch.randn(8, l, dtype=torch.float64),
    }


# -- the map on singular values ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(24, 24), (24, 80), (80, 24), (2, 3, 20, 33), (1, 7), (7, 1)])
@pytest.mark.parametrize("name", ["gaussian", "log-spaced", "rank 8"])
def test_orthogonalize_follows_the_map_on_singular_values(shape, name):
    x = spectra(*shape[-2:])[name] if len(shape) == 2 and min(shape) > 8 else torch.randn(shape, dtype=torch.float64)
    torch.testing.assert_close(orthogonalize(x), on_singular_values(x, [NS] * 5), rtol=0, atol=1e-11)
    torch.testing.assert_close(orthogonalize(x, steps=3), on_singular_values(x, [NS] * 3), rtol=0, atol=1e-11)
    exact = on_singular_values(x, [(2, -1.5, 0.5)] * 7)
    torch.testing.assert_close(orthogonalize(x, 7, "exact"), exact, rtol=0, atol=1e-11)
    explicit = on_singular_values(x, [NS, (2, -1.5, 0.5)])
    torch.testing.assert_close(orthogonalize(x, coefficients=(NS, (2, -1.5, 0.5))), explicit, rtol=0, atol=1e-11)
    single = orthogonalize(x.float())
    assert single.dtype == torch.float32
    torch.testing.assert_close(single.double(), on_singular_values(x.float(), [NS] * 5), rtol=0, atol=5e-4)


def test_polar_express_uses_its_table_with_a_margin_except_for_the_last_step():
    triples = orthogonal._triples("polar_express", 10)
    assert len(triples) == 10 and triples[-1] == (1.875, -1.25, 0.375)
    assert triples[0] == (8.28721201814563 / 1.01, -23.595886519098837 / 1.01**3, 17.300387312530933 / 1.01**5)
    assert triples[8] == (1.875 / 1.01, -1.25 / 1.01**3, 0.375 / 1.01**5)
    assert orthogonal._triples("polar_express", 3)[2] == (3.9486908534822946, -2.908902115962949, 0.5518191394370137)
    x = torch.randn(12, 30, dtype=torch.float64)
    for steps_ in (1, 5, 8, 11):
        expected = on_singular_values(x, orthogonal._triples("polar_express", steps_), 1.01)
        torch.testing.assert_close(orthogonalize(x, steps_, "polar_express"), expected, rtol=0, atol=1e-11)
    torch.testing.assert_close(
        orthogonalize(x, 12, "polar_express"), orthogonalize(x, method="svd"), rtol=0, atol=1e-10
    )


@pytest.mark.parametrize("shape", [(24, 80), (80, 24), (2, 3, 20, 33), (1, 7)])
@pytest.mark.parametrize("method, margin", [("exact", 1.0), ("polar_express", 1.01)])
def test_what_divides_the_matrix_is_a_norm_and_eps(shape, method, margin):
    x = torch.randn(shape, dtype=torch.float64)
    frobenius = torch.linalg.matrix_norm(x, keepdim=True)
    schatten4 = torch.linalg.svdvals(x).pow(4).sum(-1).pow(0.25)[..., None, None]
    triples = orthogonal._triples(method, 3)
    for eps in (0, 1e-7, 0.5):
        for scale, norm in (("frobenius", frobenius), ("schatten4", schatten4)):
            unit = x / (norm * margin + eps)
            expected = on_singular_values(unit, triples, divide=False)
            found = orthogonalize(x, 3, method, eps=eps, scale=scale)
            torch.testing.assert_close(found, expected, rtol=0, atol=1e-11)
            single = orthogonalize(x.float(), 3, method, eps=eps, scale=scale)
            torch.testing.assert_close(single.double(), expected, rtol=0, atol=5e-5)
    assert torch.equal(orthogonalize(x, method="svd", eps=0.5, scale="schatten4"), orthogonalize(x, method="svd"))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_beside_eps_small_matrices_stay_small_and_the_schatten_norm_knows_no_size(dtype):
    x = torch.randn(40, 64).to(dtype)
    assert float(orthogonalize(1e-20 * x, 3, eps=1e-7).norm()) < 1e-9
    expected = orthogonalize(x, scale="schatten4")
    for size in (1e-24, 1e24):
        torch.testing.assert_close(orthogonalize(size * x, scale="schatten4"), expected, rtol=1e-2, atol=1e-2)
    assert (orthogonalize(0 * x, scale="schatten4", eps=0) == 0).all()


def test_the_derivative_of_a_schatten_norm_is_finite_at_zero():
    x = torch.zeros(2, 4, 6, dtype=torch.float64)
    x[1] = torch.randn(4, 6)
    x.requires_grad_()
    orthogonalize(x, 2, eps=1e-3, scale="schatten4").sum().backward()
    assert x.grad.isfinite().all() and (x.grad[1] != 0).any()


@pytest.mark.parametrize(
    "arguments, said",
    [({"eps": -1e-7}, "invalid eps=-1e-07"), ({"eps": math.nan}, "invalid eps=nan"), ({"eps": "a"}, "invalid eps='a'"),
     ({"scale": "schatten"}, "did you mean 'schatten4'")],
)  # fmt: skip
def test_no_divisor_is_an_error(arguments, said):
    for method in ("exact", "svd"):
        with pytest.raises(ValueError, match=said):
            orthogonalize(torch.eye(3), method=method, **arguments)


def test_svd_gives_an_orthogonal_matrix():
    x = torch.randn(3, 5, 9, dtype=torch.float64)
    o = orthogonalize(x, method="svd")
    torch.testing.assert_close(o @ o.mT, torch.eye(5, dtype=torch.float64).expand(3, 5, 5))
    assert ((o * x).sum((-2, -1)) - torch.linalg.matrix_norm(x, "nuc")).abs().max() < 1e-12


@pytest.mark.parametrize("method", ["newton_schulz", "polar_express", "exact", "svd"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_orthogonalize_of_extreme_matrices(method, dtype):
    x = torch.randn(4, 6, 5).to(dtype)
    x[1] = 0
    x[2, 0, 0] = math.nan
    x[3, 1, 1] = math.inf
    o = orthogonalize(x, method=method)
    assert o.dtype == dtype and o.shape == x.shape
    assert o[0].isfinite().all() and (o[1] == 0).all() and o[2].isnan().all() and o[3].isnan().all()
    for scale in (1e-24, 1e24):
        torch.testing.assert_close(orthogonalize(x[:1] * scale, method=method), o[:1], rtol=1e-2, atol=1e-2)


def test_unknown_method_is_an_error():
    with pytest.raises(ValueError, match="did you mean 'polar_express'"):
        orthogonalize(torch.eye(3), method="polar_expres")
    with pytest.raises(ValueError, match="a whole number is expected"):
        orthogonalize(torch.eye(3), steps=2.5)


@pytest.mark.parametrize("shape", [(0, 4, 5), (2, 0, 5), (2, 4, 0)])
def test_empty_matrices_stay_empty(shape):
    assert orthogonalize(torch.empty(shape)).shape == shape


def test_the_layout_of_the_argument_changes_no_bit():
    x = torch.randn(3, 20, 50)
    turned, spread = x.mT.contiguous().mT, torch.randn(3, 20, 100)[..., ::2].copy_(x)
    for other in (turned, spread):
        assert not other.is_contiguous()
        assert torch.equal(orthogonalize(other), orthogonalize(x))
        assert all(orthogonalize(other, steps=steps).is_contiguous() for steps in (0, 5))


# -- the form by dtype -------------------------------------------------------------------------------------------------


def tables() -> dict[str, list[tuple[float, float, float]]]:
    """The coefficients of all methods, and of every spec that writes its own."""
    found = {
        f"{method} {steps}": orthogonal._triples(method, steps)
        for method, steps in (("newton_schulz", 5), ("newton_schulz", 10), ("polar_express", 5), ("polar_express", 8))
    }
    found |= {f"exact {steps}": orthogonal._triples("exact", steps) for steps in (7, 12)}
    for path in sorted(SPECS.glob("*.opt")):
        if listed := re.search(r"coefficients=\(([\s\S]*?)\n\s*\)\n", path.read_text()):
            numbers = [float(number) for number in re.findall(r"-?\d+(?:\.\d+)?", listed[1])]
            found[path.stem] = list(zip(*[iter(numbers)] * 3, strict=True))
    return found


TABLES = tables()
assert {"muon_cans", "muon_cubic", "muon_deepseek", "muon_you_jiacheng"} <= TABLES.keys()

# How far the Gram form may be from the map, relative to the step (Frobenius): times the plain form's error, or this.
TIMES_PLAIN, AT_LEAST = 3, {torch.float64: 1e-12, torch.float32: 2e-3, torch.float16: 0.004, torch.bfloat16: 0.03}


def errors(dtype: torch.dtype, triples, x: Tensor) -> tuple[float, float]:
    """The relative errors of the plain form and of the chosen one, iterating in dtype from the same start."""
    start = (x / x.norm())[None].to(dtype)
    expected = on_singular_values(start, triples, divide=False)
    pieces = orthogonal._pieces(start.shape, dtype, start.device, triples)
    results = orthogonal._iterate(start, triples), orthogonal._iterate_pieces(start, pieces)
    plain, chosen = (float((o.double() - expected).norm() / expected.norm()) for o in results)
    largest, *others = (torch.linalg.matrix_norm(o.double(), 2).max() for o in (results[1], results[0], expected))
    assert largest < 1.1 * max(others)
    return plain, chosen


@pytest.mark.parametrize("name", TABLES)
@pytest.mark.parametrize("dtype", AT_LEAST)
def test_the_gram_form_is_as_accurate_as_its_dtype_allows(dtype, name):
    for shape in ((40, 100), (80, 32)):
        for spectrum, x in spectra(*shape).items():
            plain, chosen = errors(dtype, TABLES[name], x)
            assert chosen < max(TIMES_PLAIN * plain, AT_LEAST[dtype]), (spectrum, plain, chosen)


def test_where_the_gram_form_restarts():
    def restarts(method, steps, dtype):
        return orthogonal._restarts(dtype, orthogonal._triples(method, steps))

    half, low, single, double = torch.float16, torch.bfloat16, torch.float32, torch.float64
    assert [restarts("newton_schulz", 5, d) for d in (double, single, half, low)] == [[4], [], [2, 4], [2, 4]]
    assert [restarts("newton_schulz", 10, d) for d in (single, low)] == [[5], [2, 4, 6, 8]]
    assert [restarts("polar_express", 5, d) for d in (double, single, half, low)] == [[2], [2], [1, 2, 3], [1, 2, 3, 4]]
    assert [restarts("exact", 7, d) for d in (double, single, half, low)] == [[], [], [3, 6], [2, 4, 6]]
    assert orthogonal._restarts(single, TABLES["muon_cans"]) == [1, 3]
    assert restarts("newton_schulz", 1, low) == restarts("newton_schulz", 0, low) == []


@pytest.mark.parametrize(
    "dtype, steps, method", [(torch.bfloat16, 10, "newton_schulz"), (torch.float32, 8, "polar_express")]
)
def test_without_restarts_the_gram_form_would_be_wrong(dtype, steps, method):
    triples = orthogonal._triples(method, steps)
    start = spectra(40, 100)["log-spaced"][None]
    start = (start / start.norm()).to(dtype)
    expected = on_singular_values(start, triples, divide=False)
    whole = orthogonal._iterate_gram(start, triples).double()
    kept = orthogonal._iterate_pieces(start, orthogonal._pieces(start.shape, dtype, start.device, triples)).double()
    assert not (whole - expected).norm() < 4 * (kept - expected).norm()


def test_where_the_plain_form_is_kept():
    def longest(shape, dtype, triples):
        return max(map(len, orthogonal._pieces(shape, dtype, torch.device("cpu"), triples)))

    five = [NS] * 5
    assert longest((1, 40, 61), torch.float32, five) == longest((61, 40), torch.float32, five) == 5
    assert longest((1, 40, 60), torch.float32, five) == longest((31, 100), torch.float32, five) == 1
    assert longest((40, 100), torch.bfloat16, five) == 2
    assert longest((40, 100), torch.bfloat16, [(9.0, -20.0, 12.0)] * 5) == 1
    for precision in ("high", "medium"):
        torch.set_float32_matmul_precision(precision)
        try:
            assert longest((40, 100), torch.float32, five) == 1
            assert longest((40, 100), torch.float64, five) == 4
        finally:
            torch.set_float32_matmul_precision("highest")
    assert longest((40, 100), torch.float32, five) == 5


def test_products_in_tf32_keep_the_plain_form_for_a_reason(monkeypatch):
    """With operands rounded to TF32 the plain form is ten times nearer to the map on an ill-conditioned matrix."""
    product = torch.bmm, torch.baddbmm

    def rounded(x):
        return (x.view(torch.int32) + (1 << 12) & -(1 << 13)).view(torch.float32)

    monkeypatch.setattr(torch, "bmm", lambda a, b: product[0](rounded(a), rounded(b)))
    monkeypatch.setattr(torch, "baddbmm", lambda c, a, b, **kw: product[1](c, rounded(a), rounded(b), **kw))
    plain, gram = errors(torch.float32, [NS] * 5, spectra(40, 100)["log-spaced"])
    assert 10 * plain < gram


@pytest.mark.parametrize("k, l", [(48, 96), (40, 160)])
def test_gram_form_equals_the_plain_form_to_rounding(k, l):
    for name, x in spectra(k, l).items():
        unit = (x / x.norm())[None]
        plain = orthogonal._iterate(unit, [NS] * 5)
        for turned in (unit, unit.mT):
            gram = orthogonal._iterate_gram(turned, [NS] * 5)
            assert ((gram if turned is unit else gram.mT) - plain).norm() < 1e-12 * plain.norm(), name


def test_orthogonalize_has_a_derivative(monkeypatch):
    monkeypatch.setattr(symmetric, "SYMMETRIC_BLOCK", 4)
    for shape in ((6, 20), (40, 100)):
        x = torch.randn(shape, requires_grad=True)
        orthogonalize(x).square().sum().backward()
        y = x.detach().double().requires_grad_()
        orthogonalize(y).square().sum().backward()
        assert (x.grad - y.grad).norm() < 1e-3 * y.grad.norm()
        with torch.no_grad():
            assert not orthogonalize(x).requires_grad and torch.equal(orthogonalize(x), orthogonalize(x.detach()))
    small = torch.randn(3, 5, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda z: orthogonalize(z, steps=2), (small,))


# -- the dtype of the iteration ----------------------------------------------------------------------------------------


@pytest.fixture
def processor(monkeypatch):
    """Says what the machine is, as far as the dtype of the iteration asks for it."""

    def become(name="x86_64", onednn=True, avx512_bf16=False, built=True, enabled=True):
        matmul = torch.backends.mkldnn.matmul
        backend = SimpleNamespace(is_available=lambda: built, enabled=enabled, matmul=matmul)
        monkeypatch.setattr(torch.backends, "mkldnn", backend)
        monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: onednn, raising=False)
        monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: avx512_bf16)
        monkeypatch.setattr(orthogonal.platform, "machine", lambda: name)
        monkeypatch.setattr(orthogonal, "_onednn_multiplies_bfloat16", ASK_ONEDNN)

    return become


@pytest.mark.parametrize(
    "machine, fast",
    [
        pytest.param({"avx512_bf16": True}, True, id="AVX512-BF16, with or without AMX"),
        pytest.param({"name": "AMD64", "avx512_bf16": True}, True, id="as Windows calls it"),
        pytest.param({"onednn": False}, False, id="AVX2"),
        pytest.param({}, False, id="AVX-512 that emulates"),
        pytest.param({"name": "AMD64"}, False, id="AVX-512 that emulates, on Windows"),
        pytest.param({"avx512_bf16": True, "onednn": False}, False, id="oneDNN is told to use AVX2"),
        pytest.param({"avx512_bf16": True, "enabled": False}, False, id="oneDNN is switched off"),
        pytest.param({"name": "aarch64"}, True, id="Arm with BF16"),
        pytest.param({"name": "aarch64", "onednn": False}, False, id="Arm without"),
        pytest.param({"name": "arm64", "built": False}, False, id="no oneDNN"),
    ],
)
def test_the_dtype_follows_what_the_processor_multiplies(machine, fast, processor):
    processor(**machine)
    low = torch.bfloat16 if fast else torch.float32
    for shape in ((128, 128), (2, 300, 128), (128, 4000)):
        assert f" in {str(low).removeprefix('torch.')}, " in explain_orthogonalize(shape)
        for dtype in (torch.float32, torch.bfloat16, torch.float16):
            assert orthogonal._divide_by_norms(torch.zeros(shape, dtype=dtype), ONE).dtype == low
        assert orthogonal._divide_by_norms(torch.zeros(shape, dtype=torch.float64), ONE).dtype == torch.float64
        with iterate_in(torch.float16):
            assert orthogonal._divide_by_norms(torch.zeros(shape), ONE).dtype == torch.float16
    for shape in ((127, 127), (127, 4000), (4000, 2, 127)):
        assert " in float32, " in explain_orthogonalize(shape)
        assert orthogonal._divide_by_norms(torch.zeros(shape, dtype=torch.bfloat16), ONE).dtype == torch.float32


def test_a_processor_that_multiplies_bfloat16_does_so():
    """The dtype is what the result shows, not only what is said: of 8 bits, and of the precision that they allow."""
    x = torch.randn(128, 130, generator=torch.Generator().manual_seed(0))
    with pytest.MonkeyPatch.context() as patch:
        found = {}
        for fast in (True, False):
            patch.setattr(orthogonal, "_multiplies_bfloat16", lambda device, fast=fast: fast)
            found[fast] = orthogonalize(x).double()
    expected = on_singular_values(x, [NS] * 5)
    low, single = ((found[fast] - expected).norm() / expected.norm() for fast in (True, False))
    assert single < 1e-4 and 1e-3 < low < 0.1
    assert torch.equal(found[True], found[True].bfloat16().double())


def test_orthogonalize_iterates_where_it_is_told():
    x = torch.randn(8, 16)
    with iterate_in(torch.bfloat16):
        low = orthogonalize(x)
        with iterate_in(torch.float64):
            high = orthogonalize(x)
        assert torch.equal(orthogonalize(x), low)
    assert low.dtype == high.dtype == torch.float32
    assert torch.equal(low, low.bfloat16().float()) and not torch.equal(low, high)
    torch.testing.assert_close(high.double(), on_singular_values(x, [NS] * 5), rtol=0, atol=1e-7)
    usual = orthogonalize(x)
    with pytest.raises(ZeroDivisionError), iterate_in(torch.bfloat16):
        raise ZeroDivisionError
    assert torch.equal(orthogonalize(x), usual) and not torch.equal(usual, low)


def test_threads_do_not_disturb_each_other():
    x = torch.randn(8, 16)
    meet = threading.Barrier(3, timeout=30)
    seen = {}

    def run(name, dtype):
        with iterate_in(dtype), symmetric_products(name):
            meet.wait()
            seen[name] = orthogonalize(x), symmetric._choose_way()
            meet.wait()

    threads = [
        threading.Thread(target=run, args=case) for case in (("plain", torch.bfloat16), ("triton", torch.float64))
    ]
    for thread in threads:
        thread.start()
    meet.wait()
    mine = orthogonalize(x), symmetric._choose_way()
    meet.wait()
    for thread in threads:
        thread.join()
    for name, dtype in (("plain", torch.bfloat16), ("triton", torch.float64)):
        with iterate_in(dtype):
            assert torch.equal(seen[name][0], orthogonalize(x)) and seen[name][1] == name
    assert torch.equal(mine[0], orthogonalize(x)) and mine[1] == "measured"


def test_autocast_does_not_reach_the_iteration():
    x = torch.randn(32, 80)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = orthogonalize(x)
    assert torch.equal(inside, orthogonalize(x))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_every_path_runs_on_fake_cuda_tensors(dtype, monkeypatch):
    """Shapes, dtypes and devices only: what a machine without CUDA can say."""
    monkeypatch.setattr(orthogonal, "_multiplies_bfloat16", lambda device: device.type == "cuda")
    inside = []
    pieces = orthogonal._iterate_pieces
    monkeypatch.setattr(orthogonal, "_iterate_pieces", lambda x, p: inside.append(x) or pieces(x, p))
    with FakeTensorMode():
        for shape in ((2, 30, 60), (60, 30), (3, 30, 30)):
            x = torch.empty(shape, dtype=dtype, device="cuda")
            for out in (orthogonalize(x), orthogonal._orthogonalize(x, [NS] * 5, ONE)):
                assert out.device.type == "cuda" and out.dtype == dtype and out.shape == shape
    assert {x.dtype for x in inside} == {torch.float64 if dtype == torch.float64 else torch.bfloat16}
    for needs_derivative in (False, True):
        out = orthogonalize(torch.empty(4, 9, device="meta", dtype=dtype, requires_grad=needs_derivative))
        assert out.shape == (4, 9) and out.dtype == dtype and out.requires_grad is needs_derivative


def test_explanations_say_what_is_done(monkeypatch):
    assert explain_orthogonalize((40, 100)) == (
        "40×100 float32 on cpu: 5 steps in float32, Gram form; symmetric products plain"
    )
    monkeypatch.setattr(orthogonal, "_multiplies_bfloat16", lambda device: False)
    assert explain_orthogonalize((500, 500), torch.float64, method="exact", steps=7) == (
        "500×500 float64 on cpu: 7 steps in float64, plain form; symmetric products by blocks of at most 384"
    )
    assert explain_orthogonalize((3, 4), method="svd") == "3×4 float32: singular value decomposition"
    with iterate_in(torch.bfloat16):
        assert "5 steps in bfloat16, Gram form, restarted after step 2, 4;" in explain_orthogonalize((40, 100))
    monkeypatch.setattr(orthogonal, "_multiplies_bfloat16", lambda device: True)
    on_cuda = explain_orthogonalize((48, 768, 3072), device="cuda")
    assert on_cuda == (
        "48×768×3072 float32 on cuda: 5 steps in bfloat16, Gram form, restarted after step 2, 4; "
        "symmetric products plain or by a kernel, as measured at the first"
    )
    with symmetric_products("triton"):
        assert explain_orthogonalize((48, 768, 3072), device="cuda").endswith("symmetric products by Triton")
    with pytest.raises(ValueError, match="unknown method"):
        explain_orthogonalize((3, 4), method="sdv")


# -- while torch traces ------------------------------------------------------------------------------------------------


def graph_of(function, *args) -> list[str]:
    """The calls in the graph that torch.compile makes of the function."""
    calls = []

    def backend(module, inputs):
        calls.extend(str(node.target) for node in module.graph.nodes if node.op.startswith("call"))
        return module.forward

    torch._dynamo.reset()
    torch.compile(function, fullgraph=True, backend=backend)(*args)
    return calls


def test_a_compiled_program_has_one_operator_whatever_the_steps():
    x = torch.randn(5, 9)
    for steps in (1, 5, 50):
        assert graph_of(lambda x, steps=steps: orthogonalize(x, steps=steps), x) == [str(orthogonal._operator)]
    assert len(graph_of(lambda x: orthogonalize(x), x.requires_grad_())) > 10


def step_of_two(weight, x):
    return weight - 0.5 * orthogonalize(x * 2.0) + orthogonalize(x.mT, 4, "polar_express").mT


def test_compiled_programs_give_the_bits_of_eager_ones(monkeypatch):
    """Where the same kernels run, one after another."""
    monkeypatch.setattr(symmetric, "SYMMETRIC_BLOCK", 16)
    torch._dynamo.reset()
    compiled = torch.compile(step_of_two, fullgraph=True, backend="aot_eager")
    weight, x = torch.randn(2, 20, 50), torch.randn(2, 20, 50)
    usual = step_of_two(weight, x)
    assert torch.equal(compiled(weight, x), usual)
    with iterate_in(torch.bfloat16):
        here = step_of_two(weight, x)
        assert torch.equal(compiled(weight, x), here) and not torch.equal(here, usual)


@pytest.mark.wide
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_programs_compiled_by_inductor_round_as_they_like(dtype, monkeypatch):
    """Its loops may contract and reorder; that is as much as inputs that are a rounding away make of a step."""
    monkeypatch.setattr(symmetric, "SYMMETRIC_BLOCK", 16)
    torch._dynamo.reset()
    compiled = torch.compile(step_of_two, fullgraph=True)
    weight, x = torch.randn(2, 20, 50), torch.randn(2, 20, 50)
    with iterate_in(dtype):
        found, expected = compiled(weight, x), step_of_two(weight, x)
        nudges = 1 + torch.finfo(torch.float32).eps * torch.randn(4, 2, 20, 50)
        spread = max((step_of_two(weight * n, x * n) - expected).abs().max() for n in nudges)
    step = (expected - weight).abs().max()
    assert (found - expected).abs().max() <= 4 * spread and 4 * spread < 0.05 * step


@pytest.mark.parametrize("mode", ["real", "fake", "symbolic"])
def test_recorded_programs_give_the_bits_of_eager_ones(mode):
    x = torch.randn(2, 20, 50)
    other = {"eps": 0.25, "scale": "schatten4"}
    graph = make_fx(lambda x: orthogonalize(x, 4, "polar_express", **other), tracing_mode=mode)(x)
    assert torch.equal(graph(x), orthogonalize(x, 4, "polar_express", **other))
    graph = make_fx(lambda x: orthogonalize(x, steps=4), tracing_mode=mode)(x)
    assert [node.target for node in graph.graph.nodes if node.op == "call_function"] == [orthogonal._operator]
    for argument in (x, torch.randn(2, 20, 50)):
        assert torch.equal(graph(argument), orthogonalize(argument, steps=4))
    torch._dynamo.reset()
    compiled = torch.compile(graph, fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(x), orthogonalize(x, steps=4))


@pytest.mark.parametrize(
    "dynamic, shapes", [(False, ((6, 20),)), (True, ((6, 20), (140, 130)))], ids=["static", "dynamic"]
)
def test_compiled_programs_have_the_derivative_of_the_plain_form(dynamic, shapes):
    torch._dynamo.reset()
    loss = torch.compile(
        lambda x: orthogonalize(x).square().sum(), fullgraph=True, backend="aot_eager", dynamic=dynamic
    )
    with iterate_in(torch.float32):
        for shape in shapes:
            x = torch.randn(shape, requires_grad=True)
            loss(x).backward()
            y = x.detach().clone().requires_grad_()
            orthogonalize(y).square().sum().backward()
            assert (x.grad - y.grad).norm() < 1e-3 * y.grad.norm()


def test_the_operator_is_what_torch_expects_of_one():
    x = torch.randn(3, 4, 7)
    numbers = [number for triple in [NS] * 2 for number in triple]
    torch.library.opcheck(orthogonal._operator, (x, numbers, 1.0, 0.0, False))
    torch.library.opcheck(orthogonal._operator, (x.mT, numbers, 1.01, 1e-7, True))


def loaded(name: str, path: Path):
    spec = importlib.util.spec_from_file_location(name, path, submodule_search_locations=[str(path.parent)])
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def test_several_copies_live_in_one_process(tmp_path):
    """The same package under two names, twice under one name, and as one file that is run without being a module."""
    path = Path(runtime.__path__[0]) / "__init__.py"
    copies = [loaded("vendored_one", path), loaded("vendored_two", path)]
    copies.append(loaded("vendored_fresh", path))
    for name in [name for name in sys.modules if name.startswith("vendored_one")]:
        del sys.modules[name]
    copies.append(loaded("vendored_one", path))
    text = render_standalone('"""Nothing."""\n\nfrom __future__ import annotations\n\nHERE = 1\n')
    whole = tmp_path / "whole.py"
    whole.write_text(text)
    alone = loaded("whole", whole)
    bare = {}
    exec(compile(text, "bare", "exec"), bare)
    functions = [copy.orthogonalize for copy in copies] + [alone.orthogonalize, bare["orthogonalize"]]
    operators = [function.__globals__["_operator"] for function in functions]
    assert len({str(operator) for operator in (*operators, orthogonal._operator)}) == 7
    x = torch.randn(5, 9)
    for function in functions:
        torch._dynamo.reset()
        compiled = torch.compile(function, fullgraph=True, backend="aot_eager")
        assert torch.equal(compiled(x), orthogonalize(x))


# -- symmetric products ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("l", [50, 130])
def test_symmetric_products_are_computed_by_blocks(monkeypatch, l):
    x = torch.randn(2, 50, l, dtype=torch.float64) / 70
    plain, gram = orthogonal._iterate(x, [NS] * 5), orthogonal._iterate_gram(x, [NS] * 5)
    monkeypatch.setattr(symmetric, "SYMMETRIC_BLOCK", 16)
    filled, fill = [], symmetric._fill
    monkeypatch.setattr(symmetric, "_fill", lambda out, *rest: (filled.append(out.shape[1:]), fill(out, *rest)))
    product = symmetric._symmetric_product(x, x.mT)
    # Halves of 50 are 25, quarters 12 and 13: four on the diagonal, two below it in the halves, one below the halves.
    assert sorted(filled) == sorted([(12, 12), (13, 13)] * 2 + [(13, 12)] * 2 + [(25, 25)])
    assert torch.equal(product[:, :25, 25:], product[:, 25:, :25].mT)
    torch.testing.assert_close(product, x @ x.mT, rtol=0, atol=1e-14)
    torch.testing.assert_close(orthogonal._iterate(x, [NS] * 5), plain, rtol=0, atol=1e-12)
    torch.testing.assert_close(orthogonal._iterate_gram(x, [NS] * 5), gram, rtol=0, atol=1e-12)
    added = symmetric._symmetric_product(product, product, 0.3, -2.0, product)
    torch.testing.assert_close(added, 0.3 * product @ product - 2 * product, rtol=0, atol=1e-14)


class Machine:
    """A CUDA device and Triton as the choice between their products sees them; times are given by the test."""

    def __init__(self, monkeypatch, times):
        self.times, self.timed, self.capturing = times, [], False
        monkeypatch.setattr(symmetric, "_choices", {})
        monkeypatch.setattr(symmetric, "_suits_triton", lambda a: True)
        monkeypatch.setattr(symmetric, "_kernel", lambda: self)
        monkeypatch.setattr(symmetric, "_quack", lambda: None)
        monkeypatch.setattr(symmetric, "_time", self.milliseconds)
        monkeypatch.setattr(symmetric, "_tiled_product", lambda a, b, alpha, beta, c, tiles: self.product(a, tiles))
        monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: self.capturing)

    def product(self, a, tiles):
        return a.new_full((), float(symmetric._TILES[a.dtype].index(tiles)))

    def milliseconds(self, run):
        out = run()
        which = "plain" if out.ndim else int(out)
        self.timed.append(which)
        if isinstance(self.times[which], Exception):
            raise self.times[which]
        return self.times[which]


def chosen(a: Tensor) -> str | int:
    out = symmetric._symmetric_product(a, a.mT)
    return "plain" if out.ndim else int(out)


def test_the_faster_product_is_measured_once_for_each_form(monkeypatch):
    machine = Machine(monkeypatch, {"plain": 2.0, 0: 3.0, 1: 1.0, 2: 1.5})
    a = torch.randn(2, 8, 9)
    assert [chosen(a), chosen(a), chosen(a.clone())] == [1, 1, 1]
    assert machine.timed == ["plain", 0, 1, 2]
    machine.times["plain"] = 0.5
    assert chosen(a) == 1 and chosen(a[:1]) == chosen(a.mT) == chosen(a.bfloat16()[..., :7].float()) == "plain"
    assert len(machine.timed) == 16
    words = symmetric._explain_products(torch.device("cuda"), torch.float32, 2, 8)
    assert words == "plain"  # too small for the kernel, whatever else is known


def test_explanations_show_what_was_measured(monkeypatch):
    Machine(monkeypatch, {"plain": 2.0, 0: 3.0, 1: 1.0, 2: 1.5})
    monkeypatch.setattr(symmetric, "_TRITON_SIZE", 8)
    symmetric._symmetric_product(torch.randn(2, 8, 9), torch.randn(2, 9, 8))
    words = symmetric._explain_products(torch.device("cuda"), torch.float32, 2, 8)
    assert words == "by Triton (1.000 ms, plain 2.000 ms)"
    assert "measured at the first" in symmetric._explain_products(torch.device("cuda"), torch.float32, 3, 8)


def test_tiles_that_fail_are_left_out_and_without_any_the_product_is_plain(monkeypatch):
    machine = Machine(monkeypatch, {"plain": 2.0, 0: 1.0, 1: RuntimeError("out of resources"), 2: 1.5})
    assert chosen(torch.randn(1, 8, 9)) == 0
    machine.times = {"plain": 2.0, **dict.fromkeys(range(3), RuntimeError("no compiler"))}
    with pytest.warns(UserWarning, match="1×8×10 float32 here, plain products are used .RuntimeError: no compiler."):
        assert chosen(torch.randn(1, 8, 10)) == "plain"
    assert chosen(torch.randn(1, 8, 10)) == "plain" and len(machine.timed) == 8


def test_nothing_is_measured_while_a_graph_is_captured(monkeypatch):
    machine = Machine(monkeypatch, {"plain": 2.0, 0: 1.0, 1: 1.5, 2: 1.5})
    a = torch.randn(2, 8, 9)
    machine.capturing = True
    assert chosen(a) == "plain" and not machine.timed
    machine.capturing = False
    assert chosen(a) == 0
    machine.capturing = True
    assert chosen(a) == 0


def test_the_way_of_products_can_be_fixed(monkeypatch):
    machine = Machine(monkeypatch, {"plain": 2.0, 0: 3.0, 1: 1.0, 2: 1.5})
    a = torch.randn(2, 8, 9)
    with symmetric_products("plain"):
        assert chosen(a) == "plain"
        with symmetric_products("triton"):
            assert chosen(a) == 0
        assert chosen(a) == "plain"
    torch.use_deterministic_algorithms(True)
    try:
        assert chosen(a) == "plain"
    finally:
        torch.use_deterministic_algorithms(False)
    with monkeypatch.context() as patch:
        patch.setattr(torch.distributed, "is_initialized", lambda: True)
        assert chosen(a) == "plain"
        patch.setenv("OPTFORGE_SYMMETRIC_PRODUCTS", "triton")
        assert chosen(a) == 0
    monkeypatch.setenv("OPTFORGE_SYMMETRIC_PRODUCTS", "tritn")
    with pytest.raises(ValueError, match="unknown way 'tritn' of symmetric products; did you mean 'triton'"):
        chosen(a)
    assert not machine.timed
    with pytest.raises(ValueError, match="unknown way"), symmetric_products("fastest"):
        pass


def test_products_with_a_derivative_or_without_triton_are_plain(monkeypatch):
    machine = Machine(monkeypatch, {"plain": 2.0, 0: 1.0, 1: 1.0, 2: 1.0})
    assert chosen(torch.randn(2, 8, 9, requires_grad=True)) == "plain"
    monkeypatch.setattr(symmetric, "_kernel", lambda: None)
    assert chosen(torch.randn(2, 8, 9)) == "plain" and not machine.timed


class Quack:
    """The package as far as it is used: a product, of which the test says what it does and how long it takes."""

    def __init__(self, factor=1.0):
        self.factor, self.calls = factor, []

    def __call__(self, a, b, C=None, alpha=1.0, beta=1.0):
        assert isinstance(alpha, float) and isinstance(beta, float)
        self.calls.append(C is not None)
        return self.factor * (alpha * (a @ b) + (0 if C is None else beta * C))


def racing_with_quack(monkeypatch, quack, milliseconds):
    """Triton is not there, the plain product takes 2 ms, and QuACK's these."""
    monkeypatch.setattr(symmetric, "_choices", {})
    monkeypatch.setattr(symmetric, "_suits_triton", lambda a: True)
    monkeypatch.setattr(symmetric, "_kernel", lambda: None)
    monkeypatch.setattr(symmetric, "_quack", lambda: quack)
    times = {"_plain_product": 2.0, "_multiply_by": milliseconds}
    monkeypatch.setattr(symmetric, "_time", lambda run: times[run.func.__name__])
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)


@pytest.mark.parametrize("milliseconds, times_called", [(1.0, 3), (3.0, 1)])
def test_a_kernel_library_is_used_where_it_is_faster(monkeypatch, milliseconds, times_called):
    """Once it is called to see whether it agrees."""
    quack = Quack()
    racing_with_quack(monkeypatch, quack, milliseconds)
    a = torch.randn(2, 8, 8, dtype=torch.bfloat16)
    gram = a @ a.mT
    for _ in range(2):
        found = symmetric._symmetric_product(gram, gram, 0.5, -1.5, gram)
        torch.testing.assert_close(found, torch.baddbmm(gram, gram, gram, beta=-1.5, alpha=0.5), rtol=0.02, atol=0.5)
    assert quack.calls == [True] * times_called
    symmetric._symmetric_product(a.float(), a.float().mT)
    assert len(quack.calls) == times_called, "it has no float32"


def test_a_kernel_library_that_computes_something_else_is_not_used(monkeypatch):
    racing_with_quack(monkeypatch, Quack(factor=1.1), 1.0)
    a = torch.randn(2, 8, 9, dtype=torch.bfloat16)
    with pytest.warns(UserWarning, match="ArithmeticError: QuACK's product is not the plain one"):
        assert torch.equal(symmetric._symmetric_product(a, a.mT), a @ a.mT)


def test_a_kernel_library_can_be_asked_for(monkeypatch):
    quack = Quack()
    racing_with_quack(monkeypatch, quack, 9.0)
    a = torch.randn(2, 8, 9, dtype=torch.bfloat16)
    with symmetric_products("quack"):
        symmetric._symmetric_product(a, a.mT)
        assert quack.calls == [False]
        monkeypatch.setattr(symmetric, "_quack", lambda: None)
        with pytest.raises(ImportError, match="need the package quack-kernels"):
            symmetric._symmetric_product(a, a.mT)


def test_what_suits_the_kernel():
    with FakeTensorMode():
        suits = {
            (shape, dtype): symmetric._suits_triton(torch.empty(shape, dtype=dtype, device="cuda"))
            for shape in ((4, 512, 2048), (4, 511, 2048), (0, 512, 2048), (70000, 512, 600))
            for dtype in (torch.float32, torch.float64, torch.bfloat16, torch.float16)
        }
        assert not symmetric._suits_triton(torch.empty(4, 512, 2048))
    assert {key for key, value in suits.items() if value} == {
        ((4, 512, 2048), dtype) for dtype in (torch.float32, torch.bfloat16, torch.float16)
    }
