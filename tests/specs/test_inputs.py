"""What models show optimizers: second moments of layers' inputs, attention logits, the loss; and when they show it."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import fully_shard

from optforge.generated import MoMo, Muon, MuonClip, NewtonMuon, SophiaG
from optforge.inputs import Activations, Logits, Projections, observe
from tests.support.ranks import Pool


class Attention(nn.Module):
    def __init__(self, heads: int = 2, key_heads: int = 1, size: int = 3) -> None:
        super().__init__()
        self.query, self.key = nn.Linear(6, heads * size, bias=False), nn.Linear(6, key_heads * size, bias=False)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.query(x), self.key(x)


def matrix_groups(model: nn.Module) -> list[dict[str, Any]]:
    return [{"params": list(model.parameters()), "rule": "matrix"}]


def test_second_moments_are_those_of_all_rows():
    model = nn.Sequential(nn.Linear(5, 4, bias=False), nn.Linear(4, 3, bias=False))
    optimizer = NewtonMuon(matrix_groups(model))
    watcher = Activations(model, optimizer, every=2)
    first, second = torch.randn(2, 7, 5), torch.randn(3, 7, 5)
    for turn in range(3):
        with watcher:
            model(first)
            model(second)
        watcher.fire()
        assert optimizer.state[model[0].weight]["activations_step"] == (1, 1, 2)[turn]
    z = torch.cat([first, second]).flatten(0, 1)
    assert torch.allclose(optimizer.state[model[0].weight]["s"], z.T @ z / len(z), rtol=1e-5)
    assert not any(layer._forward_pre_hooks for layer in model)


def test_logits_are_the_largest_of_each_head():
    model, x = Attention(), torch.randn(2, 4, 6)
    watcher = Logits([Projections(model.query, model.key, 2, 1)], MuonClip(matrix_groups(model)))
    with watcher, torch.no_grad():
        q, k = model(x)
    logits = torch.stack([q[..., :3] @ k.mT, q[..., 3:] @ k.mT]) / 3**0.5
    past = torch.ones(4, 4, dtype=torch.bool).tril()
    largest = logits[..., past].max()
    assert torch.allclose(watcher.found[model.query.weight], largest.expand(6, 1))
    assert torch.allclose(watcher.found[model.key.weight], largest.expand(3, 1))


def test_a_clip_brings_the_logits_to_tau():
    model, x = nn.Linear(6, 18, bias=False), torch.randn(2, 4, 6)
    optimizer = MuonClip(matrix_groups(model), tau=0.01)
    watcher = Logits([Projections.fused(model, heads=2)], optimizer)
    values = model.weight.detach()[12:].clone()
    watcher.watch(model, x)
    with watcher, torch.no_grad():
        model(x)
    rows = watcher.found[model.weight].flatten()
    assert torch.allclose(rows[:12], torch.full((12,), 0.01)) and not rows[12:].any()
    assert torch.equal(model.weight.detach()[12:], values)


def test_momo_takes_no_longer_step_than_its_model_of_the_loss():
    """The first step is Polyak's: the loss over the squared norm of the gradient, times it."""
    p = nn.Parameter(torch.tensor([2.0, -1.0], dtype=torch.float64))
    optimizer = MoMo([p], lr=10.0)
    loss = (p**2).sum()
    loss.backward()
    observe(optimizer, loss)
    optimizer.step()
    assert torch.allclose(p, torch.tensor([1.0, -0.5], dtype=torch.float64))


# -- how they watch ----------------------------------------------------------------------------------------------------


def two_layers(**options: Any) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 4, bias=False, **options), nn.Linear(4, 3, bias=False, **options))


def moments(*batches: Tensor) -> Tensor:
    z = torch.cat([x.flatten(0, -2) for x in batches]).double()
    return z.T @ z / len(z)


def close(found: Tensor, expected: Tensor, tolerance: float = 1e-6) -> bool:
    return bool((found.double() - expected).norm() <= tolerance * expected.norm())


