"""Broken and hostile files end in messages or in correct code, within seconds: never in a traceback or a hang."""

from __future__ import annotations

import os
import random
import re
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from optforge.compiler.driver import check_file, check_source, run_passes
from optforge.compiler.frontend.files import SPECS
from optforge.compiler.targets.torch.render import render_program
from optforge.compiler.targets.torch.target import TORCH
from optforge.dsl.diagnostics import render_json, render_text
from optforge.dsl.errors import CATALOGUE
from optforge.dsl.source import Source

SECONDS = 10
STATE = 2 << 30
MANY = 20_000


def rule(*lines: str, role: str = "matrix", head: str = "") -> str:
    body = "".join(f"        {line}\n" for line in lines)
    return f"{head}optimizer Hostile:\n    hyper lr = 0.1\n    for {role}:\n{body}"


def update(expression: str) -> str:
    return rule(f"weight <- weight - lr * {expression}")


def chain(count: int, step: Callable[[int], str], first: str = "x0 = grad", last: str = "") -> str:
    """Equations x0, x1, ... that each read the one before."""
    return rule(first, *(f"x{i} = {step(i)}" for i in range(1, count)), last or f"weight <- weight - lr * x{count - 1}")


def doubling(count: int, body: str) -> str:
    functions = "".join(f"def f{i}(x) = {body.format(f'f{i - 1}')}\n" for i in range(1, count))
    return update(f"f{count - 1}(grad)") + "def f0(x) = x + x\n" + functions


def local_values(count: int, step: str) -> str:
    lines = "".join(f"    x{i} = {step.format(f'x{i - 1}')}\n" for i in range(1, count))
    return f"def f(x):\n    x0 = x\n{lines}    return x{count - 1}\n" + update("f(grad)")


