"""The PyTorch target as the compiler knows it."""

from __future__ import annotations

from optforge.compiler.ir import nodes as ir
from optforge.compiler.targets.base import Origin, Target
from optforge.compiler.targets.torch.passes import TORCH_REWRITES
from optforge.compiler.targets.torch.reserved import RESERVED


def render(program: ir.Program, origin: Origin) -> str:
    """The module of a program after all passes."""
    from optforge.compiler.targets.torch.render import origin_line, render_program  # checks need no templates

    return render_program(program, origin_line(origin))


TORCH = Target(
    name="torch",
    rewrites=TORCH_REWRITES,
    reserved=RESERVED,
    render=render,
)
