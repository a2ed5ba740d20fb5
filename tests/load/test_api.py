"""What `import optforge` gives: classes from files, names and text, with sources that tools can show."""

from __future__ import annotations

import inspect
import traceback
from pathlib import Path
from typing import Any

import pytest
import torch

import optforge
from optforge.generated import NAMO

SPEC = '''
optimizer Half:
    """Moves half of the way."""
    hyper lr = 0.5 where lr >= 0
    for tensor:
        weight <- weight - lr * grad
'''


def test_text_becomes_a_module_with_the_class() -> None:
    module = optforge.compile_source(SPEC)
    p = torch.nn.Parameter(torch.tensor([4.0]))
    p.grad = torch.tensor([2.0])
    module.Half([p]).step()
    assert p.item() == 3.0


def test_compiling_is_cached() -> None:
    assert optforge.compile_source(SPEC) is optforge.compile_source(SPEC)
    assert optforge.load("NAMO") is optforge.load("NAMO")


def test_a_changed_file_is_compiled_again(tmp_path: Path) -> None:
    path = tmp_path / "half.opt"
    path.write_text(SPEC)
    first = optforge.load(path)
    path.write_text(SPEC.replace("0.5", "0.25"))
    second = optforge.load(path)
    p = torch.nn.Parameter(torch.zeros(1))
    assert (first([p]).defaults["lr"], second([p]).defaults["lr"]) == (0.5, 0.25)


def test_a_name_finds_the_shipped_spec() -> None:
    assert inspect.signature(optforge.load("NAMO")) == inspect.signature(NAMO)


def test_a_neighbour_is_found_for_extends(tmp_path: Path) -> None:
    (tmp_path / "half.opt").write_text(SPEC)
    (tmp_path / "quarter.opt").write_text("optimizer Quarter extends Half:\n    hyper lr = 0.25\n")
    p = torch.nn.Parameter(torch.zeros(1))
    assert optforge.load(tmp_path / "quarter.opt")([p]).defaults["lr"] == 0.25


def test_several_classes_need_a_choice(tmp_path: Path) -> None:
    path = tmp_path / "two.opt"
    path.write_text(SPEC + SPEC.replace("Half", "Other"))
    with pytest.raises(LookupError, match="Half, Other"):
        optforge.load(path)
    assert optforge.load(path, "Other").__name__ == "Other"
    with pytest.raises(LookupError, match="no `Third`"):
        optforge.load(path, "Third")


def test_what_is_not_there_is_said() -> None:
    with pytest.raises(LookupError, match="did you mean `NAMO`"):
        optforge.load("NAMQ")
    with pytest.raises(LookupError, match="there is no file"):
        optforge.load("nowhere/missing.opt")


def test_functions_alone_make_no_class(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    text = "def halved(x) = x / 2\n"
    Path("kit.opt").write_text(text)
    said = "kit.opt defines functions and wrappers only: no optimizer, schedule or penalty"
    for make in (lambda: optforge.load("kit.opt"), lambda: optforge.compile_source(text, "kit.opt")):
        with pytest.raises(LookupError, match=f"^{said}$"):
            make()


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (
            lambda model, sgd: optforge.explain_schedule(sgd),
            "`explain_schedule` takes an optimizer of a generated class",
        ),
        (lambda model, sgd: optforge.explain_schedule(NAMO), "constructed, not the class NAMO"),
        (lambda model, sgd: optforge.explain_routing(model, torch.optim.AdamW), "has rules, not the class AdamW"),
        (
            lambda model, sgd: optforge.explain_routing(NAMO),
            "takes a model, a torch.nn.Module, or its named parameters, not the class NAMO",
        ),
        (lambda model, sgd: optforge.explain_routing(model.parameters(), NAMO), "not a value of type generator"),
        (
            lambda model, sgd: optforge.param_groups(sgd),
            "`param_groups` takes a model, a torch.nn.Module, or its named parameters, not a value of",
        ),
        (lambda model, sgd: optforge.load(NAMO), "`load` takes a spec file or the name of a shipped spec, not type"),
        (lambda model, sgd: optforge.compile_source(Path("a.opt")), "`compile_source` takes the text of a spec, not "),
        (lambda model, sgd: optforge.Hutchinson(sgd), "SGD has no event `curvature`"),
    ],
)
def test_things_of_another_kind_are_refused_in_words(call: Any, said: str) -> None:
    model = torch.nn.Linear(2, 2)
    with pytest.raises(TypeError) as caught:
        call(model, torch.optim.SGD(model.parameters()))
    assert said in str(caught.value)


def test_a_wrong_spec_raises_with_the_caret() -> None:
    with pytest.raises(optforge.SpecError) as caught:
        optforge.compile_source(SPEC.replace("- lr * grad", "- lr * grd"))
    assert "error[E012]" in str(caught.value) and "^^^" in str(caught.value)
    assert caught.value.diagnostics[0].code == "E012"


def test_sources_and_tracebacks_show_the_generated_text() -> None:
    module = optforge.compile_source(SPEC.replace("weight - lr * grad", "weight - lr * grad / (t - 1)"))
    source = inspect.getsource(module.Half)
    assert source.startswith("class Half(SpecOptimizer, runtime=6):")
    p = torch.nn.Parameter(torch.zeros(1))
    p.grad = torch.ones(1)
    optimizer = module.Half([p])
    optimizer.RULES[0].step.function(torch.zeros(1), torch.ones(1), t=2, lr=0.5)
    with pytest.raises(TypeError) as caught:
        optimizer.RULES[0].step.function(torch.zeros(1), torch.ones(1), t="one", lr=0.5)
    shown = "".join(traceback.format_exception(caught.value))
    assert "weight = weight.sub_(lr * grad / (t - 1))" in shown


def test_param_groups_fit_every_generated_class() -> None:
    model = torch.nn.Sequential(torch.nn.Embedding(5, 4), torch.nn.Linear(4, 4), torch.nn.LayerNorm(4))
    groups = optforge.param_groups(model)
    assert [group["rule"] for group in groups] == ["embedding", "matrix", "vector"]
    assert len(NAMO(groups).param_groups) == 3
    table = optforge.explain_routing(model, NAMO)
    assert "1.weight" in table and "matrix" in table and "rest" in table
