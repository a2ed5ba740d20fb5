"""Lets a torchvision that was compiled for CUDA be imported beside a torch for the CPU.

Such a wheel cannot load its operators, of which two are wanted as it is imported, also by transformers. Models need
neither: they are declared, and remain without a kernel. Nothing is done where the two packages fit each other.
"""

from __future__ import annotations

import re
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

OPERATORS = ("nms", "qnms")


@cache
def declare_operators() -> Any:
    """The library that declares the operators, which they live as long as; None where that is not needed."""
    found = find_spec("torchvision")
    if found is None or found.origin is None:
        return None
    text = Path(found.origin).with_name("version.py").read_text(encoding="utf-8")
    import torch

    if torch.version.cuda is not None or not re.search(r"__version__ = .*\+cu\d", text):
        return None
    library = torch.library.Library("torchvision", "DEF")
    for name in OPERATORS:
        library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    return library
