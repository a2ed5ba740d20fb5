"""What goes where: roles and views of models of many structures, by module and by name; what groups say; warnings.

The models are small ones of the structures that published models have (`zoo`); `test_published_models.py` has the
published ones. How a view makes a rule step is tested in `test_views.py`.
"""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import orthogonal, weight_norm
from torch.optim.lr_scheduler import LambdaLR

import optforge
from optforge.generated import NAMO, TSCNC, AdamW, Moonlight, Muon, Scion
from optforge.runtime import Route, View, explain_routing, route
from tests.runtime.routing import zoo
from tests.runtime.routing.zoo import EXPERTS, PLACES, WIDE, WIDTH, WORDS, holder, weight


def routes(model: Any) -> dict[str, Route]:
    return {r.name: r for r in route(model)}


def only(module: nn.Module, name: str = "layer") -> Route:
    """The route of the one parameter of a module that stands in a model as `name`."""
    (found,) = [r for r in route(nn.ModuleDict({name: module})) if r.parameter.ndim > 1]
    return found


# -- experts -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("transposed", [False, True])
def test_experts_that_are_one_parameter_are_a_batch(transposed, bias):
    """Which of the two dimensions holds the inputs follows from the biases, or from what the layers take and give."""
    found = routes(nn.ModuleDict({"mlp": zoo.Experts(transposed, bias)}))
    for name in ("gate_up_proj", "down_proj"):
        assert (found[f"mlp.{name}"].role, found[f"mlp.{name}"].view) == ("matrix", View(transposed, None, 1))
        assert not bias or found[f"mlp.{name}_bias"].role == "vector"


def test_a_module_may_say_how_its_experts_are_stored():
    assert only(zoo.ParallelExperts(4, 7)).view == View(batch=1)
    turned = zoo.ParallelExperts(7, 4)
    turned.weight = weight(EXPERTS, 7, 4)
    assert only(turned).view == View(transposed=True, batch=1)
    square = zoo.Experts(is_transposed=True)
    assert {r.view for r in route(nn.ModuleDict({"mlp": square}))} == {View(transposed=True, batch=1)}


def test_experts_of_three_layers_are_told_by_the_one_that_leads_back():
    gate, up, down = weight(3, WIDE, WIDTH), weight(3, WIDE, WIDTH), weight(3, WIDTH, WIDE)
    for order in ({"gate": gate, "up": up, "down": down}, {"w1": gate, "w2": down, "w3": up}):
        turned = {name: nn.Parameter(p.mT.contiguous()) for name, p in order.items()}
        for given, is_turned in ((order, False), (turned, True)):
            block = nn.ModuleDict({"norm": nn.LayerNorm(WIDTH), "moe": nn.ModuleDict({"experts": holder(**given)})})
            views = {r.view for r in route(nn.ModuleList([block])) if r.parameter.ndim > 1}
            assert views == {View(transposed=is_turned, batch=1)}


def test_experts_one_below_the_other_are_split():
    assert only(zoo.StackedExperts()).view == View(split=EXPERTS)


def test_a_matrix_whose_columns_are_written_as_heads_is_one():
    assert only(holder(q=weight(12, 4, 3))).view == View()
    assert only(holder(W_Q=weight(4, 12, 3))).view == View(batch=1)


class Mixture(nn.Module):
    """Experts as one parameter or as modules, each seeing all tokens."""

    def __init__(self, fused: bool) -> None:
        super().__init__()
        self.mlp = holder(up=weight(3, 8, 4), down=weight(3, 4, 8)) if fused else None
        if not fused:
            layers = [nn.Sequential(nn.Linear(4, 8, False), nn.Tanh(), nn.Linear(8, 4, False)) for _ in range(3)]
            self.experts = nn.ModuleList(layers)
        self.norm = nn.LayerNorm(4)

    def forward(self, x: Tensor) -> Tensor:
        if self.mlp is None:
            return self.norm(sum(expert(x) for expert in self.experts))
        hidden = torch.tanh(torch.einsum("ehd,bd->ebh", self.mlp.up, x))
        return self.norm(torch.einsum("edh,ebh->bd", self.mlp.down, hidden))


