"""`optforge build`: the PyTorch modules of specs, written or compared (`--check`)."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from optforge.compiler.commands.check import add_dump, dump_snapshots
from optforge.compiler.commands.console import (
    FINE,
    SPEC_IS_WRONG,
    CommandProblem,
    Commands,
    add_command,
    check_snapshots,
    require_declarations,
    say,
)

if TYPE_CHECKING:
    from optforge.compiler.driver import Snapshot


def add_parser(commands: Commands) -> None:
    example = "optforge build specs/namo.opt --out my_optimizers"
    parser = add_command(commands, "build", run_build, "write the PyTorch modules of specs", example)
    parser.add_argument("files", nargs="*", type=Path, metavar="FILE", help="spec files or folders (default: specs/)")
    parser.add_argument("--out", type=Path, default=Path("generated"), help="where to write (default: generated)")
    parser.add_argument("--check", action="store_true", help="write nothing; fail if something is out of date")
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--vendor", action="store_true", help="a copy of the runtime beside them, in place of optforge's")
    form.add_argument("--standalone", action="store_true", help="files that depend on torch alone, one per spec")
    parser.add_argument(
        "--explain-schedule",
        action="store_true",
        help="write nothing; say how each rule will run, and by what it is decided",
    )
    add_dump(parser)


def run_build(options: argparse.Namespace) -> int:
    from optforge.compiler.commands.generated_files import (
        BuildProblem,
        Form,
        generated_files,
        stale_files,
        sync_files,
        write_files,
    )

    snapshots = check_snapshots(options.files or default_specs())
    if not all(snapshot.program for snapshot in snapshots):
        return SPEC_IS_WRONG
    require_declarations(snapshots)
    if options.dump_after:
        dump_snapshots(snapshots, options.dump_after, options.verify)
        return FINE
    if options.explain_schedule:
        return explain_schedules(snapshots)
    whole = not options.files
    form = Form.VENDORED if options.vendor else Form.STANDALONE if options.standalone else Form.INSTALLED
    try:
        files = generated_files(snapshots, options.out, form, whole)
        stale = stale_files(files, options.out, whole)
        different = sync_files(files, check=True) if options.check else write_files(files, options.out, whole)
    except BuildProblem as problem:
        raise CommandProblem(str(problem)) from None
    if options.check:
        return report_differences([*different, *stale], options)
    for path in stale:
        path.unlink(missing_ok=True)
    for path in different:
        say(f"wrote {path}")
    say(f"{len(files)} files, {len(different)} written, {len(stale)} removed")
    return FINE


def explain_schedules(snapshots: Sequence[Snapshot]) -> int:
    from optforge.compiler.driver import run_passes
    from optforge.compiler.targets.torch.explain import explain_schedule
    from optforge.compiler.targets.torch.target import TORCH

    texts = [explain_schedule(run_passes(snapshot.require(), TORCH.rewrites)) for snapshot in snapshots]
    print("\n\n".join(text for text in texts if text))
    return FINE


def default_specs() -> list[Path]:
    if not Path("specs").is_dir():
        raise CommandProblem("there is no folder specs/ here: name the files to build")
    return [Path("specs")]


def report_differences(different: Sequence[Path], options: argparse.Namespace) -> int:
    if not different:
        return FINE
    for path in different:
        say(f"{path} is not what its spec says")
    command = ["optforge", "build", *(str(path) for path in options.files)]
    command += ["--out", str(options.out)] if options.out != Path("generated") else []
    command += ["--vendor"] if options.vendor else ["--standalone"] if options.standalone else []
    say(f"run: {' '.join(command)}")
    return SPEC_IS_WRONG
