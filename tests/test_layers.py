"""Who imports whom, read from the source; and what importing does, observed from outside."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

from routerlib import paths

PACKAGE = paths.ROOT / "routerlib"
SOURCES = sorted(PACKAGE.rglob("*.py"))

# A unit is a module or package directly below routerlib. It imports from its own layer or below.
LAYERS = (
    {"records", "errors", "paths"},
    {"benchmarks", "prompts", "example_solutions", "judge_prompts", "steps", "grading"}
    | {"continuations"}
    | {"latex", "costs", "price_scenarios"},
    {"models", "store", "weights"},
    {"collect", "collect_rows", "plans", "serve", "engine_process", "vllm_engine", "dequantise"}
    | {"calls", "runs", "price_estimate", "judge", "prompt_scores", "lattice", "features", "env"},
    {"policies", "train"},
    {"calibrate", "certificate", "risk_tests", "cost_bounds", "evaluate", "metrics", "exploration"},
    {
        "plots",
        "calibration_plots",
        "bill_plots",
        "comparison_plots",
        "trace_plots",
        "labels",
        "figure_style",
        "figure_frames",
        "tables",
        "readme",
        "feature_table",
        "datacard",
    }
    | {"notebooks", "notebook_parameters", "notebook_style", "verification"}
    | {"cli", "calibrate_command", "collect_command", "judge_command", "score_command"}
    | {"models_command", "model_options", "recording_command", "pilot"},
)
LAYER_OF = {unit: number for number, units in enumerate(LAYERS) for unit in units}

RECORDING = {"collect", "judge", "prompt_scores", "serve", "collect_command", "cli"} | {
    "judge_command",
    "score_command",
    "price_estimate",
    "models_command",
    "model_options",
    "recording_command",
    "runs",
}
VENDORS = {"openai", "anthropic", "huggingface_hub", "xllamacpp", "reasoning_gym", "transformers"}


def get_unit(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def list_imports(tree: ast.AST, *, top_level: bool = False) -> Iterator[tuple[str, ...]]:
    """Dotted names that are imported, split at the dots; only those at import time if asked."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Import):
            yield from (tuple(alias.name.split(".")) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"relative import of {node.module}"
            base = (node.module or "").split(".")
            yield from ((*base, alias.name) for alias in node.names)
        elif not top_level or not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            if top_level and isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
                continue
            yield from list_imports(node, top_level=top_level)


def list_units(path: Path) -> set[str]:
    """Units of routerlib that a module imports, its own left out."""
    imported = list_imports(ast.parse(path.read_text(encoding="utf-8")))
    units = {name[1] for name in imported if name[0] == "routerlib" and len(name) > 1}
    return {unit for unit in units if not unit.startswith("__")} - {get_unit(path)}


MODULES = [path for path in SOURCES if get_unit(path) != "__init__"]


def get_name(path: Path) -> str:
    return path.relative_to(PACKAGE).as_posix()


@pytest.mark.parametrize("path", MODULES, ids=get_name)
def test_imports_only_from_its_layer_or_below(path: Path) -> None:
    unit = get_unit(path)
    assert unit in LAYER_OF, f"{unit} has no layer: give it one in tests/test_layers.py"
    for imported in list_units(path):
        assert imported in LAYER_OF, f"{imported} has no layer"
        assert LAYER_OF[imported] <= LAYER_OF[unit], f"{unit} must not import {imported}"


def test_layers_name_only_what_exists() -> None:
    assert set(LAYER_OF) == {get_unit(path) for path in MODULES}
    assert sum(len(units) for units in LAYERS) == len(LAYER_OF), "a unit is in two layers"


def test_units_do_not_import_each_other_in_a_circle() -> None:
    graph: dict[str, set[str]] = {}
    for path in MODULES:
        graph.setdefault(get_unit(path), set()).update(list_units(path))
    assert len(list(TopologicalSorter(graph).static_order())) == len(LAYER_OF)


def test_only_recording_reaches_models() -> None:
    users = {get_unit(path) for path in MODULES if "models" in list_units(path)}
    assert users <= RECORDING


@pytest.mark.parametrize(
    ("library", "owners"),
    [
        ("duckdb", {"store"}),
        ("openai", {"models"}),
        ("anthropic", {"models"}),
        ("xllamacpp", {"models", "serve", "engine_process"}),
        ("huggingface_hub", {"benchmarks", "weights"}),
        ("reasoning_gym", {"benchmarks"}),
        ("papermill", {"notebooks"}),
    ],
)
def test_library_has_one_owner(library: str, owners: set[str]) -> None:
    users = {
        get_unit(path)
        for path in SOURCES
        if any(name[0] == library for name in list_imports(ast.parse(path.read_text("utf-8"))))
    }
    assert users <= owners


@pytest.mark.parametrize("path", SOURCES, ids=get_name)
def test_vendor_libraries_are_imported_where_they_are_used(path: Path) -> None:
    names = list_imports(ast.parse(path.read_text(encoding="utf-8")), top_level=True)
    assert not {name[0] for name in names} & VENDORS, "import it inside the function that needs it"


IMPORT_EVERYTHING = """
import importlib, json, os, pkgutil, re, sys

root, vendors = sys.argv[1], set(sys.argv[2].split(","))
seen = {"opened": [], "connected": [], "keys": [], "vendors": []}
DATA = (".parquet", ".duckdb", ".csv", ".json", ".jsonl", ".gguf", ".ipynb", ".toml", ".mplstyle")

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in vendors:
            seen["vendors"].append(name)
            raise ImportError(name)

def watch(event, arguments):
    if event == "open" and isinstance(arguments[0], str):
        name = os.path.abspath(arguments[0])
        inside = name.startswith(root + os.sep) and not name.startswith(sys.prefix + os.sep)
        if inside and name.endswith(DATA):
            seen["opened"].append(name)
    if event in ("socket.connect", "socket.bind"):
        seen["connected"].append(str(arguments[1]))

read = os._Environ.__getitem__
def read_watched(self, name):
    if isinstance(name, str) and re.search("(API_KEY|TOKEN|SECRET|PASSWORD)$", name):
        seen["keys"].append(name)
    return read(self, name)

os._Environ.__getitem__ = read_watched
sys.meta_path.insert(0, Blocked())
sys.addaudithook(watch)
import routerlib
for module in pkgutil.walk_packages(routerlib.__path__, "routerlib."):
    importlib.import_module(module.name)
print(json.dumps(seen | {"modules": sum(name.startswith("routerlib.") for name in sys.modules)}))
"""


@pytest.mark.slow
def test_importing_opens_no_data_reads_no_key_and_needs_no_vendor() -> None:
    run = subprocess.run(
        [sys.executable, "-c", IMPORT_EVERYTHING, str(paths.ROOT), ",".join(sorted(VENDORS))],
        cwd=paths.ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    seen = json.loads(run.stdout)
    assert seen.pop("modules") >= len(MODULES)
    assert seen == {"opened": [], "connected": [], "keys": [], "vendors": []}


def test_the_library_does_not_print() -> None:
    for path in SOURCES:
        if get_unit(path) in {"cli", "model_options"} or get_unit(path).endswith("_command"):
            continue
        called = {
            node.func.id
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
        }
        assert "print" not in called, path