def test_fused_experts_learn_what_separate_ones_learn():
    fused, apart = zoo.randomized(Mixture(True)), zoo.randomized(Mixture(False))
    for i, expert in enumerate(apart.experts):
        expert[0].weight.data.copy_(fused.mlp.up[i])
        expert[2].weight.data.copy_(fused.mlp.down[i])
    apart.norm.load_state_dict(fused.norm.state_dict())
    x = torch.randn(16, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    start = fused.mlp.up.detach().clone()
    for model in (fused, apart):
        optimizer = Muon(model, lr=0.1)
        for _ in range(5):
            optimizer.zero_grad()
            (model(x) - x.roll(1, 0)).square().mean().backward()
            optimizer.step()
    expected = torch.stack([expert[0].weight.detach() for expert in apart.experts])
    assert float((fused.mlp.up.detach() - expected).norm() / (expected - start).norm()) < 1e-10


# -- what is no matrix -------------------------------------------------------------------------------------------------

NAMED = {
    ("A_log", (10, 4)): "vector",
    ("D", (2, 10)): "vector",
    ("attention_biases", (4, 49)): "vector",
    ("gate_up_proj_bias", (3, 20)): "vector",
    ("pos_bias_u", (4, 8)): "vector",
    ("logit_scale", (4, 4)): "vector",
    ("weight_scale", (3, 4)): "vector",
    ("gamma", (1, 6, 1, 1)): "vector",
    ("gamma_1", (2, 6)): "vector",
    ("layer_scale", (6, 1, 1)): "vector",
    ("time_mix_k", (2, 1, 6)): "vector",
    ("relative_position_bias_table", (49, 4)): "embedding",
    ("rel_pos_h", (13, 8)): "embedding",
    ("cls_token", (1, 1, 6)): "vector",
    ("cls_token", (1, 2, 6)): "embedding",
    ("latents", (32, 6)): "embedding",
    ("query_tokens", (1, 8, 6)): "embedding",
    ("pos_embed", (1, 9, 6)): "embedding",
    ("pos_embed", (9, 6)): "embedding",
    ("pos_embed", (1, 6, 3, 3)): "embedding",
    ("positionalEmbedding", (3, 3, 6)): "embedding",
    ("anything", (1, 9, 6)): "embedding",
    ("codevectors", (1, 20, 6)): "embedding",
    ("prompts_visual_projection", (6, 8)): "matrix",
    ("dt_proj_weight", (2, 10, 4)): "matrix",
    ("router", (3, 6)): "matrix",
    ("anything", (5, 6)): "matrix",
    ("anything", (2, 5, 6)): "matrix",
}


@pytest.mark.parametrize("named, role", NAMED.items(), ids=lambda v: f"{v[0]}-{v[1]}" if isinstance(v, tuple) else v)
def test_bare_parameters_are_known_by_name_and_shape(named, role):
    name, shape = named
    model = nn.ModuleDict({"block": holder(**{name: weight(*shape)})})
    assert [r.role for r in route(model)] == [role]
    assert [r.role for r in route(model.named_parameters())] == [role]


@pytest.mark.parametrize("shape", [(1, 9, 6), (3, 3, 6), (1, 3, 3, 6), (9, 6)], ids=str)
def test_tables_of_any_shape_are_read_by_their_features(shape):
    """Scion's step for embeddings depends on the number of columns."""
    (found,) = route(nn.ModuleDict({"block": holder(pos_embed=weight(*shape))}))
    optimizer = Scion([{"params": found.parameter, "rule": "embedding", "batch": found.view.batch}], lr=1.0, head_rho=6)
    found.parameter.grad = torch.ones(shape)
    optimizer.step()
    torch.testing.assert_close(found.parameter.detach(), -torch.ones(shape))


def test_norms_over_several_dimensions_are_vectors():
    assert {r.role for r in route(nn.Sequential(nn.LayerNorm((3, 4, 4)), nn.RMSNorm((3, 4))))} == {"vector"}


def test_the_weight_of_a_layer_is_a_matrix_though_it_has_one_row():
    """As it is in a gate of shared experts; by module and by name."""
    layers = {
        "norm": nn.LayerNorm(WIDTH),
        "gate": nn.Linear(WIDTH, 1),
        "wide": nn.Linear(1, WIDTH),
        "up": nn.Linear(6, 8),
    }
    model = nn.ModuleDict({"layers": nn.ModuleList([nn.ModuleDict(layers)])})
    for given in (model, model.named_parameters()):
        assert {r.role for r in route(given) if r.parameter.ndim == 2} == {"matrix"}


def test_parameters_in_lists_have_the_name_of_the_list():
    model = nn.Module()
    model.position_embeddings = nn.ParameterList([weight(4, 1, 4), weight(1, 4, 6)])
    model.mixing = nn.ParameterDict({"a": weight(4, 5)})
    assert {name: r.role for name, r in routes(model).items()} == {
        "position_embeddings.0": "embedding",
        "position_embeddings.1": "embedding",
        "mixing.a": "matrix",
    }


def test_reparametrized_weights_are_what_they_make():
    conv = weight_norm(nn.Conv1d(6, 6, 3, groups=2))
    found = routes(nn.ModuleDict({"first": nn.Linear(4, 6), "conv": conv, "norm": nn.LayerNorm(6)}))
    assert found["conv.parametrizations.weight.original0"].role == "vector"
    direction = found["conv.parametrizations.weight.original1"]
    assert (direction.role, direction.view) == ("conv", View(split=2))
    head = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), orthogonal(nn.Linear(6, 2)))
    assert routes(head)["2.parametrizations.weight.original"].role == "head"


