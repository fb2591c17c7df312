"""The `tare` command: the only place that prints or exits.

Nothing heavy is imported at the top: `tare --help` must answer at once, and the supervisor must stay slim.

Exit codes (DESIGN section 4): 0 done; 1 a failed cell, or a backend that was named and cannot run; 2 wrong use or
broken input, one line on stderr; 130 and 143 interrupted and terminated.
"""

from __future__ import annotations

import argparse
import json
import os
import secrets
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bench.plan import Plan
    from bench.run import Outcome
    from results.store import Run

EXIT_DONE, EXIT_FAILED, EXIT_USAGE = 0, 1, 2


class Problem(Exception):
    """Wrong use or broken input: one line for a person, exit code 2."""


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(
        prog="tare",
        description="Weighs containers against virtual machines: same payload, one clock, one method, one report.",
        epilog="First time here? Run `tare doctor`, then `tare run --quick`.",
    )
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")

    doctor = commands.add_parser("doctor", help="what can run on this machine, and how to fix what cannot")
    doctor.add_argument("--json", action="store_true", help="print JSON")
    doctor.add_argument("--prove", action="store_true", help="boot the guest to prove acceleration, then answer")
    doctor.set_defaults(run=_doctor)

    run = commands.add_parser("run", help="measure, then build the report")
    depth = run.add_mutually_exclusive_group()
    depth.add_argument("--quick", dest="depth", action="store_const", const="quick", help="some minutes (default)")
    depth.add_argument("--full", dest="depth", action="store_const", const="full", help="an hour or more: for papers")
    run.add_argument("--backend", action="append", default=[], metavar="B", help="only this backend (repeatable)")
    run.add_argument("--workload", action="append", default=[], metavar="W", help="only this workload (repeatable)")
    run.add_argument("--cell", action="append", default=[], metavar="W/B", help="only this cell (repeatable)")
    run.add_argument("--blocks", type=int, metavar="N", help="blocks of each workload")
    run.add_argument("--seed", type=int, metavar="S", help="order of everything; printed when drawn")
    run.add_argument("--timeout", type=float, default=60.0, metavar="SECONDS", help="bound of every wait (default 60)")
    run.add_argument("--resume", metavar="RUN", help="go on with a run that was cut short")
    _out_folder(run)
    run.set_defaults(run=_run, depth="quick")

    report = commands.add_parser("report", help="build the report of a run again")
    report.add_argument("runs", nargs="*", default=["latest"], metavar="RUN", help="run id, path or latest")
    report.add_argument("--out", metavar="FILE", help="where to write it (default: report.html in the run's folder)")
    report.add_argument("--runs", dest="parent", default="runs", metavar="DIR", help="parent of run folders")
    report.set_defaults(run=_report)

    ps = commands.add_parser("ps", help="runs and instances that are alive")
    ps.set_defaults(run=_ps)
    gc = commands.add_parser("gc", help="remove what a crash left: labelled things of dead runs, nothing else")
    gc.set_defaults(run=_gc)
    return top


