"""Generated files: readable by tools, the same bytes every time, and standalone ones that behave alike."""

from __future__ import annotations

import ast
import importlib.util
import inspect
import re
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path
from types import ModuleType

import pytest
import torch

import optforge
from optforge.compiler.commands.cli import main
from optforge.compiler.commands.generated_files import module_name
from optforge.compiler.targets.torch.lower import RUNTIME_VERSION
from optforge.compiler.targets.torch.render import render_standalone
from optforge.runtime import VERSION, SpecOptimizer
from tests.support.spec_files import shipped_with_classes

ROOT = Path(__file__).parents[2]
SPECS = shipped_with_classes()


SOME = ("adamw", "namo", "nora", "sgd", "uba")


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with some of the shipped specs, as the current directory."""
    (tmp_path / "specs").mkdir()
    for name in SOME:
        shutil.copy(ROOT / "specs" / f"{name}.opt", tmp_path / "specs")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with all shipped specs and what is built from them."""
    folder = tmp_path_factory.mktemp("built")
    shutil.copytree(ROOT / "specs", folder / "specs")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert main(["build"]) == 0
    return folder


def test_modules_are_written_for_the_runtime_beside_them() -> None:
    assert RUNTIME_VERSION == VERSION


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*.py")}


def ruff(*arguments: str | Path) -> None:
    command = [sys.executable, "-m", "ruff", *map(str, arguments), "--config", str(ROOT / "pyproject.toml")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def imported(path: Path) -> ModuleType:
    specification = importlib.util.spec_from_file_location(f"alone_{path.stem}", path)
    assert specification is not None and specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    sys.modules[f"alone_{path.stem}"] = module
    specification.loader.exec_module(module)
    return module


@pytest.mark.wide  # `make check-generated` compares them too
def test_building_gives_the_committed_bytes(built: Path) -> None:
    assert contents(built / "generated") == contents(ROOT / "generated")


def test_building_twice_gives_the_same_bytes(project: Path) -> None:
    assert main(["build"]) == 0
    first = contents(project / "generated")
    assert {f"{name}.py" for name in SOME} <= set(first)
    shutil.rmtree(project / "generated")
    assert main(["build"]) == 0
    assert contents(project / "generated") == first


def test_files_name_neither_machines_nor_versions(project: Path) -> None:
    assert main(["build"]) == 0
    for name, data in contents(project / "generated").items():
        assert str(project) not in data.decode(), name
        assert str(ROOT) not in data.decode(), name


def test_generated_files_pass_the_linter_and_the_formatter_unchanged(tmp_path: Path) -> None:
    for name in ("namo", "muon", "uba"):
        assert main(["build", str(ROOT / "specs" / f"{name}.opt"), "--standalone", "--out", str(tmp_path)]) == 0
    ruff("format", "--check", ROOT / "generated", tmp_path)
    ruff("check", ROOT / "generated", tmp_path)


def test_check_fails_and_names_the_command(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["build"]) == 0
    assert main(["build", "--check"]) == 0
    spec = project / "specs" / "namo.opt"
    spec.write_text(spec.read_text().replace("0.95 where", "0.9 where"))
    before = contents(project / "generated")
    capsys.readouterr()
    assert main(["build", "--check"]) == 1
    told = capsys.readouterr().err
    assert "namo.py" in told and "run: optforge build" in told
    assert contents(project / "generated") == before


def test_a_removed_spec_leaves_no_module(project: Path) -> None:
    assert main(["build"]) == 0
    (project / "specs" / "uba.opt").unlink()
    assert main(["build", "--check"]) == 1
    assert main(["build"]) == 0
    assert not (project / "generated" / "uba.py").exists()
    assert "UBA" not in (project / "generated" / "__init__.py").read_text()


def test_a_removed_module_of_the_runtime_goes_too(project: Path) -> None:
    assert main(["build", "--vendor"]) == 0
    left = project / "generated" / "_runtime" / "routing" / "left_behind.py"
    shutil.copy(left.with_name("routes.py"), left)
    assert main(["build", "--vendor", "--check"]) == 1
    assert main(["build", "--vendor", "specs/namo.opt"]) == 0
    assert not left.exists() and main(["build", "--vendor", "--check"]) == 0


def test_a_copy_of_the_runtime_goes_with_the_last_module_that_may_use_it(project: Path) -> None:
    assert main(["build", "--vendor"]) == 0
    copied = project / "generated" / "_runtime" / "optimizer.py"
    assert main(["build", "specs/namo.opt"]) == 0
    assert copied.exists() and "from ._runtime" in (project / "generated" / "sgd.py").read_text()
    assert main(["build", "--check"]) == 1
    assert main(["build"]) == 0
    assert not copied.exists() and main(["build", "--check"]) == 0


def test_a_module_beside_a_copy_of_the_runtime_needs_torch_alone(project: Path) -> None:
    """Where there is no optforge, it steps as the shipped class does, whose runtime it does not share."""
    assert main(["build", "specs/namo.opt", "--vendor", "--out", "copied"]) == 0
    for path in (project / "copied").rglob("*.py"):
        assert not re.search(r"^\s*(from|import) optforge", path.read_text(), re.MULTILINE), path
    sys.path.insert(0, str(project))
    try:
        cls = importlib.import_module("copied").NAMO
    finally:
        sys.path.remove(str(project))
    shipped = packaged_module("namo").NAMO
    assert trained(cls) == trained(shipped) and not issubclass(cls, shipped.__mro__[1])
    for name in [name for name in sys.modules if name.partition(".")[0] == "copied"]:
        del sys.modules[name]


def test_modules_from_anywhere_share_one_runtime(project: Path) -> None:
    """So that `isinstance` holds between them, and a graph that one has compiled is there for the others."""
    assert main(["build", "specs/namo.opt", "--out", "own"]) == 0
    built, loaded = imported(project / "own" / "namo.py").NAMO, optforge.load(project / "specs" / "namo.opt")
    for cls in (built, loaded, packaged_module("namo").NAMO):
        assert issubclass(cls, SpecOptimizer) and cls.__mro__[1] is SpecOptimizer


def test_a_build_writes_modules_and_nothing_that_they_share(project: Path) -> None:
    assert main(["build"]) == 0
    assert {*contents(project / "generated")} == {"__init__.py", *(f"{name}.py" for name in SOME)}


def test_a_copy_and_a_file_alone_are_not_both_asked_for(project: Path) -> None:
    with pytest.raises(SystemExit) as left:
        main(["build", "--vendor", "--standalone"])
    assert left.value.code == 2


@pytest.mark.parametrize(
    "version, advice", [(VERSION + 1, "update optforge"), (VERSION - 1, "run `optforge build` again")]
)
@pytest.mark.parametrize("stem", ["namo", "uba", "tscnc"])
def test_modules_for_another_runtime_say_so(stem: str, version: int, advice: str, tmp_path: Path) -> None:
    assert main(["build", str(ROOT / "specs" / f"{stem}.opt"), "--out", str(tmp_path / "out")]) == 0
    path = tmp_path / "out" / f"{stem}.py"
    text = path.read_text()
    assert f", runtime={VERSION})" in text
    path.write_text(text.replace(f", runtime={VERSION})", f", runtime={version})"))
    with pytest.raises(ImportError, match=f"needs version {version} of optforge.runtime, not {VERSION}: {advice}"):
        imported(path)


def test_building_one_spec_keeps_the_others(project: Path) -> None:
    assert main(["build"]) == 0
    before = contents(project / "generated")
    assert main(["build", "specs/namo.opt"]) == 0
    assert contents(project / "generated") == before


def test_a_package_of_somebody_else_is_left_alone(project: Path) -> None:
    (project / "mine").mkdir()
    (project / "mine" / "__init__.py").write_text("KEPT = 1\n")
    assert main(["build", "specs/namo.opt", "--out", "mine"]) == 0
    assert (project / "mine" / "__init__.py").read_text() == "KEPT = 1\n"
    assert (project / "mine" / "namo.py").exists()


def test_two_specs_for_one_module_are_refused(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copy("specs/namo.opt", "specs/na-mo.opt")
    shutil.copy("specs/namo.opt", "specs/na_mo.opt")
    assert main(["build", "specs/na-mo.opt", "specs/na_mo.opt", "--out", "both"]) == 2
    assert "would both become" in capsys.readouterr().err


@pytest.mark.parametrize(
    "spec",
    [pytest.param(path, id=path.stem, marks=() if path.stem in SOME else pytest.mark.wide) for path in SPECS],
)
def test_standalone_files_need_torch_alone_and_behave_identically(spec: Path, project: Path) -> None:
    assert main(["build", str(spec), "--standalone", "--out", "alone"]) == 0
    assert [path.name for path in (project / "alone").glob("*")] == [f"{spec.stem}.py"]
    text = (project / "alone" / f"{spec.stem}.py").read_text()
    assert not re.search(r"(from|import) optforge", text) and "_runtime" not in text
    alone, packaged = imported(project / "alone" / f"{spec.stem}.py"), packaged_module(spec.stem)
    assert alone.__all__ == packaged.__all__
    for name in alone.__all__:
        assert trained(getattr(alone, name)) == trained(getattr(packaged, name))


def test_standalone_files_define_each_name_once() -> None:
    """Modules of the runtime become one: what two of them call the same would be what the later one means by it."""
    found = Counter[str]()
    for node in ast.parse(render_standalone(Path(packaged_module("adamw").__file__ or "").read_text())).body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            found[node.name] += 1
        elif isinstance(node, (ast.Import, ast.ImportFrom)):
            found.update(alias.asname or alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, (ast.Assign, ast.AnnAssign)):
            found.update(x.id for x in ast.walk(node) if isinstance(x, ast.Name) and isinstance(x.ctx, ast.Store))
    assert {"Graph", "AdamW", "torch"} <= set(found)
    assert {name for name, count in found.items() if count > 1} <= {"torch"}


def packaged_module(stem: str) -> ModuleType:
    return importlib.import_module(f"optforge.generated.{stem}")


def trained(cls: type) -> list[bytes]:
    """The bits of some weights after steps with an optimizer, a schedule, or a penalty."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(6, 4), torch.nn.Tanh(), torch.nn.Linear(4, 3))
    optimizer, schedule, penalty = torch.optim.SGD(model.parameters(), lr=1.0), None, None
    if issubclass(cls, torch.optim.lr_scheduler.LRScheduler):
        schedule = cls(optimizer, **{"total": 7} if "total" in inspect.signature(cls).parameters else {})
    elif issubclass(cls, torch.nn.Module):
        penalty = cls(model)
    else:
        optimizer = cls(model, lr=0.01)
    seen = []
    for _ in range(5):
        optimizer.zero_grad()
        loss = model(torch.randn(8, 6)).square().sum()
        (loss if penalty is None else loss + penalty()).backward()
        optimizer.step()
        if schedule is not None:
            schedule.step()
        seen += [p.detach().numpy().tobytes() for p in model.parameters()]
    return seen


@pytest.mark.parametrize(
    "stem", ["torch", "signal", "math", "Random", "typing", "class", "numpy", "jinja2", "optforge"]
)
def test_no_module_hides_one_that_it_needs(stem: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A script beside it imports it under another name, and torch is still torch."""
    monkeypatch.chdir(tmp_path)
    Path(f"{stem}.opt").write_text("optimizer Plain:\n    for tensor:\n        weight <- weight - grad\n")
    for options in ([], ["--standalone"]):
        assert main(["build", f"{stem}.opt", "--out", "made", *options]) == 0
        assert (tmp_path / "made" / f"spec_{stem.lower()}.py").exists()
        assert not (tmp_path / "made" / f"{stem.lower()}.py").exists()


def test_no_shipped_spec_needs_another_name() -> None:
    assert not [path for path in SPECS if module_name(path) != path.stem]