# -- heads -------------------------------------------------------------------------------------------------------------

HEADS = {
    "tied": set(),
    "encoder": set(),
    "gpt2": set(),
    "untied": {"lm_head.weight"},
    "experts": {"lm_head.weight"},
    "resnet": {"fc.weight"},
    "vgg": {"classifier.6.weight"},
    "vision": {"head.fc.weight"},
    "distilled": {"head.weight", "head_dist.weight"},
    "classified": {"classifier.out_proj.weight"},
    "recurrent": {"decoder.weight"},
    "mlp": {"4.weight"},
}


@pytest.mark.parametrize("name", zoo.MODELS)
def test_the_heads_of_models(name):
    model = zoo.MODELS[name]()
    assert {r.name for r in route(model) if r.role == "head"} == HEADS[name]
    wrapped = nn.ModuleDict({"module": model})
    assert {r.name for r in route(wrapped) if r.role == "head"} == {f"module.{head}" for head in HEADS[name]}


@pytest.mark.parametrize(
    "name", ["lm_head", "to_logits", "v_head", "score", "output", "embed_out", "unembed", "anything"]
)
def test_an_untied_head_of_any_name(name):
    assert routes(zoo.Language(tied=False, head=name))[f"{name}.weight"].role == "head"


def test_a_table_of_places_makes_no_head():
    """A pooler has as many outputs as there are places, by chance; a pooler ends the model, and is none either."""
    model = zoo.Encoder(places=WIDTH)
    assert routes(model)["pooler.dense.weight"].role == "matrix"


def test_several_outputs_side_by_side():
    actor = nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 3))
    critic = nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 1))
    model = nn.ModuleDict({"actor": actor, "critic": critic})
    assert {r.name for r in route(model) if r.role == "head"} == {"actor.2.weight", "critic.2.weight"}
    levels = nn.ModuleList(nn.Sequential(nn.Conv2d(4, 4, 3, groups=4), nn.Conv2d(4, 9, 1)) for _ in range(3))
    detector = nn.ModuleDict({"backbone": nn.Conv2d(3, 4, 3), "head": nn.ModuleDict({"boxes": levels})})
    assert {r.name for r in route(detector) if r.role == "head"} == {f"head.boxes.{i}.1.weight" for i in range(3)}


