"""The wheel: what it holds, and that it works where nothing but its dependencies is installed."""

from __future__ import annotations

import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
NEEDED = (
    "optforge/__init__.py",
    "optforge/py.typed",
    "optforge/dsl/grammar.lark",
    "optforge/dsl/prelude.opt",
    "optforge/runtime/__init__.py",
    "optforge/runtime/contract/interface.py",
    "optforge/compiler/targets/torch/templates/module.py.jinja",
    "optforge/generated/namo.py",
    "optforge/specs/namo.opt",
)


def run(*command: str | Path, cwd: Path) -> str:
    done = subprocess.run([str(part) for part in command], cwd=cwd, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of a copy of the tracked files, so that nothing lying about gets in."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    source.mkdir()
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT, capture_output=True, check=True,
    ).stdout  # fmt: skip
    names = [name for name in listed.decode().split("\0") if name and (ROOT / name).exists()]
    pack = subprocess.run(["tar", "-c", *names], cwd=ROOT, capture_output=True, check=True).stdout
    subprocess.run(["tar", "-x"], cwd=source, input=pack, check=True)
    pip = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "-q", "-w", str(folder), "."]
    run(*pip, cwd=source)
    (found,) = folder.glob("*.whl")
    return found


@pytest.fixture(scope="module")
def clean(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A new environment with the wheel and, by path, the installed dependencies, but not this checkout."""
    folder = tmp_path_factory.mktemp("clean")
    run(sys.executable, "-m", "venv", "--without-pip", folder / "env", cwd=folder)
    python = folder / "env" / "bin" / "python"
    run(sys.executable, "-m", "pip", "--python", python, "install", "-q", "--no-deps", wheel, cwd=folder)
    (site,) = (folder / "env").glob("lib/python*/site-packages")
    (site / "dependencies.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")
    return folder


def test_the_wheel_holds_one_top_level_package(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    tops = {name.split("/")[0] for name in names if ".dist-info" not in name}
    assert tops == {"optforge"}
    assert set(NEEDED) <= set(names)
    (license_text,) = (name for name in names if name.endswith(".dist-info/licenses/LICENSE"))
    assert zipfile.ZipFile(wheel).read(license_text) == (ROOT / "LICENSE").read_bytes()
    assert len([name for name in names if name.startswith("optforge/specs/")]) == len(list(ROOT.glob("specs/*.opt")))


@pytest.mark.wide  # makes an environment
def test_a_clean_environment_compiles_a_spec(clean: Path) -> None:
    python = clean / "env" / "bin" / "python"
    where = run(python, "-c", "import optforge; print(optforge.__file__)", cwd=clean)
    assert str(clean) in where
    run(clean / "env" / "bin" / "optforge", "new", "Mine", cwd=clean)
    run(python, "-m", "optforge", "build", "mine.opt", "--out", "made", cwd=clean)
    run(python, "-m", "optforge", "build", "mine.opt", "--vendor", "--out", "copied", cwd=clean)
    program = (
        "import torch, optforge\n"
        "from made import Mine\n"
        "from copied import Mine as Copied\n"
        "from optforge.generated import NAMO\n"
        "p = torch.nn.Parameter(torch.ones(3, 4)); p.grad = torch.ones(3, 4)\n"
        "for make in (Mine, Copied, NAMO, optforge.load('mine.opt'), optforge.load('NAMO')):\n"
        "    before = p.detach().clone(); make([p], lr=0.1).step(); assert not torch.equal(before, p)\n"
    )
    run(python, "-c", program, cwd=clean)


def test_the_command_and_the_module_are_the_same(clean: Path) -> None:
    command = run(clean / "env" / "bin" / "optforge", "ops", cwd=clean)
    module = run(clean / "env" / "bin" / "python", "-m", "optforge", "ops", cwd=clean)
    assert command == module
    assert "orthogonalize" in command
