"""The rooms of the compiler, from the ground up: what lies in each, how large it is, and which rooms it imports.

`python -m tools.rooms` prints them, and every import that goes up; `--write` brings the table of ARCHITECTURE.md up to
date. `tests/house/test_house.py` holds the code and the table to the same list.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from optforge.compiler.output import write_whole

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "ARCHITECTURE.md"
BEGIN, END = "<!-- rooms -->\n", "<!-- end of rooms -->\n"

# A room imports those above it alone. Each is a folder or a module of its own.
ROOMS = (
    "dsl",
    "compiler/output",
    "compiler/ir",
    "compiler/frontend",
    "compiler/streams",
    "compiler/analysis",
    "compiler/passes",
    "compiler/oracle",
    "compiler/targets/base",
    "compiler/driver",
    "compiler/targets/torch",
    "compiler/targets/document",
    "compiler/modules",
    "compiler/load",
    "compiler/verify",
    "compiler/commands",
)
NO_ROOMS = {"compiler/__init__", "compiler/targets/__init__"}  # they hold a docstring


@dataclass
class Room:
    """What was found of a room; ``imports`` holds for each other room the modules that import it."""

    purpose: str = ""
    modules: int = 0
    lines: int = 0
    imports: dict[str, list[str]] = field(default_factory=dict)


def room_of(module: str) -> str | None:
    """The room of a module, given as a path without its ending; None for what is none of these."""
    return next((room for room in ROOMS if module == room or module.startswith(f"{room}/")), None)


def imported_modules(tree: ast.Module) -> Iterator[str]:
    """Paths of what may be modules of ours; ``from package import module`` names one too."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [each.name for each in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module, *(f"{node.module}.{each.name}" for each in node.names)]
        else:
            continue
        yield from (name.removeprefix("optforge.").replace(".", "/") for name in names if name.startswith("optforge."))


def survey(root: Path = ROOT) -> dict[str, Room]:
    """All rooms in their order.

    Raises:
        ValueError: a module lies in no room.
    """
    rooms = {name: Room() for name in ROOMS}
    for folder in ("dsl", "compiler"):
        for path in sorted((root / folder).rglob("*.py")):
            module = path.relative_to(root).with_suffix("").as_posix()
            if module in NO_ROOMS:
                continue
            home = room_of(module)
            if home is None:
                raise ValueError(f"{module} lies in no room")
            text = path.read_text(encoding="utf-8")
            tree = ast.parse(text)
            room = rooms[home]
            room.modules += 1
            room.lines += len(text.splitlines())
            if module in (home, f"{home}/__init__"):
                room.purpose = (ast.get_docstring(tree) or "").split("\n")[0]
            for other in {room_of(each) for each in imported_modules(tree)} - {home, None}:
                room.imports.setdefault(str(other), []).append(module)
    return rooms


def arrows_up(rooms: dict[str, Room]) -> list[str]:
    """Imports of rooms that stand further up; without them there is no circle either."""
    order = list(rooms)
    return [
        f"{module} imports {other}"
        for name, room in rooms.items()
        for other, modules in room.imports.items()
        if order.index(other) > order.index(name)
        for module in modules
    ]


def table(rooms: dict[str, Room]) -> str:
    """The table of the page. Lines are rounded, as they change with every commit."""
    rows = ["| room | what it does | lines | imports |", "|---|---|--:|---|"]
    for name, room in rooms.items():
        path = name if (ROOT / name).is_dir() else f"{name}.py"
        imports = ", ".join(short(each) for each in rooms if each in room.imports)
        purpose = room.purpose.replace("``", "`").rstrip(".")
        rows.append(f"| [`{short(name)}`]({path}) | {purpose} | {max(round(room.lines, -2), 100)} | {imports} |")
    return "\n".join(rows) + "\n"


def short(name: str) -> str:
    return name.removeprefix("compiler/")


def main() -> int:
    rooms = survey()
    up = arrows_up(rooms)
    for name, room in rooms.items():
        print(f"{name:24}{room.modules:4} modules {room.lines:6} lines   imports {', '.join(map(short, room.imports))}")
    print("\n".join(up) or "no import goes up")
    if "--write" in sys.argv[1:]:
        text = PAGE.read_text(encoding="utf-8")
        before, _, rest = text.partition(BEGIN)
        after = rest.partition(END)[2]
        write_whole(PAGE, f"{before}{BEGIN}{table(rooms)}{END}{after}")
    return 1 if up else 0


if __name__ == "__main__":
    sys.exit(main())