def test_what_leads_to_another_layer_is_no_head():
    model = nn.ModuleDict(
        {
            "conv_head": nn.Conv2d(3, 8, 1),
            "bn": nn.BatchNorm2d(8),
            "qkv": nn.Linear(8, 24),
            "gate_up": nn.Linear(8, 32),
            "down": nn.Linear(16, 8),
            "multi_modal_projector": nn.Linear(8, 5),
        }
    )
    assert {r.name for r in route(model) if r.role == "head"} == set()


def test_a_weight_that_is_a_head_somewhere_is_one():
    model = nn.ModuleDict({"inner": nn.Linear(4, 9), "back": nn.Linear(9, 4), "ctc_head": nn.Linear(4, 9)})
    model["ctc_head"].weight = model["inner"].weight
    assert routes(model)["inner.weight"].role == "head"


# -- several matrices in one parameter ---------------------------------------------------------------------------------


def test_recurrent_layers_are_split_by_gates():
    found = {name: r.view.split for name, r in routes(zoo.Recurrent()).items() if ".weight_" in f".{name}"}
    assert {found[name] for name in found if name.startswith("lstm")} == {4} and len(found) == 8 + 2 + 2 + 3 + 2
    assert {found["gru.weight_ih_l0"], found["gru.weight_hh_l0"], found["cell.weight_ih"], found["cell.weight_hh"]} == {
        3
    }
    assert found["rnn.weight_ih_l0"] is found["rnn.weight_hh_l0"] is found["projected.weight_hr_l0"] is None
    assert found["projected.weight_ih_l0"] == found["projected.weight_hh_l0"] == 4


def test_attention_holds_three_matrices():
    model = nn.ModuleDict({"attention": nn.MultiheadAttention(6, 2, add_bias_kv=True)})
    found = routes(model)
    assert found["attention.in_proj_weight"].view == View(split=3)
    assert found["attention.bias_k"].role == "vector"
    apart = routes(nn.MultiheadAttention(6, 2, kdim=4, vdim=5))
    assert {apart[f"{letter}_proj_weight"].view for letter in "qkv"} == {View()}


def test_grouped_convolutions_are_split_and_filters_for_each_channel_follow_the_rest():
    found = {name: (r.role, r.view) for name, r in routes(zoo.Depthwise()).items() if r.parameter.ndim > 1}
    assert found == {
        "stem.weight": ("conv", View()),  # one channel, as it is the first
        "dw.weight": ("vector", View()),
        "twice.weight": ("vector", View()),
        "pw.weight": ("conv", View()),
        "grouped.weight": ("conv", View(split=3)),
        "up.weight": ("conv", View(transposed=True)),
        "grouped_up.weight": ("conv", View(split=2)),
    }
    reasons = {r.name: r.reason for r in route(zoo.Depthwise())}
    assert reasons["grouped.weight"].endswith("3 groups")
    assert reasons["grouped_up.weight"].endswith("2 groups, a row for each input")


def test_the_table_says_what_the_groups_do():
    table = explain_routing(nn.ModuleDict({"mlp": zoo.Experts(True, True), "rnn": nn.LSTM(6, 4)}), NAMO)
    assert f"{EXPERTS} of {2 * WIDE}×{WIDTH} transposed" in table and "4 of 4×6" in table and "LSTM, 4 gates" in table
    groups = optforge.param_groups(zoo.Language(False, mlp=zoo.Experts))
    assert {(g["rule"], g.get("batch")) for g in groups} == {
        ("matrix", None), ("matrix", 1), ("embedding", None), ("head", None), ("vector", None)
    }  # fmt: skip


# -- names -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", zoo.MODELS)
def test_named_parameters_go_where_those_of_the_module_go(name):
    model = zoo.MODELS[name]()
    found, named = routes(model), routes(model.named_parameters())
    assert {key: (r.role, r.view) for key, r in named.items()} == {key: (r.role, r.view) for key, r in found.items()}


