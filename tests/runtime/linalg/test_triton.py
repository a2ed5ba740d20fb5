"""The Triton kernel of symmetric products: run by Triton's interpreter, and compiled for GPUs that may be absent."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch

from optforge.runtime.linalg import symmetric

pytestmark = pytest.mark.peers

# The interpreter multiplies the bits of bfloat16 as integers, so that it is given what they stand for.
SETUP = """
import sys
import torch
import triton
from triton.runtime import interpreter
from optforge.runtime import iterate_in, orthogonalize, symmetric_products
from optforge.runtime.linalg import orthogonal, symmetric

multiply = interpreter.InterpreterBuilder.create_dot

def widened(x):
    if x.dtype.name != "bf16":
        return x
    return interpreter.TensorHandle((x.data.astype("uint32") << 16).view("float32"), triton.language.float32)

def create_dot(self, a, b, d, *settings):
    return multiply(self, widened(a), widened(b), d, *settings)

interpreter.InterpreterBuilder.create_dot = create_dot
torch.manual_seed(0)
"""

PRODUCTS = """
for dtype, tolerance in ((torch.float32, 1e-6), (torch.float16, 1e-3), (torch.bfloat16, 8e-3)):
    for batch, size, inner in ((2, 40, 45), (1, 32, 32), (3, 1, 17), (1, 33, 1)):
        x = torch.randn(batch, size, inner).to(dtype)
        around = torch.full((batch, size + 32, 2 * inner + 64), float("nan"), dtype=dtype)
        spread = around[:, :size, : 2 * inner : 2].copy_(x)
        turned = x.mT.contiguous().mT
        for a in (x, spread, turned):
            expected = a.double() @ a.double().mT
            out = symmetric._tiled_product(a, a.mT, 1, 0, None, symmetric._Tiles(32, 16, 4, 3))
            assert out.dtype == dtype and (out - expected).norm() <= tolerance * expected.norm(), (dtype, size, inner)
            lower = out.tril(-32)
            assert torch.equal(lower.mT, out.triu(32))
        gram = (x @ x.mT / inner)
        for c in (gram, gram.mT, gram[:1].expand(batch, size, size)):
            expected = 0.5 * gram.double() @ gram.double() - 1.5 * c.double()
            out = symmetric._tiled_product(gram, gram, 0.5, -1.5, c, symmetric._Tiles(16, 32, 4, 3))
            assert (out - expected).norm() <= tolerance * expected.norm(), (dtype, size, inner)
"""

WHOLE = """
symmetric._suits_triton = lambda a: True
for tiles in symmetric._TILES:
    symmetric._TILES[tiles] = (symmetric._Tiles(16, 16, 4, 3),)
x = torch.randn(2, 24, 60)
for dtype, tolerance in ((torch.float32, 1e-5), (torch.bfloat16, 0.06)):
    with iterate_in(dtype):
        with symmetric_products("triton"):
            tiled = orthogonalize(x), orthogonalize(x.mT)
        with symmetric_products("plain"):
            plain = orthogonalize(x), orthogonalize(x.mT)
        for one, other in zip(tiled, plain):
            assert not torch.equal(one, other) and (one - other).norm() < tolerance * other.norm(), dtype
"""


@pytest.mark.parametrize("program", [PRODUCTS, WHOLE], ids=["products", "orthogonalize"])
def test_the_kernel_agrees_with_the_plain_product(program):
    pytest.importorskip("triton")
    done = subprocess.run(
        [sys.executable, "-c", SETUP + program],
        env={**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


NAMES = {torch.float32: "fp32", torch.float16: "fp16", torch.bfloat16: "bf16"}
CASES = [(90, dtype, tiles) for dtype in NAMES for tiles in symmetric._TILES[dtype]]
CASES += [(80, dtype, symmetric._TILES[dtype][0]) for dtype in NAMES]
SHARED_MEMORY = {80: 163 * 1024, 90: 227 * 1024}  # bytes that a block may have
INSTRUCTION = {80: "mma.sync", 90: "wgmma.mma_async"}


@pytest.mark.parametrize("capability, dtype, tiles", CASES)
def test_the_kernel_compiles_for_gpus(capability, dtype, tiles, tmp_path, monkeypatch):
    """With what the launcher says of an argument: which strides are 1, which numbers are multiples of 16."""
    compiler = pytest.importorskip("triton.compiler")
    from triton.backends.compiler import GPUTarget

    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    kernel = symmetric._kernel()
    pointers, one = ("a", "b", "c", "out"), ("a_col", "b_row", "c_col", "out_col")
    values = {
        "HAS_ADDEND": True,
        "PRECISION": "tf32",
        "SIDE": tiles.side,
        "DEPTH": tiles.depth,
        **dict.fromkeys(one, 1),
    }
    signature = {name: f"*{NAMES[dtype]}" if name in pointers else "i32" for name in kernel.arg_names}
    signature |= {"alpha": "fp32", "beta": "fp32", **dict.fromkeys(values, "constexpr")}
    aligned = [i for i, name in enumerate(kernel.arg_names) if signature[name] not in ("fp32", "constexpr")]
    source = compiler.ASTSource(
        fn=kernel,
        signature=signature,
        constexprs={(kernel.arg_names.index(name),): value for name, value in values.items()},
        attrs={(i,): [["tt.divisibility", 16]] for i in aligned},
    )
    options = {"num_warps": tiles.warps, "num_stages": tiles.stages}
    made = compiler.compile(source, target=GPUTarget("cuda", capability, 32), options=options)
    assert made.metadata.shared <= SHARED_MEMORY[capability]
    assert INSTRUCTION[capability] in made.asm["ptx"]


def test_a_failure_of_the_kernel_names_the_package(monkeypatch):
    monkeypatch.setattr(symmetric, "_kernel", lambda: None)
    with pytest.raises(ImportError, match="need the package triton"):
        symmetric._tiled_product(torch.eye(4)[None], torch.eye(4)[None], 1, 0, None, symmetric._Tiles(16, 16, 4, 3))


def test_triton_is_not_imported_before_it_is_needed():
    program = """import sys, torch
from optforge.runtime.linalg import symmetric
before = set(sys.modules)
symmetric._symmetric_product(torch.randn(1, 600, 600), torch.randn(1, 600, 600))
assert "triton" not in set(sys.modules) - before and symmetric.tl is None"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