BROKEN: dict[str, str | bytes] = {
    "nothing": "",
    "blank lines": "\n\n   \n\t\n",
    "only comments": "# nothing\n# at all\n" * 100,
    "only a docstring": '"""alone"""\n',
    "unclosed docstring": update("grad") + '"""never closed',
    "unclosed string": 'optimizer A:\n    hyper lr = 0.1 "never\n',
    "unclosed strings": '"' * MANY,
    "three quotes": '"""' * MANY,
    "nul": "\0",
    "nul inside": update("gr\0ad"),
    "not utf-8": b"optimizer \xff\xfe:\n",
    "latin-1": "optimizer Größe:\n".encode("latin-1"),
    "utf-16": update("grad").encode("utf-16"),
    "utf-32": update("grad").encode("utf-32"),
    "surrogates": b"\xed\xa0\x80" * 50,
    "byte order mark in the middle": update("grad") + "\ufeff",
    "random bytes": random.Random(1).randbytes(100_000),
    "random ascii": "".join(random.Random(2).choices([chr(c) for c in range(9, 127)], k=50_000)),
    "elf": b"\x7fELF\x02\x01\x01" + bytes(5000),
    "no line break": "a" * 120_000,
    "megabytes": "# \n" * 2_000_000,
    "carriage returns": update("grad").replace("\n", "\r"),
    "tabs and spaces": "optimizer A:\n\thyper lr = 1\n        hyper b = 2\n \t for tensor:\n",
    "opening parentheses": update("(" * MANY),
    "closing parentheses": update(")" * MANY),
    "nested parentheses": update("(" * MANY + "grad" + ")" * MANY),
    "nested calls": update("sqrt(" * MANY + "grad" + ")" * MANY),
    "nested indentation": "".join("  " * i + "optimizer A:\n" for i in range(300)),
    "minus signs": update("-" * MANY + "grad"),
    "nots": update("(1 if " + "not " * MANY + "true else 2)"),
    "transposes": update("grad" + "'" * MANY),
    "choices": update("(" + "grad if t > 1 else " * 5000 + "grad)"),
    "powers": update("^".join(["grad"] * MANY)),
    "large power": update("9^9^9^9^9"),
    "large number": update("1" + "0" * 5000),
    "long number": update("0." + "1" * 100_000),
    "large exponent": update("1e" + "9" * 10_000),
    "long name": update("x" * 100_000),
    "long names": "".join(f"optimizer {'A' * 300}{i}:\n    hyper {'b' * 300} = 1\n" for i in range(50)),
    "sum": update("+".join(["grad"] * 9000)),
    "short sum": update("(" + " + ".join(["grad"] * 95) + ")"),
    "pipes": update("(grad" + " |> sqrt" * 9000 + ")"),
    "short pipes": update("(grad" + " |> abs" * 90 + ")"),
    "short choices": update("(" + "grad if t > 1 else " * 90 + "grad)"),
    "comparisons": update("(1 if " + " < ".join(["lr"] * 9000) + " else 2)"),
    "condition": "optimizer A:\n    hyper lr = 1 where " + " < ".join(["lr"] * 9000) + "\n",
    "members": 'optimizer A:\n    hyper m = "a" where m in (' + ", ".join(['"a"'] * 9000) + ")\n",
    "triples": update("orthogonalize(grad, coefficients=(" + ", ".join(["(1, 2, 3)"] * 9000) + "))"),
    "arguments": update("max(" + ", ".join(["grad"] * 9000) + ")"),
    "parameters": "def f(" + ", ".join(f"x{i}" for i in range(9000)) + ") = x0\n",
    "commas": update("max(" + "," * MANY + ")"),
    "equations": chain(10_000, lambda i: f"x{i - 1} + 1"),
    "states": chain(250, lambda i: f"prev(x{i - 1}) + x{i - 1}"),
    "initial values": chain(250, lambda i: f"prev(x{i}, x{i - 1}) + 1"),
    "averages": chain(250, lambda i: f"ema(x{i - 1}, 0.9)"),
    "totals": chain(250, lambda i: f"total(norm(grad) * x{i - 1})", first="x0 = 1"),
    "conditions": chain(250, lambda i: f"x{i - 1} + 1 if t > {i} else grad"),
    "cycle": chain(250, lambda i: f"x{i - 1} + 1", first="x0 = x249"),
    "backwards": rule("weight <- x249", *(f"x{i} = x{i - 1}" for i in range(249, 0, -1)), "x0 = grad"),
    "unknown names": chain(250, lambda i: f"y{i} + grad"),
    "claims": rule("weight <- grad", *["claim norm(grad) >= 0"] * 3000),
    "hypers": "optimizer A:\n" + "".join(f"    hyper h{i} = 1 where h{i} > 0\n" for i in range(10_000)),
    "some hypers": "optimizer A:\n" + "".join(f"    hyper h{i} = 1 where h{i} > 0\n" for i in range(250)),
    "optimizers": "".join(f"optimizer A{i}:\n    for tensor:\n        weight <- grad\n" for i in range(10_000)),
    "many optimizers": "".join(f"optimizer A{i}:\n    for tensor:\n        weight <- grad\n" for i in range(200)),
    "events": "optimizer A:\n" + "".join(f"    on e{i}():\n        h{i} = grad\n" for i in range(2000)),
    "bases": "".join(f"optimizer A{i} extends A{i + 1}:\n    hyper h{i} = 1\n" for i in range(1500)),
    "delegates": "".join(f"optimizer A{i}:\n    for tensor: use A{i + 1}()\n" for i in range(1500)),
    "functions": "".join(f"def f{i}(x) = x + 1\n" for i in range(1500)),
    "functions in functions": doubling(1000, "{0}(x) + 1"),
    "doubling": doubling(40, "{0}(x) + {0}(x)"),
    "doubling twice": doubling(9, "{0}({0}(x)) + {0}({0}(x))"),
    "doubling values": local_values(60, "{0} + {0}"),
    "doubling in a claim": local_values(60, "{0} + {0}") + "        claim f(lr) > 0\n",
    "doubling in a condition": local_values(60, "{0} + {0}").replace("lr = 0.1", "lr = 0.1 where f(lr) > 0"),
    "many values": local_values(250, "{0} + 1"),
    "many remembered values": local_values(250, "prev({0}) + 1"),
    "recursion": "def f(x) = f(x)\n" * 500 + update("f(grad)"),
    "mutual recursion": "def f(x) = g(x) + g(x)\ndef g(x) = f(x) + f(x)\n" + update("f(grad)"),
    "circle of values": "def f(x):\n    a = b\n    b = a\n    return a\n"
    + update("f(grad)").replace("0.1", "0.1 where f(lr) > 0"),
}

# Those of them that are specs like others, only large: the rest gets at least one error.
RIGHT = {
    "nested parentheses", "doubling values", "long number", "short sum", "short pipes", "short choices", "states",
    "initial values", "averages", "totals", "conditions", "backwards", "many optimizers", "functions", "parameters",
    "many values", "many remembered values",
}  # fmt: skip


