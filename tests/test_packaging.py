"""One set of versions in three files, and a Makefile that says clearly what is missing."""

from __future__ import annotations

import ast
import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from routerlib import __version__, paths

ROOT = paths.ROOT
PYPROJECT_TEXT = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
PROJECT = tomllib.loads(PYPROJECT_TEXT)["project"]
LOCK_TEXT = (ROOT / "requirements.lock").read_text(encoding="utf-8")
MAKEFILE_TEXT = (ROOT / "Makefile").read_text(encoding="utf-8")

# Names that differ between conda-forge and the Python package index, and between import and index.
CONDA_TO_INDEX = {
    "pytorch": "torch",
    "python-duckdb": "duckdb",
    "matplotlib-base": "matplotlib",
}
IMPORT_TO_INDEX = {"sklearn": "scikit-learn"}
# What is run, not imported; and clients of collection that later stages import.
TOOLS = {"ipykernel", "jupyterlab", "anthropic"}


def normalise(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def read_lock() -> dict[str, set[str]]:
    """Versions by package; a package may have two for two ranges of Python."""
    found: dict[str, set[str]] = {}
    for name, version in re.findall(r"^([A-Za-z0-9._-]+)==([^\s;]+)", LOCK_TEXT, re.MULTILINE):
        found.setdefault(normalise(name), set()).add(version)
    return found


def read_environment() -> dict[str, str]:
    """Versions by package, both sections; Python and pip under their own names."""
    text = (ROOT / "environment.yml").read_text(encoding="utf-8")
    lines = re.findall(r"^ +- ([A-Za-z0-9._-]+)==?([^\s=]+)$", text, re.MULTILINE)
    return {normalise(CONDA_TO_INDEX.get(name, name)): version for name, version in lines}


def list_declared(*extras: str) -> set[str]:
    lists = [PROJECT["dependencies"], *(PROJECT["optional-dependencies"][x] for x in extras)]
    return {normalise(name) for names in lists for name in names}


def test_lock_pins_every_dependency_and_nothing_of_cuda() -> None:
    lock = read_lock()
    assert list_declared("collect", "dev") <= set(lock)
    assert not [n for n in lock if n.startswith(("nvidia-", "cuda-")) or n == "triton"]
    assert "python_full_version" in LOCK_TEXT, "the lock is not for every Python"
    assert "sys_platform == 'win32'" in LOCK_TEXT, "the lock is not for every platform"


def test_lock_names_no_index_no_path_and_no_hash() -> None:
    lines = [line for line in LOCK_TEXT.splitlines() if line and not line.lstrip().startswith("#")]
    pin = re.compile(r"^[a-z0-9._-]+==[A-Za-z0-9.!]+( ; .+)?$")
    assert [line for line in lines if not pin.match(line)] == []
    assert not re.search(r"https?://|file:|--(?!output)|sha256", LOCK_TEXT)


def test_conda_users_get_the_same_versions() -> None:
    environment, lock = read_environment(), read_lock()
    python = environment.pop("python")
    assert PROJECT["requires-python"] == f">={python}"
    assert set(environment) == list_declared("collect", "dev")
    for name, version in environment.items():
        assert version in lock[name], f"environment.yml: {name}={version}, locked {lock[name]}"


def test_tests_run_with_the_locked_versions() -> None:
    lock = read_lock()
    for name in sorted(list_declared("dev") - {"uv", "setuptools"}):
        installed = importlib.metadata.version(name).partition("+")[0]
        assert installed in lock[name], f"{name} {installed} is installed; run make setup"


def test_each_dependency_says_what_it_is_for() -> None:
    block = PYPROJECT_TEXT.partition("dependencies = [")[2].partition("[project.scripts]")[0]
    lines = [line.strip() for line in block.splitlines() if line.strip().startswith('"')]
    assert len(lines) == len(list_declared("collect", "dev"))
    assert [line for line in lines if not re.search(r'",\s+# .{5,}', line)] == []


def list_imported(folder: Path) -> set[str]:
    """Index names of the third-party packages that the modules of a folder import."""
    names = set()
    for path in folder.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                names |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                names.add((node.module or "").partition(".")[0])
    third_party = names - sys.stdlib_module_names - {"routerlib"}
    return {normalise(IMPORT_TO_INDEX.get(name, name)) for name in third_party}


# The model engines live in environments of their own, and nbclient comes with papermill.
ELSEWHERE = {"transformers", "vllm", "gguf", "accelerate", "nbclient"}


def test_what_is_imported_is_declared_and_what_is_declared_is_used() -> None:
    imported = list_imported(ROOT / "routerlib") - ELSEWHERE
    declared = list_declared("collect")
    assert imported <= declared, "declare it in pyproject.toml with its reason, or do without"
    assert declared - imported - TOOLS == set(), "declared in pyproject.toml and never imported"


def test_licence_citation_and_version_agree() -> None:
    citation = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    licence = (ROOT / "LICENSE").read_text(encoding="utf-8")
    assert licence.startswith("MIT License")
    assert PROJECT["license"] == "MIT"
    assert re.search(r"^license: MIT$", citation, re.MULTILINE)
    assert re.search(rf"^version: {re.escape(PROJECT['version'])}$", citation, re.MULTILINE)
    assert __version__ == PROJECT["version"]


def test_continuous_integration_runs_make_test() -> None:
    script = ROOT / ".ci" / "run"
    text = script.read_text(encoding="utf-8")
    assert os.access(script, os.X_OK)
    assert text.startswith("#!/usr/bin/env bash\n")
    assert text.rstrip().endswith("exec make test")


TARGETS = ["help", "setup", "reproduce", "verify", "db", "collect", "serve-local", "lab", "test",
           "check", "bench", "lock", "clean"]  # fmt: skip

needs_make = pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")


def run_make(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {k: v for k, v in os.environ.items() if k not in {"MAKEFLAGS", "MAKELEVEL"}}
    return subprocess.run(
        ["make", "-C", str(folder), "--no-print-directory", *arguments],
        env=environment | {"LC_ALL": "C"},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A folder with the Makefile and a Python of straw that notes how it was called."""
    for name in ("Makefile", "requirements.lock", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path / name)
    (tmp_path / "routerlib").mkdir()
    (tmp_path / "routerlib" / "paths.py").write_text("")
    (tmp_path / "notebooks").mkdir()
    for name in ("01_a.ipynb", "02_b.ipynb", "03_c.ipynb"):
        (tmp_path / "notebooks" / name).write_text("{}")
    (tmp_path / "traces" / "steps").mkdir(parents=True)
    (tmp_path / "traces" / "steps" / "steps-000.parquet").write_text("")
    return tmp_path


STRAW_PYTHON = """#!/bin/sh
# Called as: python -m routerlib.cli notebooks run NOTEBOOK --output FOLDER
mkdir -p "$7" && cp "$5" "$7/" && basename "$5" >> ran.txt
"""


@pytest.fixture
def installed(project: Path) -> Path:
    (project / ".venv" / "bin").mkdir(parents=True)
    python = project / ".venv" / "bin" / "python"
    python.write_text(STRAW_PYTHON)
    python.chmod(0o755)
    (project / ".venv" / "installed.stamp").write_text("")
    return project


@needs_make
def test_help_is_the_default_and_lists_every_target(project: Path) -> None:
    lines = run_make(project).stdout.splitlines()
    assert [line.split()[1] for line in lines] == TARGETS
    assert all(len(line.split()) > 3 and len(line) <= 100 for line in lines)
    phony = re.search(r"^\.PHONY: (.*)$", MAKEFILE_TEXT, re.MULTILINE)
    assert phony is not None
    assert phony.group(1).split() == TARGETS


def write_python(path: Path, version: str, *, venv: bool = True) -> Path:
    old = tuple(int(part) for part in version.split(".")) < (3, 11)
    path.write_text(
        "#!/bin/sh\n"
        'case "$2" in\n'
        f'*print*) echo "{version}" ;;\n'
        f"*sys.exit*) exit {int(old)} ;;\n"
        f"*ensurepip*) exit {int(not venv)} ;;\n"
        "*) exit 1 ;;\nesac\n"
    )
    path.chmod(0o755)
    return path


@needs_make
def test_old_python_gives_one_clear_sentence(project: Path) -> None:
    python = write_python(project / "python-old", "3.9")
    run = run_make(project, "setup", f"PYTHON={python}")
    first, *rest = run.stderr.strip().splitlines()
    assert run.returncode == 2
    assert f"routerlib needs Python >= 3.11 and PYTHON={python} is 3.9" in first
    assert "make setup PYTHON=" in first
    assert [line for line in rest if not line.startswith("make:")] == []
    assert not (project / ".venv").exists()


@needs_make
def test_missing_python_or_venv_gives_one_clear_sentence(project: Path) -> None:
    run = run_make(project, "setup", "PYTHON=no-such-python")
    assert run.returncode == 2
    assert "setup: PYTHON=no-such-python cannot be run; install Python >= 3.11" in run.stderr
    python = write_python(project / "python-bare", "3.12", venv=False)
    run = run_make(project, "reproduce", f"PYTHON={python}")
    assert run.returncode == 2
    assert f"PYTHON={python} lacks the venv module; install it" in run.stderr


@needs_make
def test_second_reproduce_does_nothing_and_a_change_runs_what_follows(installed: Path) -> None:
    ran = installed / "ran.txt"

    def reproduce() -> list[str]:
        ran.write_text("")
        run = run_make(installed, "reproduce")
        assert run.returncode == 0, run.stderr
        return ran.read_text().split()

    everything = ["01_a.ipynb", "02_b.ipynb", "03_c.ipynb"]
    assert reproduce() == everything
    assert reproduce() == []
    os.utime(installed / "notebooks" / "02_b.ipynb", (2e9, 2e9))
    assert reproduce() == ["02_b.ipynb", "03_c.ipynb"]
    os.utime(installed / "notebooks" / "02_b.ipynb", (1e9, 1e9))
    assert reproduce() == []
    for changed in ("routerlib/paths.py", "traces/steps/steps-000.parquet"):
        os.utime(installed / changed, (2e9, 2e9))
        assert reproduce() == everything
        os.utime(installed / changed, (1e9, 1e9))
        assert reproduce() == []


@needs_make
def test_torch_index_is_used_for_torch_alone(installed: Path) -> None:
    os.utime(installed / "requirements.lock", (2e9, 2e9))
    run = run_make(installed, "-n", "setup", "TORCH_INDEX=https://index.example/cpu")
    lines = [line for line in run.stdout.splitlines() if "index.example" in line]
    assert len(lines) == 1
    assert "--no-deps --index-url https://index.example/cpu" in lines[0]
    assert "index.example" not in run_make(installed, "-n", "setup").stdout
