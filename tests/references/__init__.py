"""Hand-written optimizers in plain torch, one parameter at a time: what the specs must agree with.

Written from the methods' equations, one module each. Each class is a small ``torch.optim.Optimizer`` whose arguments
and states have the names of the spec. Nothing of optforge is imported here.
"""

import pkgutil
from importlib import import_module

from tests.references.loop import PerParameter

_MODULES = [import_module(f"{__name__}.{module.name}") for module in pkgutil.iter_modules(__path__)]

# Every class with values to be tried, by the name that the generated class has too.
REFERENCES: dict[str, type[PerParameter]] = {
    name: value
    for module in _MODULES
    for name, value in vars(module).items()
    if "SECOND" in getattr(value, "__dict__", ())
}

__all__ = ["REFERENCES"]
