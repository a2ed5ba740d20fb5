"""Strings and comments of a spec are text for people: whatever stands in them, generated code never runs it."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

from optforge.compiler.driver import check_source, compile_program
from optforge.compiler.targets.base import Origin
from optforge.compiler.targets.torch.render import render_standalone
from optforge.compiler.targets.torch.reserved import RESERVED
from optforge.compiler.targets.torch.target import TORCH
from optforge.dsl.diagnostics import render_json, render_text
from optforge.dsl.parser import parse_source
from optforge.dsl.printer import print_file
from optforge.dsl.source import Source

ROOT = Path(__file__).parents[2]
CALL = "__import__('pathlib').Path('marker').touch()"

# What stands between quotes. Those with a line break or a quote can stand between three quotes only.
PAYLOADS = {
    "plain": CALL,
    "quotes": f"'''; {CALL}; '''",
    "double quotes": f'a" + {CALL} + "b',
    "two double quotes": f'a"" + {CALL} + ""b',
    "quote at the end": f'{CALL} "\n',
    "escaped quotes": f'\\"\\"\\"\n{CALL}\n\\"\\"\\"\n',
    "octal quotes": rf"\42\42\42 {CALL} \42\42\42",
    "hexadecimal quotes": rf"\x22\x22\x22 {CALL} \x22\x22\x22",
    "backslash": "\\",
    "backslashes": "a\\\\\\",
    "backslash before the end": f"{CALL}\\",
    "named character": r"\N{DASH} \N{QUOTATION MARK} \N{",
    "unicode escapes": "\\u0022\\u0022\\u0022 \\U00000022 \\u",
    "template": "{{ module }} {% raw %} {# gone #} {{ ''.__class__ }} {%",
    "format": "{0} {name} %s %(name)s ${x} {",
    "line breaks": f"a\n{CALL}\n\nimport os\n",
    "indented lines": f"a\n        {CALL}\n    b\n",
    "carriage return": f"a\r{CALL}\rb",
    "form feed": f"a\f{CALL}\vb\x1c\x1d\x1e",
    "unicode line ends": f"a\x85{CALL}\u2028{CALL}\u2029b",
    "control characters": "".join(chr(c) for c in range(1, 32) if c not in (9, 10, 13)) + "\x7f\x9b31m",
    "nul": f"a\0{CALL}",
    "bidirectional": f"\u202e{CALL}\u2066 \u200f \u2069",
    "invisible": "\ufeff\u200b\u00ad\u2060 a",
    "wide": "\U0001f600 \u0301 \ud7ff \U0010ffff \u3042" * 20,
    "comment": f"# {CALL}",
    "colon": "Args:\n    x: y\nReturns:\n",
    "one long word": "w" * 400,
    "tabs": f"\ta\t{CALL}\n\t\tb",
    "only spaces": "   \n   ",
    "empty": "",
    "ends like code": f'"""\n\nimport os\n{CALL}\n"""'.replace('"""', "''' "),
}

SPEC = """{file}

def helper(x):
    {function}
    return x

optimizer Plain:
    {optimizer}
    hyper lr = 0.1 where lr > 0 {hyper}
    hyper mode = {choice} where mode in ({choice}, "other") {hyper}
    on measure(scale):
        {event}
        h = scale * grad
    for matrix:
        {rule}
        # {comment}
        weight <- weight - lr * helper(grad) * (1 if mode == "other" else 2) / (1 + h)
        claim norm(grad) >= 0
    for rest: use Other()

optimizer Other:
    hyper mode = {choice} where mode in ({choice}, "other") {hyper}
    for tensor:
        weight <- weight - 0.1 * (grad if mode == {choice} else 2 * grad)

schedule Decay:
    {optimizer}
    hyper n = 5 where n > 0 {hyper}
    factor <- 1 / (n + t)

penalty Size:
    {optimizer}
    hyper scale = 1 {hyper}
    for matrix:
        {rule}
        loss <- scale * norm(weight)
"""


def spec_with(payload: str) -> str:
    """The spec with the payload wherever a string or a comment can stand."""
    long = f'"""{payload}"""'
    short = f'"{payload}"' if '"' not in payload and "\n" not in payload else long
    places = dict.fromkeys(("file", "function", "optimizer", "event", "rule"), long)
    choice = short if payload.isprintable() and len(payload) <= 60 else '"plain"'
    return SPEC.format(**places, hyper=short, choice=choice, comment=" ".join(re.split("[\r\n]", payload)))


