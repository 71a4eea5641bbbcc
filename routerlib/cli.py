"""The command line: ``routerlib COMMAND``.

Each command is a thin layer over the library; whatever it needs is imported when it runs, so that
``routerlib --help`` is quick and reading the store needs no vendor SDK.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Sequence
from pathlib import Path

from routerlib import __version__, paths
from routerlib.calibrate_command import add_calibrate_command
from routerlib.collect_command import add_collect_command
from routerlib.engine_process import signals_raise
from routerlib.errors import RouterlibError, SpendingCapError, make_printable
from routerlib.judge_command import add_judge_command
from routerlib.model_options import SMALL, print_report
from routerlib.models_command import add_models_command
from routerlib.score_command import add_score_command


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status: 0, 1 after a named error or a check that found
    something, 3 when a spending cap is reached, 130 when it was interrupted."""
    options = make_parser().parse_args(arguments)
    try:
        with signals_raise(lambda number: KeyboardInterrupt()):
            status: int = options.run(options)
    except RouterlibError as error:
        said = make_printable(str(error))
        print(f"routerlib: {type(error).__name__}: {said}", file=sys.stderr)
        return 3 if isinstance(error, SpendingCapError) else 1
    except (KeyboardInterrupt, asyncio.CancelledError):  # the latter ends what a thread awaited
        print("routerlib: interrupted", file=sys.stderr)
        return 130
    return status


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of all commands."""
    parser = argparse.ArgumentParser(
        prog="routerlib", description="Stepwise model routing: record, replay, evaluate."
    )
    parser.add_argument("--version", action="version", version=f"routerlib {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    _add_model_commands(commands)
    add_models_command(commands)
    add_collect_command(commands)
    add_judge_command(commands)
    add_score_command(commands)
    add_calibrate_command(commands)
    _add_store_commands(commands)
    _add_notebook_commands(commands)
    return parser


def _add_model_commands(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    command = commands.add_parser("weights", help="fetch and check the local models' weights")
    command.add_argument("action", choices=["fetch", "list"])
    command.add_argument("names", nargs="*", help="default: all")
    command.add_argument("--source", choices=["auto", "hub", "mirror"], default="auto")
    command.set_defaults(run=_run_weights)

    command = commands.add_parser("serve-local", help="serve a local model until Ctrl-C")
    command.add_argument("--engine", choices=["llamacpp", "vllm"], default="llamacpp")
    command.add_argument("--model", default=SMALL, help="name of the weights")
    command.add_argument("--port", type=int, default=None, help="default: a free one")
    command.set_defaults(run=_run_serve)


def _add_store_commands(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    for name, function, text in (
        ("verify", _run_verify, "re-hash the store and check every link; list every problem"),
        ("compact", _run_compact, "merge the shards into few ordered files"),
        ("db", _run_db, "build traces.duckdb, a database of views over the store"),
    ):
        command = commands.add_parser(name, help=text)
        command.add_argument("--traces", type=Path, default=paths.TRACES)
        command.set_defaults(run=function)

    command = commands.add_parser("copy", help="copy some problems into a new store")
    command.add_argument("target", type=Path)
    command.add_argument("problems", nargs="+", help="problem ids")
    command.add_argument("--traces", type=Path, default=paths.TRACES)
    command.set_defaults(run=_run_copy)

    command = commands.add_parser("query", help="run read-only SQL on the store")
    command.add_argument("sql")
    command.add_argument("--traces", type=Path, default=paths.TRACES)
    command.add_argument("--csv", action="store_true", help="print comma-separated values")
    command.set_defaults(run=_run_query)


def _add_notebook_commands(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser("notebooks", help="run, check, strip or verify the notebooks")
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")

    command = actions.add_parser("run", help="execute notebooks and render them as HTML")
    command.add_argument("notebooks", nargs="+", type=Path)
    command.add_argument("--output", type=Path, default=paths.BUILD / "notebooks")
    command.add_argument("-p", "--parameter", action="append", default=[], metavar="NAME=VALUE")
    command.set_defaults(run=_run_notebooks)

    command = actions.add_parser("check", help="list every breach of the notebooks' rules")
    command.set_defaults(run=_run_check_notebooks)

    command = actions.add_parser("strip", help="rewrite the notebooks without outputs")
    command.set_defaults(run=_run_strip_notebooks)

    command = commands.add_parser(
        "readme", help="rewrite the README's results and the table of features"
    )
    command.add_argument("--readme", type=Path, default=paths.ROOT / "README.md")
    command.add_argument("--features", type=Path, default=paths.ROOT / "docs" / "features.md")
    command.add_argument("--numbers", type=Path, default=paths.FIGURES / "numbers.json")
    command.set_defaults(run=_run_readme)

    command = commands.add_parser("datacard", help="rewrite the data card's numbers from the store")
    command.add_argument("--traces", type=Path, default=paths.TRACES)
    command.set_defaults(run=_run_datacard)

    command = actions.add_parser("verify", help="make all figures anew and compare them")
    command.add_argument("--scratch", type=Path, default=paths.BUILD / "verify")
    command.set_defaults(run=_run_verify_figures)


def _run_readme(options: argparse.Namespace) -> int:
    from routerlib.feature_table import update_features
    from routerlib.readme import update_readme

    changed = update_readme(options.readme, options.numbers)
    print(f"{options.readme.name}: {'rewritten' if changed else 'as it was'}")
    changed = update_features(options.features)
    print(f"{options.features.name}: {'rewritten' if changed else 'as it was'}")
    return 0


def _run_datacard(options: argparse.Namespace) -> int:
    from routerlib.datacard import update_datacard

    changed = update_datacard(options.traces / "README.md", options.traces)
    print(f"{options.traces / 'README.md'}: {'rewritten' if changed else 'as it was'}")
    return 0


def _run_weights(options: argparse.Namespace) -> int:
    from routerlib.weights import WEIGHTS, fetch_weights, find_weights

    for name in options.names or sorted(WEIGHTS):
        if options.action == "fetch":
            print(f"{name}: {fetch_weights(name, source=options.source)}")
        else:
            print(f"{name}: {find_weights(name) or 'not here: routerlib weights fetch ' + name}")
    return 0


def _run_serve(options: argparse.Namespace) -> int:
    from routerlib.serve import serve_local

    with serve_local(options.engine, options.model, options.port, report=print_report) as server:
        print(f"{options.model} is served at {server.base_url} (stop with Ctrl-C)", flush=True)
        server.wait()
    return 0


def _print_problems(problems: Sequence[str], sound: str) -> int:
    for problem in problems:
        print(problem)
    print(f"{len(problems)} problems found" if problems else sound)
    return 1 if problems else 0


def _run_verify(options: argparse.Namespace) -> int:
    from routerlib.store import verify

    return _print_problems(verify(options.traces), f"{options.traces} is sound")


def _run_compact(options: argparse.Namespace) -> int:
    from routerlib.store import compact

    compact(options.traces)
    print(f"{options.traces} is compact")
    return 0


def _run_db(options: argparse.Namespace) -> int:
    from routerlib.store import build_database

    print(build_database(options.traces))
    return 0


def _run_copy(options: argparse.Namespace) -> int:
    from routerlib.store import copy_problems

    copy_problems(options.traces, options.target, options.problems)
    print(f"{len(options.problems)} problems are in {options.target}")
    return 0


def _run_query(options: argparse.Namespace) -> int:
    from routerlib.store import query

    frame = query(options.traces, options.sql)
    text = frame.to_csv(index=False) if options.csv else frame.to_string(index=False) + "\n"
    # What models wrote may move a terminal's cursor; a file gets it as it is.
    print(text if options.csv and not sys.stdout.isatty() else make_printable(text), end="")
    return 0


def _run_notebooks(options: argparse.Namespace) -> int:
    from routerlib.notebook_parameters import parse_assignments
    from routerlib.notebooks import run_notebook

    for path in options.notebooks:
        executed = run_notebook(path, options.output, parse_assignments(path, options.parameter))
        print(executed)
    return 0


def _run_check_notebooks(options: argparse.Namespace) -> int:
    from routerlib.notebook_style import check_notebook

    notebooks = sorted(paths.NOTEBOOKS.glob("*.ipynb"))
    problems = [problem for path in notebooks for problem in check_notebook(path)]
    return _print_problems(problems, f"{len(notebooks)} notebooks keep the rules")


def _run_strip_notebooks(options: argparse.Namespace) -> int:
    from routerlib.notebook_style import strip_notebook

    for path in sorted(paths.NOTEBOOKS.glob("*.ipynb")):
        print(f"{path.name}: {'rewritten' if strip_notebook(path) else 'as stored'}")
    return 0


def _run_verify_figures(options: argparse.Namespace) -> int:
    from routerlib.verification import verify_figures

    return _print_problems(verify_figures(options.scratch), "all figures are reproduced")


if __name__ == "__main__":
    sys.exit(main())
