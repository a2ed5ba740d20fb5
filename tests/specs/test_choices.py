"""Every value of a hyper that is a choice: the agreement of the references tries only one besides the default."""

from __future__ import annotations

import pytest

from tests.specs.test_agreement import TOLERANCE, generated, reference
from tests.support.trials import worst_error

CHOICES = {
    ("NorMuonDion", "scale"): ("none",),
    ("MuonPlus", "mode"): ("col", "row"),
    ("MuonEq", "mode"): ("col",),
    ("PolarGrad", "method"): ("polar_express",),
    ("SPEL", "method"): ("svd",),
}
CASES = [(name, hyper, value) for (name, hyper), values in CHOICES.items() for value in values]


@pytest.mark.parametrize("name, hyper, value", CASES)
def test_generated_module_agrees_with_reference(name, hyper, value):
    hypers = ((hyper, value),)
    assert worst_error(generated(name, hypers).history, reference(name, hypers).history) <= TOLERANCE