@pytest.mark.parametrize("name", zoo.MODELS)
def test_an_optimizer_of_named_parameters_takes_the_steps_of_one_of_the_module(name):
    """In one group as torch has it, also after a checkpoint, and if the names come in two groups."""
    first, second = zoo.randomized(zoo.MODELS[name]()), zoo.randomized(zoo.MODELS[name]())
    named = [*second.named_parameters()]
    of_module, of_names = Muon(first, lr=0.1), Muon([{"params": named[::2]}, {"params": named[1::2]}], lr=0.1)
    assert len(Muon(second.named_parameters()).param_groups) == 1
    start = [p.detach().clone() for p in first.parameters()]
    for t in range(4):
        for model in (first, second):
            zoo.set_gradients(model, t)
        of_module.step()
        of_names.step()
        if t == 1:
            of_names.load_state_dict(of_names.state_dict())
    for p, q, before in zip(first.parameters(), second.parameters(), start, strict=True):
        assert float((p - q).detach().norm() / (p - before).detach().norm()) < 1e-10


def test_a_group_that_names_its_rule_or_view_is_read_so():
    model = zoo.GPT2()
    name, parameter = "h.0.c_attn.weight", model.h[0]["c_attn"].weight
    pair = [(name, parameter), ("h.0.c_attn.bias", model.h[0]["c_attn"].bias)]
    parameter.grad = torch.ones_like(parameter)

    def shape(**options: Any) -> torch.Size:
        optimizer = NAMO([{"params": pair, **options}])
        optimizer.step()
        return optimizer.state[parameter]["v"].shape

    assert shape() == (1, 1)
    assert shape(split=3, transposed=True) == (3, 1, 1)
    assert shape(rule="rest") == parameter.shape


# -- tensors without names ---------------------------------------------------------------------------------------------


def unknown(*shapes: tuple[int, ...]) -> list[nn.Parameter]:
    return [weight(*shape) for shape in shapes]


@pytest.mark.parametrize(
    "shapes",
    [
        [(500, 16), (16, 16), (64, 16), (16, 64)],  # a table in front
        [(16, 16), (64, 16), (16, 64), (500, 16)],  # an output layer behind
        [(250, 32), (32, 32), (2, 32), (86, 32), (32, 86), (250, 32)],  # Llama's: 32000 x 4096 beside 11008 x 4096
        [(64, 64), (16, 64), (224, 64), (64, 224), (250, 64)],  # its largest, without the table
        [(16, 16), (8, 64, 32), (8, 32, 64)],  # experts
    ],
)
def test_lists_of_tensors_that_may_be_tables_warn_once(shapes):
    with pytest.warns(UserWarning, match="Muon: of tensors without names nobody knows") as caught:
        Muon(unknown(*shapes))
    assert len(caught) == 1 and caught[0].filename == __file__
    assert "Give the module itself" in str(caught[0].message)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    "shapes",
    [
        [(16, 16), (64, 16), (16, 64), (48, 16)],
        [(256, 32), (128, 256), (64, 128), (10, 64)],  # rows of a layer that are columns of the next
        [(500, 16)],  # a list of one is no model
        [(2, 500), (500, 2), (2, 500), (500, 2)],  # adapters are all alike
        [(16, 3, 7), (32, 16, 3), (5,), (32,)],  # one-dimensional convolutions
        [(1000,), (), (500, 1), (1, 500)],
    ],
)
def test_other_lists_of_tensors_do_not_warn(shapes):
    Muon(unknown(*shapes))


@pytest.mark.filterwarnings("error")
def test_nothing_warns_where_nothing_is_guessed():
    shapes = [(500, 16), (16, 16), (64, 16), (8, 64, 32), (500, 16)]
    AdamW(unknown(*shapes))  # all parameters follow one rule
    Muon([{"params": unknown(*shapes), "rule": "rest"}])
    for make in zoo.MODELS.values():
        Muon(make())
        Muon(optforge.param_groups(make()))


# -- what a group sets -------------------------------------------------------------------------------------------------


