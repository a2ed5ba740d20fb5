"""Routing of published models, held to what these say of themselves: labels, tables, experts, output layers."""

from __future__ import annotations

import contextlib
import re
from typing import Any

import pytest
import torch
from torch import nn

import optforge
from optforge.generated import Muon
from optforge.runtime import Route, route
from tests.runtime.routing import published
from tests.runtime.routing.published import CLASSES, NAMES, PACKAGES

pytestmark = [
    pytest.mark.peers,
    pytest.mark.skipif(not published.has_packages(), reason=f"needs {', '.join(PACKAGES)}"),
]
every_model = pytest.mark.parametrize(
    "package, name", [pytest.param(package, name, id=name) for package in PACKAGES for name in NAMES[package]]
)


def routed(model: nn.Module) -> dict[torch.Tensor, Route]:
    return {r.parameter: r for r in route(model)}


def rests(found: Route) -> bool:
    """Whether the parameter follows Muon's rule for the rest."""
    return found.role not in ("matrix", "conv")


@every_model
def test_layers_of_as_many_outputs_as_there_are_classes_are_heads(package: str, name: str) -> None:
    """And in classifiers nothing else is, so that a hidden layer can hardly be one."""
    found = [r for r in route(published.published(package, name)) if r.parameter.ndim > 1]
    outputs = {r.name for r in found if r.parameter.shape[0] % CLASSES == 0}
    heads = {r.name for r in found if r.role == "head"}
    assert outputs <= heads
    is_classifier = package == "timm" or name in published.TORCHVISION.split() or name.endswith("Classification")
    if is_classifier:
        assert outputs and outputs == heads


@every_model
def test_tables_are_embeddings_and_layers_inside_of_blocks_are_hidden(package: str, name: str) -> None:
    model = published.published(package, name)
    found = routed(model)
    for path, module in model.named_modules():
        if isinstance(module, nn.Embedding):
            assert found[module.weight].role == "embedding", path
        inside = re.search(r"\b(blocks?|layers?|h|stages?)\.\d+\.\w+\.", f"{path}.")
        if isinstance(module, nn.Linear) and inside and min(module.weight.shape) > 1 and "head" not in path:
            is_tied = found[module.weight].role == "embedding"
            is_output = re.search(r"class_embed|bbox_embed|predictor|bias$", path)
            assert is_tied or is_output or found[module.weight].role == "matrix", path


@pytest.mark.parametrize("name", NAMES["transformers"])
def test_models_say_which_tables_and_output_layers_they_have(name: str) -> None:
    model: Any = published.published("transformers", name)
    found = routed(model)
    with contextlib.suppress(NotImplementedError):  # some have no table
        table = getattr(model.get_input_embeddings(), "weight", None)
        assert table is None or table.ndim != 2 or found[table].role == "embedding"
    output = getattr(model.get_output_embeddings(), "weight", None)
    assert output is None or found[output].role in ("head", "embedding")


@pytest.mark.parametrize("name", NAMES["transformers"])
def test_experts_are_batches_stored_as_their_module_says(name: str) -> None:
    """Also where the module does not say it: then the shapes do."""
    model = published.published("transformers", name)
    experts = [m for m in model.modules() if re.search(r"Experts$", type(m).__name__) and not [*m.children()]]
    flags = [getattr(module, "is_transposed", None) for module in experts]
    for is_said in (True, False):
        for module, flag in zip(experts, flags, strict=True):
            if flag is not None and not is_said:
                del module.is_transposed
        found = routed(model)
        for module, flag in zip(experts, flags, strict=True):
            for own, parameter in module.named_parameters(recurse=False):
                if parameter.ndim == 3:
                    assert (found[parameter].role, found[parameter].view.batch) == ("matrix", 1)
                    assert flag is None or found[parameter].view.transposed is flag, own
                else:
                    assert found[parameter].role == "vector"


@every_model
def test_names_tell_the_rule_as_well_as_modules_do(package: str, name: str) -> None:
    """Convolutions with a filter for each channel look like the first one of a model with a single channel."""
    model = published.published(package, name)
    found, named = routed(model), {r.parameter: r for r in route([*model.named_parameters()])}
    for parameter, r in named.items():
        other = found[parameter]
        if rests(r) is not rests(other):
            is_conv = parameter.ndim > 2 and min(parameter.shape[:2]) == 1
            is_tied_head = other.role == "matrix" and r.role == "head"
            assert is_conv or is_tied_head, (r.name, other, r)


@pytest.mark.filterwarnings("error")
def test_an_optimizer_of_a_published_model_guesses_nothing() -> None:
    import transformers

    config = transformers.GptOssConfig(
        vocab_size=64, hidden_size=16, intermediate_size=8, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=1, head_dim=8, num_local_experts=4, num_experts_per_tok=2, pad_token_id=0,
    )  # fmt: skip
    model = transformers.GptOssForCausalLM(config)
    experts = model.model.layers[0].mlp.experts
    optimizer = Muon(model, lr=0.1)
    before = experts.down_proj.detach().clone()
    tokens = torch.arange(32).view(2, 16)
    model(input_ids=tokens, labels=tokens).loss.backward()
    optimizer.step()
    steps = (experts.down_proj.detach() - before) / -0.1
    moved = [step for step in steps if step.abs().sum() > 0]
    assert moved
    for step in moved:  # each expert's is orthogonal by itself: (8 inputs, 16 outputs), so its largest value is sqrt(2)
        assert 0.6 < float(torch.linalg.matrix_norm(step, 2)) / 2**0.5 < 1.3
    assert "4 of 16×8 transposed" in optforge.explain_routing(model, Muon)


def test_the_page_has_the_table_of_these_versions() -> None:
    page = published.PAGE.read_text(encoding="utf-8")
    installed = {package: published.version(package).partition("+")[0] for package in PACKAGES}
    if published.written_versions(page) != installed:
        pytest.skip(f"the page was written with other versions than {installed}")
    assert published.renewed(page) == page