# Large ones that the command line gets besides the small ones.
COMMANDED = {"random_bytes", "megabytes", "utf-16", "minus_signs", "nul_inside", "unclosed_docstring"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A folder of all hostile files, and a subfolder that is called like one."""
    path = tmp_path_factory.mktemp("hostile")
    for name, text in BROKEN.items():
        (path / f"{name.replace(' ', '_')}.opt").write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


@pytest.mark.parametrize("name", BROKEN)
def test_hostile_file_ends_in_messages_or_code(name, folder):
    start = time.process_time()
    snapshot = check_file(folder / f"{name.replace(' ', '_')}.opt")
    problems = [each for each in snapshot.diagnostics if each.severity == "error"]
    assert (snapshot.program is not None) == (name in RIGHT), render_text(problems)
    assert bool(problems) == (name not in RIGHT)
    assert len(problems) <= 50
    assert len(render_text(problems)) < 50_000
    render_json(problems)
    if snapshot.program is not None and snapshot.program.declarations:
        compile(render_program(run_passes(snapshot.program, TORCH.rewrites), "Test."), name, "exec")
    assert time.process_time() - start < SECONDS


def command(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """The command line with bounded state."""

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_AS, (STATE, STATE))

    line = [sys.executable, "-m", "optforge", *map(str, arguments)]
    environment = {**os.environ, "OPTFORGE_DEBUG": ""}
    return subprocess.run(line, capture_output=True, text=True, check=False, preexec_fn=limit, env=environment)


def test_commands_take_every_hostile_file(folder, tmp_path):
    """Exit code 1 where something is wrong and 0 where nothing is; no file is touched that does not parse."""
    before = {path.name: path.read_bytes() for path in folder.glob("*.opt")}
    files = [path for path in folder.glob("*.opt") if path.stat().st_size < 80 or path.stem in COMMANDED]
    right = [folder / "nested_parentheses.opt", folder / "short_sum.opt"]
    for expected, arguments in (
        (1, ("check", *files)),
        (1, ("check", "--json", *files)),
        (1, ("build", "--out", tmp_path / "none", *files)),
        (1, ("fmt", "--check", *files)),
        (0, ("check", *right)),
        (0, ("build", "--out", tmp_path / "out", *right[1:])),
    ):
        done = command(*arguments)
        assert done.returncode == expected, (arguments, done.stderr[-2000:])
        assert "Traceback" not in done.stderr and "internal error" not in done.stderr
    assert {path.name: path.read_bytes() for path in folder.glob("*.opt")} == before
    assert not (tmp_path / "none").exists()


def test_places_that_are_no_files(tmp_path):
    (tmp_path / "folder.opt").mkdir()
    folder, absent = tmp_path / "folder.opt", tmp_path / "absent.opt"
    for arguments in (("check", folder), ("check", absent), ("build", absent), ("fmt", folder)):
        done = command(*arguments)
        assert done.returncode == 2, done.stderr
        assert done.stderr.startswith("optforge: ") and done.stderr.count("\n") <= 2
    (tmp_path / "all").mkdir()
    (tmp_path / "all" / "folder.opt").mkdir()
    done = command("check", tmp_path / "all")
    assert done.returncode == 2 and "there are no .opt files" in done.stderr


def test_neighbours_that_are_broken(tmp_path):
    """A neighbour matters only where a name in it is needed, and then its own mistakes are shown."""
    (tmp_path / "binary.opt").write_bytes(b"optimizer Base:\n\xff\xfe\x00")
    (tmp_path / "broken.opt").write_text("optimizer Broken:\n    for tensor:\n        weight <- (grad\n")
    (tmp_path / "folder.opt").mkdir()
    own = tmp_path / "own.opt"
    own.write_text("optimizer Own:\n    for tensor:\n        weight <- weight - grad\n")
    assert check_file(own).diagnostics == ()
    own.write_text("optimizer Own extends Base:\n    for tensor:\n        weight <- weight - grad\n")
    assert [each.code for each in check_file(own).diagnostics] == ["E018"]
    own.write_text("optimizer Own extends Broken:\n    for tensor:\n        weight <- weight - grad\n")
    (problem,) = check_file(own).diagnostics
    assert problem.code == "E061" and [label.span.source.path for label in problem.labels] == ["broken.opt"]


# Mutations of specs that people wrote

SHIPPED = [path.read_text(encoding="utf-8") for path in sorted(SPECS.glob("*.opt"))]
WORDS = sorted(set(re.findall(r"\w+|[^\w\s]+", "\n".join(SHIPPED))) | {"super", "total", "prev", "@", "'", '"""', "\t"})


@st.composite
def mutants(draw: st.DrawFn) -> str:
    """A shipped spec with a few characters, words or lines deleted, doubled, swapped or put in."""
    text = draw(st.sampled_from(SHIPPED))
    for _ in range(draw(st.integers(1, 4))):
        pattern = draw(st.sampled_from([r"[\s\S]", r"\w+|[^\w\s]+", r"[^\n]*\n"]))
        pieces = [match.span() for match in re.finditer(pattern, text)]
        if len(pieces) < 2:
            continue
        (a, b), (c, d) = sorted((draw(st.sampled_from(pieces)), draw(st.sampled_from(pieces))))
        changed = {
            "delete": text[:a] + text[b:],
            "double": text[:b] + text[a:],
            "swap": text[:a] + text[c:d] + text[b:c] + text[a:b] + text[d:] if b <= c else text,
            "move": text[:a] + text[b:c] + text[a:b] + text[c:] if b <= c else text,
            "put in": text[:a] + draw(st.sampled_from(WORDS)) + text[a:],
            "replace": text[:a] + draw(st.sampled_from(WORDS)) + text[b:],
        }
        text = changed[draw(st.sampled_from(sorted(changed)))]
    return text


@given(mutants())
@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
def test_a_mutated_spec_ends_in_messages_or_code(text):
    result = check_source(Source("mutant.opt", text))
    for diagnostic in result.diagnostics:
        assert diagnostic.code in CATALOGUE
        assert not Path(diagnostic.span.source.path).is_absolute()
    assert (result.program is None) == any(each.severity == "error" for each in result.diagnostics)
    render_text(result.diagnostics)
    if result.program is not None and result.program.declarations:
        compile(render_program(run_passes(result.program, TORCH.rewrites, verify=True), "Test."), "mutant.py", "exec")