def code_in(text: str) -> set[str]:
    """The names and attributes that a module's code mentions."""
    nodes = list(ast.walk(ast.parse(text)))
    return {n.id for n in nodes if isinstance(n, ast.Name)} | {n.attr for n in nodes if isinstance(n, ast.Attribute)}


def executed(text: str, package: str) -> ModuleType:
    module = ModuleType("hostile")
    module.__package__ = package
    sys.modules["hostile"] = module
    exec(compile(text, "hostile.py", "exec"), vars(module))
    del sys.modules["hostile"]
    return module


def generated_with(payload: str, path: str = "spec.opt") -> str:
    text = spec_with(payload)
    return TORCH.render(compile_program(Source(path, text), TORCH), Origin(path, text))


# Names that a long line's parts get; all other code is the same whatever the strings say.
NAMED = re.compile(r"update|denominator|condition|\w+_part(_\d+)?")
HARMLESS = code_in(generated_with("nothing"))


@pytest.fixture(autouse=True)
def inside(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("payload", PAYLOADS.values(), ids=PAYLOADS)
def test_text_stays_text(payload, tmp_path):
    """The code is that of a harmless spec, whatever the strings say; it runs, and nothing else happens."""
    text = spec_with(payload)
    result = check_source(Source("spec.opt", text), reserved=RESERVED)
    assert result.program is not None, render_text(result.diagnostics)
    generated = generated_with(payload)
    assert all(NAMED.fullmatch(name) for name in code_in(generated) - HARMLESS)
    for module in (executed(generated, "optforge.generated"), executed(render_standalone(generated), "")):
        p = torch.nn.Parameter(torch.ones(2, 2))
        optimizer = module.Plain([p])
        p.grad = torch.ones(2, 2)
        optimizer.measure(scale=1.0)
        optimizer.step()
        assert torch.isfinite(p).all()
    assert not (tmp_path / "marker").exists()


@pytest.mark.parametrize("payload", PAYLOADS.values(), ids=PAYLOADS)
def test_generated_text_is_printable(payload):
    """No terminal, editor or reader can be fooled by what stands in a generated module."""
    assert all(char.isprintable() or char == "\n" for char in generated_with(payload))


@pytest.mark.parametrize("payload", PAYLOADS.values(), ids=PAYLOADS)
def test_formatting_changes_no_string(payload):
    file, problems = parse_source(Source("spec.opt", spec_with(payload)))
    assert file is not None, render_text(problems)
    again, _ = parse_source(Source("spec.opt", print_file(file)))
    assert again == file


@pytest.mark.parametrize("payload", PAYLOADS.values(), ids=PAYLOADS)
def test_messages_are_printable(payload):
    """Also when the mistake stands in the middle of it."""
    text = spec_with(payload).replace('== "other"', f'== """{payload}x"""').replace("(grad)", "(grd)")
    diagnostics = check_source(Source(f"{payload}.opt", text), reserved=RESERVED).diagnostics
    assert {"E012", "E035"} & {diagnostic.code for diagnostic in diagnostics}
    shown = render_text(diagnostics)
    assert all(char.isprintable() or char == "\n" for char in shown)
    assert render_json(diagnostics).isascii()


@pytest.mark.parametrize("payload", ["w" * 61, "a\x1b[31m", "a\u202eb", "a\nb", "a\0b"], ids=ascii)
def test_choices_are_short_and_printable(payload):
    text = spec_with("of two\nlines").replace('"plain"', f'"""{payload}"""')
    codes = {diagnostic.code for diagnostic in check_source(Source("spec.opt", text), reserved=RESERVED).diagnostics}
    assert codes in ({"E002"}, {"E007"})


@pytest.mark.parametrize("payload", PAYLOADS.values(), ids=PAYLOADS)
def test_a_path_stays_a_path(payload):
    """The spec's path stands in the module's docstring."""
    path = payload.replace("/", "").replace("\0", "") + ".opt"
    assert code_in(generated_with("nothing", path)) == HARMLESS


def test_modules_pass_the_linter_and_the_formatter(tmp_path):
    for number, payload in enumerate(PAYLOADS.values()):
        (tmp_path / f"spec_{number}.py").write_text(generated_with(payload), encoding="utf-8")
    for arguments in (["check"], ["format", "--check"]):
        command = [sys.executable, "-m", "ruff", *arguments, "--config", str(ROOT / "pyproject.toml"), str(tmp_path)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout
