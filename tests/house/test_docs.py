"""Pages hold what they say: links lead somewhere, specs check, excerpts are those of the files, options exist."""

from __future__ import annotations

import ast
import os
import re
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from optforge.compiler.driver import check_source
from optforge.dsl.diagnostics import render_text
from optforge.dsl.source import Source

ROOT = Path(__file__).parents[2]
README_LIMIT = 120
LINE_LIMIT = 140  # tables apart
WRITTEN_BY_PROGRAMS = {"benchmarks/RESULTS.md"}
LINK = re.compile(r"!?\[[^\]\n]*\]\(([^)\s]+)\)")
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
SPEC = re.compile(r"^(optimizer|schedule|penalty|def|from) ", re.MULTILINE)


def tracked_pages() -> list[str]:
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "*.md"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    return [name for name in listed.splitlines() if (ROOT / name).exists()]


PAGES = tracked_pages()
OURS = [name for name in PAGES if "/" not in name or name.startswith("docs/")]


@cache
def page(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def prose(text: str) -> str:
    """The page without what stands in fences, and without code in lines."""
    return re.sub(r"`[^`\n]*`", "`", FENCE.sub("", text))


@cache
def anchors(name: str) -> set[str]:
    """What headings of a page are called in links: lower case, words joined by hyphens."""
    headings = re.findall(r"^#+ (.*)$", FENCE.sub("", page(name)), re.MULTILINE)
    words = [re.sub(r"[^\w\- ]", "", heading.replace("`", "").lower()) for heading in headings]
    return {each.strip().replace(" ", "-") for each in words}


def fences(name: str, kind: str) -> Iterator[str]:
    yield from (body for language, body in FENCE.findall(page(name)) if language == kind)


@pytest.mark.parametrize("name", PAGES)
def test_links_lead_to_files_and_headings(name: str) -> None:
    problems = []
    for link in LINK.findall(prose(page(name))):
        path, _, anchor = link.partition("#")
        if path.startswith(("http://", "https://", "mailto:")):
            continue
        target = ((ROOT / name).parent / path).resolve() if path else ROOT / name
        if not target.exists():
            problems.append(f"{link}: no such file")
        elif anchor and anchor not in anchors(target.relative_to(ROOT.resolve()).as_posix()):
            problems.append(f"{link}: no such heading")
    assert not problems


def test_every_page_of_the_docs_is_reached_from_the_readme() -> None:
    reached, waiting = set(), ["README.md"]
    while waiting:
        name = waiting.pop()
        if name not in reached and name in OURS:
            reached.add(name)
            waiting += [linked_path(name, link) for link in LINK.findall(page(name))]
    assert reached == set(OURS)


def linked_path(name: str, link: str) -> str:
    """The path, from the root, of what a page links to."""
    return os.path.normpath(f"{Path(name).parent.as_posix()}/{link.partition('#')[0]}")


def test_the_readme_is_one_page() -> None:
    assert len(page("README.md").splitlines()) <= README_LIMIT


def test_what_the_readme_shows_is_what_the_files_say() -> None:
    """The spec, what is generated from it, and the first use of it."""
    spec = next(body for body in fences("README.md", "") if SPEC.match(body))
    assert spec in (ROOT / "specs" / "rmnp.opt").read_text(encoding="utf-8")
    generated = next(body for body in fences("README.md", "python") if body.startswith("def "))
    assert generated in (ROOT / "generated" / "rmnp.py").read_text(encoding="utf-8")


SPECS = [(name, number, body) for name in OURS for number, body in enumerate(fences(name, "")) if SPEC.match(body)]


@pytest.mark.parametrize(("name", "number", "body"), SPECS, ids=lambda value: str(value)[:24].partition("\n")[0])
def test_specs_in_pages_check(name: str, number: int, body: str) -> None:
    found = check_source(Source(f"{name}:{number}", body), ROOT / "specs").diagnostics
    assert not found, render_text(found)


def test_python_in_pages_parses() -> None:
    for name in OURS:
        for body in fences(name, "python"):
            ast.parse(body)


@cache
def help_of(command: str) -> str:
    from optforge.compiler.commands.cli import command_parser

    (commands,) = (each.choices for each in command_parser()._actions if isinstance(each.choices, dict))
    return commands[command].format_help() if command in commands else ""


@pytest.mark.parametrize("name", OURS)
def test_commands_in_pages_exist_with_their_options(name: str) -> None:
    """Each `optforge COMMAND --option`, in a fence or in a line."""
    shown = re.findall(r"(?:^|`|\$ )(optforge [a-z][^`\n#]*)", page(name), re.MULTILINE)
    for command in shown:
        words = command.split()
        assert help_of(words[1]), command
        for option in (word for word in words[2:] if word.startswith("--")):
            assert option in help_of(words[1]), command


@pytest.mark.parametrize("name", OURS)
def test_targets_of_make_in_pages_exist(name: str) -> None:
    targets = set(re.findall(r"^([a-z-]+):", page_of_makefile(), re.MULTILINE))
    assert {*re.findall(r"`make ([a-z-]+)", page(name))} <= targets


def page_of_makefile() -> str:
    return (ROOT / "Makefile").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", OURS)
def test_paths_in_pages_exist(name: str) -> None:
    """`folder/file.ext` in code, from the root or beside the page; what stands for any file has capitals or `...`."""
    named = re.findall(r"`((?:[a-z_0-9]+/)+[a-z_0-9]+\.(?:py|opt|md|lark|json))`", page(name))
    places = (ROOT, (ROOT / name).parent)
    assert not [each for each in named if not any((place / each).exists() for place in places)]
