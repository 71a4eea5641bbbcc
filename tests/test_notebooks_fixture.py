"""All notebooks run, in order, on the small recorded fixture, without any vendor SDK."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from routerlib import paths
from routerlib.notebook_parameters import load_parameters
from routerlib.notebooks import run_notebooks

NOTEBOOKS = sorted(paths.NOTEBOOKS.glob("[0-9]*.ipynb"))

VENDOR_BLOCK = """\
import sys


class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {"openai", "anthropic", "huggingface_hub", "xllamacpp"}:
            raise ImportError(f"{name}: regenerating figures must need no vendor SDK")


sys.meta_path.insert(0, Blocked())
"""


@pytest.mark.slow
@pytest.mark.skipif(not NOTEBOOKS, reason="notebooks/ is empty")
@pytest.mark.skipif(
    not (paths.FIXTURE_TRACES / "manifest.json").exists(),
    reason="the recorded fixture tests/data/traces is not there",
)
def test_all_notebooks_run_on_the_fixture(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(VENDOR_BLOCK)
    figures = tmp_path / "figures"
    executed = run_notebooks(
        NOTEBOOKS,
        tmp_path / "notebooks",
        {
            "traces_dir": str(paths.FIXTURE_TRACES),
            "results_dir": str(tmp_path / "results"),
            "figures_dir": str(figures),
        },
        environment={"PYTHONPATH": str(tmp_path)},
        show_progress=False,
    )
    assert [path.name for path in executed] == [path.name for path in NOTEBOOKS]
    for suffix in (".png", ".pdf", ".csv", ".json"):
        assert list(figures.glob(f"*{suffix}")), f"no {suffix} file was made"


@pytest.mark.skipif(not NOTEBOOKS, reason="notebooks/ is empty")
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_benchmark_and_pair_are_parameters(path: Path) -> None:
    wanted = {"small", "large"}
    if "appendix" not in path.name:  # an appendix looks at all that was tried
        wanted |= {"benchmark", "lens", "seed"}
    assert wanted <= set(load_parameters(path))


def test_vendor_block_blocks(tmp_path: Path) -> None:
    import subprocess

    (tmp_path / "sitecustomize.py").write_text(VENDOR_BLOCK)
    run = subprocess.run(
        [sys.executable, "-c", "import openai"],
        env={"PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 1
    assert "must need no vendor SDK" in run.stderr