def rest_step(optimizer: torch.optim.Optimizer, p: Tensor) -> float:
    """How far the first step of AdamW moves, which is its learning rate."""
    before = p.detach().clone()
    p.grad = torch.ones_like(p)
    optimizer.step()
    return float((before - p.detach()).abs().max())


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    "group, rate", [({}, 0.02 * 0.015), ({"lr": 0.3}, 0.3), ({"lr": 0.3, "rest_ratio": 0.5}, 0.15)]
)
def test_the_lr_of_a_group_is_its_lr(group, rate):
    p = weight(5, 3)
    optimizer = Muon([{"params": p, "rule": "embedding", **group}])
    assert rest_step(optimizer, p) == pytest.approx(rate, rel=1e-5)


def test_the_lr_of_a_group_follows_schedules_and_checkpoints():
    p, q = weight(5, 3), weight(4)
    groups = [{"params": p, "rule": "embedding", "lr": 0.3}, {"params": q}]
    optimizer = Muon(groups, lr=0.02)
    schedule = LambdaLR(optimizer, lambda t: 0.5**t)
    assert rest_step(optimizer, p) == pytest.approx(0.3, rel=1e-5)
    schedule.step()
    state = optimizer.state_dict()
    assert [g["rest_ratio"] for g in state["param_groups"]] == [1.0, 0.015]
    loaded = Muon([{"params": p, "rule": "embedding"}, {"params": q}])
    loaded.load_state_dict(state)
    assert rest_step(loaded, p) == pytest.approx(0.15, rel=1e-5)
    assert rest_step(loaded, q) == pytest.approx(0.01 * 0.015, rel=1e-4)
    loaded.add_param_group({"params": (r := weight(3)), "lr": 0.7})
    assert rest_step(loaded, r) == pytest.approx(0.7, rel=1e-5)


def test_in_a_group_of_several_rules_lr_is_that_of_the_matrices():
    p, q = weight(4, 4), weight(4)
    optimizer = Muon([{"params": [p, q], "lr": 0.3}])
    assert rest_step(optimizer, q) == pytest.approx(0.3 * 0.015, rel=1e-5)


def test_a_hyper_that_no_rule_of_its_group_reads_warns():
    embedding = {"params": weight(5, 3), "rule": "embedding"}
    with pytest.warns(
        UserWarning, match="Muon: beta=0.5, weight_decay=0.1 in a parameter group has no effect"
    ) as caught:
        Muon([{**embedding, "beta": 0.5, "weight_decay": 0.1}])
    assert caught[0].filename == __file__
    optimizer = Muon([{"params": weight(3)}])
    with pytest.warns(UserWarning, match="its parameters follow the rule 'rest', which reads lr, rest_ratio"):
        optimizer.add_param_group({**embedding, "weight_decay": 0.1})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Moonlight([{**embedding, "weight_decay": 0.1}])  # whose rest has decay
        Muon([{**embedding, "weight_decay": 0.0}])  # asks for nothing, and gets that
        Muon([{**embedding, "beta": 0.95}])  # what all have
        Muon([{"params": [weight(3, 4), weight(3)], "weight_decay": 0.1}])


# -- penalties ---------------------------------------------------------------------------------------------------------


def test_penalties_take_groups():
    """With the views that groups ask for: experts are several matrices."""
    model = zoo.randomized(zoo.Language(tied=False, mlp=zoo.Experts))
    whole = TSCNC(model)()
    torch.testing.assert_close(TSCNC(optforge.param_groups(model))(), whole)
    torch.testing.assert_close(TSCNC(model.named_parameters())(), whole)
    experts = model.h[0].mlp.down_proj
    expected = sum(TSCNC([each])() for each in experts)
    torch.testing.assert_close(TSCNC([{"params": experts, "batch": 1}])(), expected)
    assert float(TSCNC([{"params": model.wte.weight, "rule": "embedding"}])()) == 0
    with pytest.raises(ValueError, match="unknown key 'rul' in a parameter group; did you mean 'rule'"):
        TSCNC([{"params": [experts], "rul": "matrix"}])
    with pytest.raises(ValueError, match="batch=2 leaves no matrix"):
        TSCNC([{"params": [experts], "batch": 2}])


def test_words_and_places_differ():
    """The tables of the zoo are what its tests rely on."""
    assert WORDS != PLACES != WIDTH