def test_accumulated_batches_count_as_one():
    model, batches = two_layers(), [torch.randn(2, 7, 5), torch.randn(1, 3, 5)]
    optimizer = NewtonMuon(matrix_groups(model))
    watcher = Activations(model, optimizer)
    for x in batches:
        with watcher:
            out = model(x)
        out.sum().backward()
    watcher.fire()
    assert close(optimizer.state[model[0].weight]["s"], moments(*batches))
    assert optimizer.state[model[0].weight]["activations_step"] == 1


def test_layers_that_share_a_weight_count_as_one():
    model, x = nn.Sequential(nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False)), torch.randn(6, 4)
    model[1].weight = model[0].weight
    optimizer = NewtonMuon(matrix_groups(model))
    Activations(model, optimizer).watch(model, x)
    assert close(optimizer.state[model[0].weight]["s"], moments(x, model[0](x).detach()))


def test_moments_are_summed_in_float32_under_autocast():
    model, x = two_layers(), 300 * torch.randn(50, 5)
    optimizer = NewtonMuon(matrix_groups(model))
    with torch.autocast("cpu", torch.bfloat16):
        Activations(model, optimizer).watch(model, x)
    assert close(optimizer.state[model[0].weight]["s"], moments(x))


def test_logits_are_those_of_float32_under_autocast():
    model, x = Attention(), torch.randn(2, 4, 6)
    watcher = Logits([Projections(model.query, model.key, 2, 1)], MuonClip(matrix_groups(model)))
    with watcher, torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        q, k = (each.float() for each in model(x))
    logits = torch.stack([q[..., :3] @ k.mT, q[..., 3:] @ k.mT]) / 3**0.5
    largest = logits[..., torch.ones(4, 4, dtype=torch.bool).tril()].max()
    assert close(watcher.found[model.key.weight], largest.double().expand(3, 1))


@pytest.mark.parametrize("way", [torch.compile, lambda model, **options: model.compile(**options) or model])
def test_compiled_models_show_what_they_see(way: Callable[..., Any]):
    """Compiled before: hooks that come later are not called by what is compiled already."""
    model, x = two_layers(), torch.randn(6, 5)
    compiled = way(model, backend="eager")
    compiled(x)
    optimizer = NewtonMuon(matrix_groups(model))
    watcher = Activations(compiled, optimizer)
    with watcher:
        compiled(x)
    watcher.fire()
    assert close(optimizer.state[model[0].weight]["s"], moments(x))


def test_nothing_stays_behind():
    model = two_layers()
    watcher = Activations(model, NewtonMuon(matrix_groups(model)))
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"), watcher:
        model(torch.ones(2, 3))
    with watcher, pytest.raises(RuntimeError, match="this Activations watches already"):
        watcher.__enter__()
    assert not any(layer._forward_pre_hooks for layer in model)
    watcher.fire()
    with watcher:
        pass
    assert not watcher.is_due and not watcher.found


def test_a_run_goes_on_from_a_checkpoint():
    """Bit for bit, with what was seen in states, and with the rhythm."""
    model = two_layers(dtype=torch.float64)
    optimizer = NewtonMuon(matrix_groups(model))
    watcher = Activations(model, optimizer, every=2)
    steps = torch.randn(5, 6, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(1))

    def train(model: nn.Module, optimizer: Any, watcher: Activations, batches: Tensor) -> None:
        for x in batches:
            with watcher:
                loss = model(x).square().mean()
            optimizer.zero_grad()
            loss.backward()
            watcher.fire()
            optimizer.step()

    train(model, optimizer, watcher, steps[:3])
    other = copy.deepcopy(model)
    resumed = NewtonMuon(matrix_groups(other))
    resumed.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    later = Activations(other, resumed, every=2)
    later.load_state_dict(watcher.state_dict())
    twin, twin_optimizer = copy.deepcopy((model, optimizer))
    train(model, optimizer, watcher, steps[3:])
    train(other, resumed, later, steps[3:])
    assert all(torch.equal(p, q) for p, q in zip(model.parameters(), other.parameters(), strict=True))
    assert twin_optimizer.state[twin[0].weight]["activations_step"] == 2
    assert optimizer.state[model[0].weight]["activations_step"] == 3


