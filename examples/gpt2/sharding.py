"""A model in shards: cut by FSDP2, put together for files, cut again from them, and what its optimizer sends.

In: a model or its state, and the mesh of the processes. Out: parameters that are DTensors, whole tensors in the first
process, and counts. What is put together is done so by all processes at once. What is no DTensor stays as it is, so
that callers need not know whether anything is sharded.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.optim import Optimizer
from torch.utils._pytree import tree_map_only

from examples.gpt2.logs import CommunicationRecord
from examples.gpt2.model import GPT
from examples.gpt2.optimizers import is_generated
from examples.gpt2.processes import Processes
from optforge import communication


def shard_model(model: GPT, mesh: DeviceMesh) -> None:
    """Cut the parameters of ``model`` over ``mesh``, to whose devices they move: block by block, then the rest."""
    for module in (*model.blocks, model):
        fully_shard(module, mesh=mesh)


def reshard(model: nn.Module) -> None:
    """Let go of the whole parameters that a forward pass without a backward pass leaves behind."""
    if isinstance(model, FSDPModule):
        model.reshard()


def whole(tensor: Tensor) -> Tensor:
    """``tensor`` with the parts of all processes."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def gather(state: Mapping[str, Any], processes: Processes) -> Any:
    """``state`` with whole tensors on the CPU in place of shards; in other processes than the first, None there."""

    def gathered(shard: DTensor) -> Tensor | None:
        found = shard.full_tensor()
        return found.cpu() if processes.is_first else None

    return state if processes.mesh is None else tree_map_only(DTensor, gathered, dict(state))


def cut(tensor: Any, like: Any) -> Any:
    """The part of a whole ``tensor`` that this process has of ``like``."""
    if not isinstance(like, DTensor) or not isinstance(tensor, Tensor) or tensor.shape != like.shape:
        return tensor
    return distribute_tensor(tensor.to(like.device), like.device_mesh, like.placements, src_data_rank=None)


def cut_model_state(state: Mapping[str, Any], model: nn.Module) -> dict[str, Any]:
    """What ``model`` loads of a whole ``state``."""
    current = model.state_dict()
    return {name: cut(tensor, current.get(name)) for name, tensor in state.items()}


def cut_optimizer_state(state: Mapping[str, Any], optimizer: Optimizer) -> dict[str, Any]:
    """What ``optimizer`` loads of a whole ``state``: torch's take what they are given, generated ones cut it."""
    if is_generated(type(optimizer)):
        return dict(state)
    params = [p for group in optimizer.param_groups for p in group["params"]]
    states = {
        place: {name: cut(value, params[place]) for name, value in values.items()}
        for place, values in state["state"].items()
    }
    return {**state, "state": states}


def measure_communication(optimizer: Optimizer, step: int, processes: Processes) -> CommunicationRecord | None:
    """What ``optimizer`` has sent in ``step``, its last; None where nothing is sharded or nobody counts.

    Counted is what the optimizer sends for its step, and nothing of what FSDP or the loop sends.
    """
    if processes.mesh is None or not is_generated(type(optimizer)):
        return None
    sent = communication(optimizer)
    return CommunicationRecord(step, sent.calls, processes.mean(float(sum(sent.bytes.values()))))
