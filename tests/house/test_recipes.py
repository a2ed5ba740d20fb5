"""The recipes of CONTRIBUTING.md, followed to the letter in a copy of the sources.

A block that begins with a path is a new file, or lines that go below or above a line of a file; blocks of commands
are run, in the order of the page. Nothing here knows what the recipes are about.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
COPIED = ("dsl", "compiler", "runtime", "generated", "specs", "tests", "tools", "src", "benchmarks", "examples")
FENCE = re.compile(r"^```(py|sh)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
HEADER = re.compile(r"# ([\w./]+)(?:, (above|below): (.*))?\n")
RECIPES = re.split(r"^## (.*)$", PAGE, flags=re.MULTILINE)[1:]
NAMES = RECIPES[::2]


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the recipes need of the sources, links included."""
    root = tmp_path_factory.mktemp("recipes") / "optforge"
    root.mkdir()
    for name in COPIED:
        shutil.copytree(ROOT / name, root / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "ARCHITECTURE.md"):
        shutil.copy(ROOT / name, root)
    return root


def apply_block(root: Path, block: str) -> None:
    """Put a block where its first line says."""
    header = HEADER.match(block)
    assert header, block
    name, place, mark = header.groups()
    path, body = root / name, block[header.end() :]
    if place is None:
        assert not path.exists(), f"{name} is there already"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(body, encoding="utf-8")
        return
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    found = [index for index, line in enumerate(lines) if line.strip().startswith(mark)]
    assert found, f"no line of {name} begins with {mark}"
    lines.insert(found[0] + (place == "below"), body)
    path.write_text("".join(lines), encoding="utf-8")


def commands(block: str) -> Iterator[tuple[dict[str, str], list[str]]]:
    for line in block.splitlines():
        settings = dict(re.findall(r"([A-Z_]+)=(\S+) ", line.partition("python")[0]))
        words = re.findall(r'"[^"]*"|\S+', line[sum(len(f"{k}={v} ") for k, v in settings.items()) :])
        program = [sys.executable, *(["-m", "optforge"] if words[0] == "optforge" else [])]
        yield settings, program + [word.strip('"') for word in words[1:]]


def run(root: Path, settings: dict[str, str], command: list[str]) -> None:
    path = os.pathsep.join([str(root / "src"), str(root)])
    environment = {**os.environ, "PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1", **settings}
    if "pytest" in command:
        command = [*command, "-p", "no:cacheprovider", "-m", "not wide and not peers"]
    done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"


def follow(root: Path, text: str) -> int:
    """Everything that a recipe says; the number of commands that it ran."""
    ran = 0
    for kind, block in FENCE.findall(text):
        if kind == "py":
            apply_block(root, block)
            continue
        for settings, command in commands(block):
            run(root, settings, command)
            ran += 1
    return ran


def test_the_page_has_five_recipes() -> None:
    assert NAMES == ["An operator", "An optimizer", "An error", "A pass", "A target"]


@pytest.mark.wide  # copies the sources and runs a dozen commands there
@pytest.mark.parametrize("name", NAMES)
def test_a_recipe_works(name: str, copy: Path) -> None:
    assert follow(copy, dict(zip(NAMES, RECIPES[1::2], strict=True))[name]) >= 2


def test_a_recipe_that_no_longer_fits_is_found(tmp_path: Path) -> None:
    (tmp_path / "driver.py").write_text("first = 1\n", encoding="utf-8")
    apply_block(tmp_path, "# driver.py, below: first\nsecond = first + 1\n")
    apply_block(tmp_path, "# driver.py, above: first\nassert True\n")
    assert (tmp_path / "driver.py").read_text() == "assert True\nfirst = 1\nsecond = first + 1\n"
    with pytest.raises(AssertionError, match=r"no line of driver\.py begins with third"):
        apply_block(tmp_path, "# driver.py, below: third\nx = 1\n")
    with pytest.raises(AssertionError, match="is there already"):
        apply_block(tmp_path, "# driver.py\nx = 1\n")
    (tmp_path / "wrong.py").write_text("raise SystemExit(3)\n", encoding="utf-8")
    with pytest.raises(AssertionError, match=r"wrong\.py"):
        follow(tmp_path, "```sh\npython wrong.py\n```\n")
