"""Hand-written optimizers in plain torch, one parameter at a time: what the specs must agree with.

Written from the methods' equations. Each class is a small ``torch.optim.Optimizer`` whose arguments and memories have
the names of the spec. Nothing of optforge is imported here.
"""

from references.adamw import AdamW
from references.muon import Muon
from references.namo import NAMO
from references.namo_d import NAMOD
from references.nora import Nora
from references.normuon import NorMuon
from references.sgd import SGD

REFERENCES = {cls.__name__: cls for cls in (AdamW, Muon, NAMO, NAMOD, Nora, NorMuon, SGD)}

__all__ = ["REFERENCES"]