def test_layers_that_show_nothing_step_as_muon():
    model = two_layers(dtype=torch.float64)
    other = copy.deepcopy(model)
    for layers, cls in ((model, NewtonMuon), (other, Muon)):
        optimizer = cls(matrix_groups(layers))
        for t in range(2):
            torch.manual_seed(t)
            for p in layers.parameters():
                p.grad = torch.randn_like(p)
            optimizer.step()
    assert all(torch.equal(p, q) for p, q in zip(model.parameters(), other.parameters(), strict=True))


def test_momo_goes_by_the_newest_loss():
    """Two calls before a step: the second counts. None: the last one does."""
    p = nn.Parameter(torch.tensor([2.0, -1.0], dtype=torch.float64))
    optimizer = MoMo([p], lr=10.0, beta=0.0)
    for loss in (100.0, 5.0, None):
        p.grad = torch.tensor([4.0, -2.0], dtype=torch.float64)
        if loss is not None:
            observe(optimizer, torch.tensor([loss]))
        before = p.detach().clone()
        if loss == 100.0:
            continue
        optimizer.step()
        assert torch.allclose(before - p, 5 / 20 * p.grad)


def test_momo_with_a_scaler_of_gradients():
    """The loss is the one without the factor: steps are those without a scaler."""
    ends = []
    for scale in (1.0, 1024.0):
        p = nn.Parameter(torch.tensor([2.0, -1.0]))
        optimizer = MoMo([p], lr=10.0)
        scaler = torch.amp.GradScaler("cpu", init_scale=scale)
        for _ in range(3):
            optimizer.zero_grad()
            loss = (p**2).sum()
            scaler.scale(loss).backward()
            observe(optimizer, loss)
            scaler.step(optimizer)
            scaler.update()
        ends.append(p.detach())
    assert torch.equal(*ends) and ends[0].abs().max() < 1


# -- several processes -------------------------------------------------------------------------------------------------


def averages(group: Any) -> None:
    """Each process has batches of its own, of other sizes, and one has not run a layer: all are given the same."""
    rank, batches = group.rank(), [torch.randn(3, 5, generator=torch.Generator().manual_seed(i)) for i in (0, 1)]
    batches[1] = batches[1][:2]
    model = two_layers()
    optimizer = NewtonMuon(matrix_groups(model))
    with torch.no_grad():
        second = model[0](batches[0])
    watcher = Activations(model, optimizer, group=group)
    with watcher, torch.no_grad():
        (model if rank == 0 else model[0])(batches[rank])
    watcher.fire()
    for layer, expected in ((model[0], moments(*batches)), (model[1], moments(second))):
        assert close(optimizer.state[layer.weight]["s"], expected)

    attention, x = Attention(), torch.randn(2, 4, 6)
    for p in attention.parameters():
        torch.nn.init.constant_(p, 0.1)
    clipped, own = MuonClip(matrix_groups(attention)), {}
    logits = Logits([Projections(attention.query, attention.key, 2, 1)], clipped, group=group)
    clipped.clip = lambda logit: own.update(logit)
    with logits, torch.no_grad():
        attention(torch.full_like(x, 1.0 + rank))
    logits.fire()
    assert close(own[attention.key.weight], torch.full((3, 1), 3 * 1.2**2 / 3**0.5).double())

    p = nn.Parameter(torch.ones(2, dtype=torch.float64))
    momo = MoMo([p])
    observe(momo, 1.0 + 2 * rank, group)
    assert momo.state[p]["f"].item() == 2.0