def _out_folder(command: argparse.ArgumentParser) -> None:
    command.add_argument("--out", default="runs", metavar="DIR", help="parent of run folders (default runs/)")


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point. Returns the exit code; argparse itself exits with 2 on wrong words."""
    arguments = parser().parse_args(argv)
    return _guarded(lambda: arguments.run(arguments))


def _run(arguments: argparse.Namespace) -> int:
    from bench.scope import enter_scope
    from bench.supervisor import supervised

    enter_scope()
    return supervised(lambda: _guarded(lambda: _measure(arguments)))


def _guarded(body: Callable[[], int]) -> int:
    """Problems become one line and an exit code, in the harness as in the command itself."""
    try:
        return body()
    except Problem as problem:
        print(f"tare: {problem}", file=sys.stderr)
        return EXIT_USAGE
    except BrokenPipeError:
        # The reader went away (`tare ps | head`): not an error of ours; keep Python from complaining at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_DONE
    except KeyboardInterrupt:
        return 130


def _measure(arguments: argparse.Namespace) -> int:
    from bench.backends import default_names, registry
    from bench.paths import cache_folder, hand_back, hand_back_generated
    from bench.plan import PlanError, make_plan
    from bench.run import CannotRun, measure
    from bench.terminal import Terminal
    from results.export import write_benchmark
    from results.store import StoreError

    seed = secrets.randbelow(1 << 31) if arguments.seed is None else arguments.seed
    parent = Path(arguments.out).absolute()  # launchers have a working directory of their own
    try:
        resume = None
        if arguments.resume:
            plan, resume = _plan_of(arguments.resume, parent)
        else:
            plan = make_plan(
                seed=seed, depth=arguments.depth, known_backends=registry(), default_backends=default_names(),
                backends=arguments.backend, workloads=arguments.workload, only=arguments.cell, blocks=arguments.blocks,
                timeout_s=arguments.timeout,
            )  # fmt: skip
        with Terminal(plan) as progress:
            outcome = measure(plan, parent, progress, resume=resume)
        report = outcome.path / "report.html"
        if not outcome.interrupted:
            run = _open(outcome.path)
            write_benchmark(run, outcome.path / "benchmark.json")
            _write_report(run, report)
    except (PlanError, CannotRun, StoreError, OSError) as error:
        raise Problem(_one_line(error)) from error
    if outcome.interrupted:
        print(f"tare: ended early; finished blocks are kept in {outcome.path} (`tare run --resume {outcome.path}`)")
        code = outcome.interrupted
    else:
        code = _verdict(outcome, plan.named_backends)
    hand_back(outcome.path, parent / "latest", cache_folder())
    hand_back_generated()
    if not outcome.interrupted:
        print(f"report: {report}")
    return code


def _verdict(outcome: Outcome, named: tuple[str, ...]) -> int:
    for backend in outcome.unavailable:
        print(f"{backend.backend}: unsupported here: {backend.reason}: {backend.detail}")
        if backend.fix:
            print(f"  fix: {backend.fix}")
    if outcome.failed_rows:
        print(f"{outcome.failed_rows} rows failed: see the report's table of cells and {outcome.path}/logs")
    refused = any(backend.backend in named for backend in outcome.unavailable)
    return EXIT_FAILED if refused or outcome.failed_rows else EXIT_DONE


def _plan_of(run: str, parent: Path) -> tuple[Plan, Path]:
    """The plan stored in a run, to go on with it."""
    from bench.plan import plan_from_mapping
    from results.store import open_manifest, run_path

    path = run_path(run, parent)
    manifest = open_manifest(path)
    if manifest.state == "finished":
        raise Problem(f"{path} is finished: there is nothing to resume")
    return plan_from_mapping(manifest.plan), path


def _open(path: Path) -> Run:
    """A run read back; what had to be salvaged is said."""
    from results.store import open_run

    run = open_run(path)
    for note in run.notes:
        print(f"tare: {note}", file=sys.stderr)
    return run


def _write_report(run: Run, target: Path) -> None:
    from datetime import UTC, datetime

    from reports.page import write
    from results.compare import analyse

    write(analyse(run.manifest, run.samples), target, generated=datetime.now(UTC).isoformat(timespec="seconds"))


def _report(arguments: argparse.Namespace) -> int:
    from bench.paths import hand_back
    from results.store import StoreError, run_path

    if len(arguments.runs) > 1 and arguments.out:
        raise Problem("--out names one file: give one RUN with it")
    code = EXIT_DONE
    try:
        for run in arguments.runs:
            path = run_path(run, Path(arguments.parent))
            target = Path(arguments.out) if arguments.out else path / "report.html"
            opened = _open(path)
            _write_report(opened, target)
            hand_back(target)
            print(f"report: {target}")
            code = EXIT_FAILED if opened.lost_bytes else code
    except (StoreError, OSError) as error:
        raise Problem(_one_line(error)) from error
    return code


def _one_line(error: Exception) -> str:
    if isinstance(error, OSError) and error.filename:
        return f"{error.filename}: {error.strerror}"
    return str(error)


def _doctor(arguments: argparse.Namespace) -> int:
    from bench import doctor, host
    from bench.backends import registry
    from bench.fleet import Fleet
    from bench.terminal import print_doctor

    if arguments.prove:
        _prove()
    with Fleet(registry()) as fleet:
        report = doctor.examine(fleet.availability(), host.facts())
    if arguments.json:
        print(json.dumps(report.as_json(), indent=2))
    else:
        print_doctor(report)
    return EXIT_DONE


def _prove() -> None:
    from bench.paths import cache_folder, hand_back
    from bench.prove import CannotProve, prove

    try:
        proof = prove(cache_folder())
    except CannotProve as error:
        raise Problem(f"cannot prove acceleration: {error}") from error
    hand_back(cache_folder())
    print(f"lane {proof.lane}, known after {proof.seconds:.1f} s: {proof.evidence}", file=sys.stderr)


def _ps(_: argparse.Namespace) -> int:
    from bench.journal import journals, labelled

    shown = 0
    try:
        for journal in journals():
            state = "running" if journal.alive() else "left behind by a crash: `tare gc` removes it"
            print(f"{journal.run_id}  {state}")
            for pid in labelled(journal):
                command = Path(f"/proc/{pid}/comm")
                name = command.read_text(encoding="utf-8").strip() if command.exists() else "(ended)"
                print(f"  {pid:>8}  {name}")
            shown += 1
    except ValueError as error:
        raise Problem(str(error)) from error
    if not shown:
        print("nothing of ours is alive")
    return EXIT_DONE


def _gc(_: argparse.Namespace) -> int:
    from bench.journal import remove_dead

    code, seen = EXIT_DONE, 0
    try:
        for run_id, troubles in remove_dead():
            seen += 1
            print(f"{run_id}: " + ("; ".join(troubles) or "removed"), file=sys.stderr if troubles else sys.stdout)
            code = EXIT_FAILED if troubles else code
    except ValueError as error:
        raise Problem(str(error)) from error
    if not seen:
        print("nothing was left behind")
    return code


if __name__ == "__main__":
    sys.exit(main())
