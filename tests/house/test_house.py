"""House rules that hold for every file: who may import whom, and what a module must have."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections import Counter, defaultdict
from functools import cache
from pathlib import Path

import pytest

from tools.rooms import BEGIN, END, arrows_up, survey, table

ROOT = Path(__file__).parents[2]
FOLDERS = ("dsl", "compiler", "runtime", "generated", "examples", "benchmarks", "tests", "tools", "src")
FOLDERS_OF_OURS = ("dsl", "compiler", "runtime", "generated", "specs")  # under `optforge.` in imports
FUNCTION_LIMIT = 60
FILE_LIMIT = 400

LONG_FILES = {
    "compiler/ir/operators.py",
    "dsl/errors.py",
    "compiler/ir/nodes.py",
    "generated/__init__.py",
}  # tables, definitions

# Generated modules of methods that are many equations.
LONG_METHODS = {
    f"generated/{name}.py"
    for name in (
        "came",
        "contra_normuon_aurora",
        "pinned_soap_muon",
        "record44",
        "record45",
        "record46",
        "row_floor_soap_muon",
        "soap_muon",
        "trust_soap_muon",
    )
}

# What each part may import of ours; the longest matching path counts.
ALLOWED = {
    "dsl": ("optforge.dsl",),
    "compiler": ("optforge.dsl", "optforge.compiler"),
    "compiler/targets/torch/explain.py": ("optforge.dsl", "optforge.compiler", "optforge.runtime"),
    "runtime": (),
    "generated": ("optforge.runtime",),
    "examples": ("optforge", "optforge.generated", "optforge.inputs", "examples"),
    "benchmarks": ("optforge", "optforge.generated", "benchmarks", "examples"),
    "tools": ("optforge.dsl", "optforge.compiler", "optforge.runtime", "tools"),
}
# The parts of the compiler that may know heavy libraries when they are imported; no part needs those of the tests.
HEAVY = {
    "torch": (
        "runtime",
        "compiler/verify/comparison",
        "compiler/verify/differential",
        "generated",
        "examples",
        "benchmarks",
    ),
    "numpy": (
        "compiler/oracle",
        "compiler/verify/claims",
        "compiler/verify/properties",
        "compiler/verify/comparison",
        "compiler/verify/differential",
        "compiler/verify/shared",
        "examples",
        "benchmarks",
    ),
    "lark": ("dsl",),
    "hypothesis": (),
    "tqdm": (),
}


def python_files() -> list[str]:
    """Every Python file once: what is reached through the links of src/optforge counts where it really is."""
    paths = [path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py")]
    real = {path.resolve().relative_to(ROOT.resolve()).as_posix() for path in paths}
    return sorted(real)


FILES = [name for name in python_files() if "/cases/" not in name]


def imported(name: str) -> set[str]:
    """Full names of the modules that a file imports when it runs, at the top or inside functions."""
    found = set()
    for node in ast.walk(parsed(name)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            found.add(node.module)
    return found


@cache
def parsed(name: str) -> ast.Module:
    return ast.parse((ROOT / name).read_text(encoding="utf-8"))


def rule_for(name: str) -> tuple[str, ...] | None:
    matches = [prefix for prefix in ALLOWED if name == prefix or name.startswith(f"{prefix}/")]
    return ALLOWED[max(matches, key=len)] if matches else None


def test_imports_go_one_way() -> None:
    problems = []
    for name in FILES:
        allowed, modules = rule_for(name), imported(name)
        tops = {module: module.split(".")[0] for module in modules}
        problems += [f"{name} imports {m} past `optforge.`" for m in modules if tops[m] in FOLDERS_OF_OURS]
        ours = (
            []
            if allowed is None
            else [m for m in modules if tops[m] in ("optforge", "examples", "benchmarks", "tests", "tools")]
        )
        problems += [f"{name} may not import {module}" for module in ours if not fits(name, module, allowed or ("-",))]
    assert not problems


def fits(name: str, module: str, allowed: tuple[str, ...]) -> bool:
    """Examples and benchmarks import nothing of optforge but its public modules themselves."""
    is_public = name.startswith(("examples/", "benchmarks/")) and module.startswith("optforge")
    return module in allowed if is_public else module.startswith(allowed)


# The rooms of the runtime from the ground up, and on top of them what needs several.
ROOMS = ("contract", "linalg", "recording", "exchange", "routing", "placement", "batching", "execution", "steps", "")


def test_imports_in_the_runtime_go_down_its_rooms() -> None:
    """Relative ones, so that a copy of the runtime under any name works."""
    problems = []
    for path in (Path(name) for name in FILES if name.startswith("runtime/") and name != "runtime/__init__.py"):
        room = path.parts[1] if len(path.parts) > 2 else ""
        for node in ast.walk(parsed(path.as_posix())):
            if isinstance(node, ast.ImportFrom) and node.level:
                there = room if room and node.level == 1 else (node.module or "").rpartition(".")[0]
                is_down = there in ROOMS and ROOMS.index(there) <= ROOMS.index(room)
                problems += [] if is_down else [f"{path} imports {there}"]
    assert not problems
    assert {Path(name).parts[1] for name in FILES if name.count("/") == 2 and name.startswith("runtime/")} | {""} == {
        *ROOMS
    }


def test_imports_in_the_compiler_go_down_its_rooms() -> None:
    """Rooms and what each imports are as in ARCHITECTURE.md; `python -m tools.rooms --write` brings that up to date."""
    found = survey()
    assert not arrows_up(found)
    page = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")
    written, computed = (
        [[cell.strip() for cell in row.split("|")[1:-1]] for row in text.splitlines()]
        for text in (page.partition(BEGIN)[2].partition(END)[0], table(found))
    )
    without_lines = [[(room, purpose, imports) for room, purpose, _, imports in rows] for rows in (written, computed)]
    assert without_lines[0] == without_lines[1]
    for row, room in zip(written[2:], found.values(), strict=True):
        assert abs(int(row[2]) - room.lines) <= max(room.lines / 10, 100), row[0]


def test_an_import_that_goes_up_is_found(tmp_path: Path) -> None:
    for name in ("dsl/text.py", "compiler/ir/nodes.py", "compiler/driver.py"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("def f():\n    from optforge.compiler import driver\n", encoding="utf-8")
    expected = ["dsl/text imports compiler/driver", "compiler/ir/nodes imports compiler/driver"]
    assert arrows_up(survey(tmp_path)) == expected
    (tmp_path / "compiler" / "attic.py").write_text("", encoding="utf-8")
    with pytest.raises(ValueError, match="compiler/attic lies in no room"):
        survey(tmp_path)


STAGES = re.compile(r"optforge\.compiler\.(frontend\.resolve|frontend\.types\.\w+|streams\.lower_streams|passes\.\w+)")


def test_only_the_driver_imports_stages() -> None:
    """The functions that it names; what else their modules define serves others as well."""

    def taken(name: str) -> set[tuple[str, str]]:
        return {
            (node.module or "", each.name)
            for node in ast.walk(parsed(name))
            if isinstance(node, ast.ImportFrom)
            for each in node.names
        }

    stages = {(module, name) for module, name in taken("compiler/driver.py") if STAGES.fullmatch(module)}
    assert len(stages) >= 9
    others = [name for name in FILES if name.startswith("compiler/") and name != "compiler/driver.py"]
    assert not {name: found for name in others if (found := taken(name) & stages)}


def test_only_what_writes_or_loads_modules_knows_the_torch_target() -> None:
    places = ("compiler/targets/torch/", "compiler/load.py", "compiler/commands/", "tools/", "tests/", "benchmarks/")
    knowing = {name for name in FILES for module in imported(name) if ".targets.torch" in module}
    assert not [name for name in knowing if not name.startswith(places)]


MODULES_LIMIT = 14
LARGE_FOLDERS = {"compiler/frontend": 19}  # names, scopes, blocks and their hints belong together


def test_folders_stay_small() -> None:
    counts = Counter(name.rpartition("/")[0] for name in FILES if not name.endswith("/__init__.py"))
    folders = {folder: n for folder, n in counts.items() if folder.partition("/")[0] in ("dsl", "compiler", "runtime")}
    assert not {folder: n for folder, n in folders.items() if n > LARGE_FOLDERS.get(folder, MODULES_LIMIT)}


# A surface form and what the IR makes of it may have one name, for both are said with their module: `ast.X` and `ir.X`.
SAID_WITH_THEIR_MODULE = {"dsl/ast.py": "optforge.dsl.ast", "compiler/ir/nodes.py": "optforge.compiler.ir.nodes"}


def test_class_names_are_unique() -> None:
    homes: dict[str, list[str]] = defaultdict(list)
    for name in (name for name in FILES if name.startswith(("dsl/", "compiler/"))):
        for node in ast.walk(parsed(name)):
            if isinstance(node, ast.ClassDef):
                homes[node.name].append(name)
            if isinstance(node, ast.ImportFrom):
                assert node.module not in SAID_WITH_THEIR_MODULE.values(), f"{name} takes names out of {node.module}"
    several = {each: names for each, names in homes.items() if len(names) > 1}
    assert not {each: names for each, names in several.items() if sorted(names) != sorted(SAID_WITH_THEIR_MODULE)}


# What may look into text, or put names together, in the rooms where names of equations are data.
ROOMS_OF_DATA = ("ir", "frontend", "streams", "passes", "analysis", "oracle")
READERS_OF_TEXT = {
    "compiler/ir/names.py": "the texts of names",
    "compiler/ir/printer.py": "reads dumps",
    "compiler/frontend/reserved_names.py": "what a user may write",
    "compiler/frontend/types/literal_checks.py": "how a number is spelled",
    "compiler/streams/state_names.py": "the names in checkpoints",
    "compiler/streams/fingerprints.py": "what is hashed",
}
CUTS = {"split", "rsplit", "partition", "rpartition", "startswith", "endswith", "removeprefix", "removesuffix"}
SEPARATORS = {".", ":", "|", " "}


def is_name_in_text(node: ast.AST) -> bool:
    """Whether text is cut or searched for a separator, or put together with nothing but one in between."""
    match node:
        case ast.Call(func=ast.Attribute(attr=name, value=value)):
            return name in CUTS and not (isinstance(value, ast.Name) and value.id == "np")
        case ast.Compare(left=ast.Constant(value=sign), ops=[ast.In() | ast.NotIn()]):
            return sign in SEPARATORS
        case ast.JoinedStr(values=[ast.FormattedValue(), ast.Constant(value=sign), ast.FormattedValue()]):
            return sign in SEPARATORS - {" "}  # a space stands between words of a message
        case _:
            return False


def test_names_of_equations_are_no_text() -> None:
    """What a name says is in the fields of `EquationName`: nobody builds or cuts text to know it."""
    files = [name for name in FILES if name.startswith(tuple(f"compiler/{room}/" for room in ROOMS_OF_DATA))]
    assert {name for name in files if any(map(is_name_in_text, ast.walk(parsed(name))))} == set(READERS_OF_TEXT)


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ('name.partition(".")[0]', True),
        ('"." in name', True),
        ('f"{path}.{word}"', True),
        ('f"{owner}:{name}"', True),
        ("np.split(array, 2)", False),
        ('word in ("row", "col")', False),
        ('f"{word} {name}: {type_text(found)}"', False),
    ],
)
def test_names_in_text_are_found(line: str, found: bool) -> None:
    assert any(map(is_name_in_text, ast.walk(ast.parse(line)))) is found


def test_heavy_libraries_stay_where_they_belong() -> None:
    problems = []
    for name in (name for name in FILES if name.startswith(("dsl/", "compiler/"))):
        body = parsed(name).body
        top = {alias.name.split(".")[0] for node in body if isinstance(node, ast.Import) for alias in node.names}
        top |= {(node.module or "").split(".")[0] for node in body if isinstance(node, ast.ImportFrom)}
        misplaced = [library for library, places in HEAVY.items() if library in top and not name.startswith(places)]
        problems += [f"{name} imports {library}" for library in misplaced]
    assert not problems


def test_modules_say_what_they_are_and_stay_small() -> None:
    problems = []
    for name in FILES:
        tree = parsed(name)
        problems += [] if ast.get_docstring(tree) else [f"{name} has no docstring"]
        length = len((ROOT / name).read_text(encoding="utf-8").splitlines())
        is_short = length <= FILE_LIMIT or name in LONG_FILES | LONG_METHODS or name.startswith("tests/")
        problems += [] if is_short else [f"{name} has {length} lines"]
        functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
        long = [each.name for each in functions if (each.end_lineno or 0) - each.lineno >= FUNCTION_LIMIT]
        problems += [f"{name}: {function} is too long" for function in long if name not in LONG_METHODS]
    assert not problems


WRITERS = {
    "compiler/output.py": "the compiler's files appear whole",
    "examples/files.py": "and so do those of the examples",
    "examples/gpt2/checkpoints.py": "into a draft that is renamed",
    "examples/gpt2/compare.py": "what a process prints, as it prints it",
    "examples/gpt2/data/encoded.py": "into a draft that is renamed",
    "examples/gpt2/data/binary.py": "into a draft that is renamed",
    "examples/gpt2/data/files.py": "removes a draft",
    "examples/gpt2/shakespeare.py": "copies a run, and again until it is whole",
}
WRITES = {"write_text", "write_bytes", "rmtree", "move", "copytree"}


def is_write(node: ast.AST) -> bool:
    """Whether a call replaces what a file or folder holds; adding lines at the end of one does not."""
    if not isinstance(node, ast.Call):
        return False
    function = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
    modes = [word.value for word in (*node.args, *(k.value for k in node.keywords)) if isinstance(word, ast.Constant)]
    return function in WRITES or (
        function in ("open", "fdopen") and any(isinstance(mode, str) and set("wx") & set(mode) for mode in modes)
    )


def test_files_are_written_whole() -> None:
    """A full disk or a kill must not leave the beginning of a file: only these modules replace what a file holds."""
    writing = {
        name
        for name in FILES
        if name.startswith(("dsl/", "compiler/", "examples/", "src/", "tools/"))
        for node in ast.walk(parsed(name))
        if is_write(node)
    }
    assert writing == set(WRITERS)


def test_the_package_is_made_of_relative_links() -> None:
    for folder in FOLDERS_OF_OURS:
        link = ROOT / "src" / "optforge" / folder
        assert link.is_symlink()
        assert link.readlink() == Path("..") / ".." / folder


@pytest.mark.parametrize(
    ("command", "unneeded"),
    [
        (["check", "specs/namo.opt"], {"torch", "numpy"}),
        (["fmt", "--check", "specs"], {"torch", "numpy"}),
        (["doc", "NAMO", "--latex"], {"torch", "numpy"}),
        (["ops"], {"torch", "numpy", "lark"}),
        (["explain", "E012"], {"torch", "numpy", "lark"}),
    ],
)
def test_commands_start_without_what_they_do_not_need(command: list[str], unneeded: set[str]) -> None:
    program = (
        "import sys\nfrom optforge.compiler.commands.cli import main\n"
        f"code = main({command!r})\n"
        f"assert code == 0, code\nassert not {unneeded!r} & set(sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_importing_a_generated_module_imports_torch_alone() -> None:
    """No torch._dynamo, which takes longer than all the rest, and nothing of the compiler."""
    program = (
        "import sys, torch\nbefore = {*sys.modules}\nimport optforge.generated.namo\n"
        "new = {*sys.modules} - before\nassert 'torch._dynamo' not in new and 'optforge.runtime' in new\n"
        "assert not [name for name in new if name.startswith('optforge.compiler')]\n"
        "roots = {name.partition('.')[0] for name in new} - sys.stdlib_module_names\n"
        "assert roots <= {'torch', 'optforge'}, roots\n"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_importing_optforge_does_not_import_torch() -> None:
    program = (
        "import sys, optforge, optforge.generated\nassert 'torch' not in sys.modules and 'lark' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