def shards(group: Any) -> None:
    """FSDP: the same as one process with all rows, by a context around training and by `watch`."""
    torch.manual_seed(0)
    whole = two_layers()
    model = copy.deepcopy(whole)
    for module in (model[0], model):
        fully_shard(module, mesh=DeviceMesh.from_group(group, "cpu"))
    x = torch.randn(4, 5, generator=torch.Generator().manual_seed(3))
    mine = x[2 * group.rank() :][:2]
    runs = [(whole, NewtonMuon(matrix_groups(whole)), x), (model, NewtonMuon(matrix_groups(model)), mine)]
    for layers, optimizer, rows in runs:
        watcher = Activations(layers, optimizer, every=1, group=group)
        for _ in range(2):
            with watcher:
                loss = layers(rows).square().mean()
            optimizer.zero_grad()
            loss.backward()
            watcher.fire()
            optimizer.step()
            watcher.watch(layers, rows)
    for p, q in zip(whole.parameters(), model.parameters(), strict=True):
        assert close(q.detach().full_tensor(), p.detach().double(), 1e-4)
        assert runs[1][1].state[q]["activations_step"] == 4
    model(mine)
    with pytest.raises(RuntimeError, match=r"model.reshard\(\) first"):
        Activations(model, runs[1][1])


@pytest.mark.parametrize("case", [averages, shards], ids=lambda each: each.__name__)
def test_processes_that_train_together_are_given_the_same(ranks: Pool, case: Any):
    ranks.run(2, case)


# -- what is refused ---------------------------------------------------------------------------------------------------


def test_helpers_refuse_optimizers_without_their_event():
    model = nn.Linear(3, 2)
    for make in (lambda o: Activations(model, o), lambda o: Logits([], o), lambda o: observe(o, 1.0)):
        with pytest.raises(TypeError, match=r"SophiaG has no event `\w+\(\w+\)`"):
            make(SophiaG(model))


def test_helpers_refuse_models_that_they_see_nothing_of():
    model = two_layers()
    optimizer = NewtonMuon(matrix_groups(model))
    with pytest.raises(ValueError, match=r"none of 2 nn.Linear .* NewtonMuon steps by a rule with the event"):
        Activations(two_layers(), optimizer)
    with pytest.raises(ValueError, match=r"none of 1 nn.Linear"):
        Logits([Projections.fused(nn.Linear(6, 18), heads=2)], MuonClip(matrix_groups(model)))
    transposed = NewtonMuon([{**matrix_groups(model)[0], "transposed": True}])
    with pytest.raises(ValueError, match=r"^0\.weight is read as transposed"):
        Activations(model, transposed)
    with pytest.raises(ValueError, match="invalid every=0"):
        Activations(model, optimizer, every=0)
    with pytest.raises(TypeError, match="takes a module"):
        Activations([model], optimizer)
    with pytest.raises(ValueError, match=r"shape \(2,\), where one number"):
        observe(MoMo(matrix_groups(model)), torch.ones(2))


PROJECTIONS: list[Callable[[], Any]] = [
    lambda: Projections.fused(nn.Linear(6, 17), 2),
    lambda: Projections.fused(nn.Linear(6, 18), 0),
    lambda: Projections(nn.Linear(6, 6), nn.Linear(6, 6), 2, 1),
    lambda: Projections(nn.Linear(6, 6), nn.Linear(6, 6), 4),
    lambda: Projections(nn.Linear(6, 9), nn.Linear(6, 6), 3, 2),
]


@pytest.mark.parametrize("make", PROJECTIONS)
def test_layers_have_as_many_heads_as_it_says(make: Callable[[], Any]):
    with pytest.raises(ValueError, match=r"are no . heads of queries"):
        make()
    with pytest.raises(TypeError, match=r"queries and keys are outputs of nn.Linear"):
        Projections(nn.Conv1d(3, 6, 1), nn.Linear(3, 6), 2)
