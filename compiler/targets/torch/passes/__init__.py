"""Rewrites that speak of torch: operators that it has in one, norms that are known, results written in place."""

from __future__ import annotations

from optforge.compiler.targets.base import Rewrites
from optforge.compiler.targets.torch.passes.idioms import recognize_idioms
from optforge.compiler.targets.torch.passes.in_place import plan_storage
from optforge.compiler.targets.torch.passes.norms import reuse_norms

TORCH_REWRITES = Rewrites(
    recognize=(
        ("idioms", recognize_idioms),
        ("norms", reuse_norms),  # the reduction that is now read twice gets a name when expressions are shared
    ),
    finish=(("storage", plan_storage),),
)
