"""Runs the notebooks strictly: parameters in, an executed copy and its HTML rendering out.

Invariants: a parameter that the notebook does not declare, or of another type, is an error before
anything runs; the working directory is the repository's root; the kernel is the Python that runs
this code, whatever kernels are installed elsewhere; a copy is called ``NAME.ipynb`` only after the
whole notebook has run, and ``NAME.failed.ipynb`` until then.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from routerlib import paths
from routerlib.errors import NotebookError
from routerlib.notebook_parameters import check_values, load_parameters

KERNEL_NAME = "python3"

# The order in which threads add floats changes the last bits, and so do the instruction sets that
# torch and MKL choose from: one thread and one common set give the same numbers on more machines.
KERNEL_ENVIRONMENT: Mapping[str, str] = {
    "PYTHONHASHSEED": "0",
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "MKL_CBWR": "AVX2",
    "ONEDNN_MAX_CPU_ISA": "AVX2",
    "ATEN_CPU_CAPABILITY": "avx2",
}


def run_notebook(
    path: Path,
    output_dir: Path,
    parameters: Mapping[str, object] | None = None,
    *,
    environment: Mapping[str, str] | None = None,
    show_progress: bool = True,
) -> Path:
    """Execute a notebook and return the path of its executed copy in ``output_dir``.

    ``environment`` adds variables to the kernel's. Raises ``NotebookError`` for an unknown
    parameter, a value of another type, a failing cell (named; the copy is kept as
    ``NAME.failed.ipynb``) and a dead kernel.
    """
    source = path.resolve()
    values = check_values(load_parameters(source), parameters or {}, source.name)
    output_dir = output_dir.resolve()
    output_dir.mkdir(parents=True, exist_ok=True)
    unfinished = output_dir / f"{source.stem}.failed.ipynb"
    try:
        _execute(
            source, unfinished, values, {**KERNEL_ENVIRONMENT, **(environment or {})}, show_progress
        )
    finally:
        if unfinished.exists():
            render_html(unfinished)
    executed = output_dir / source.name
    os.replace(unfinished.with_suffix(".html"), executed.with_suffix(".html"))
    os.replace(unfinished, executed)
    return executed


def run_notebooks(
    notebooks: Sequence[Path],
    output_dir: Path,
    parameters: Mapping[str, object] | None = None,
    *,
    environment: Mapping[str, str] | None = None,
    show_progress: bool = True,
) -> list[Path]:
    """Execute notebooks in order and return the executed copies.

    Each notebook gets those of ``parameters`` that it declares; a name that none of them declares
    is a ``NotebookError`` before the first one runs.
    """
    given = dict(parameters or {})
    declared = {path: load_parameters(path) for path in notebooks}
    known = {name for names in declared.values() for name in names}
    if unknown := sorted(set(given) - known):
        raise NotebookError(
            f"unknown parameters {unknown}: no notebook declares them; known: {sorted(known)}"
        )
    return [
        run_notebook(
            path,
            output_dir,
            {name: value for name, value in given.items() if name in names},
            environment=environment,
            show_progress=show_progress,
        )
        for path, names in declared.items()
    ]


def render_html(path: Path) -> Path:
    """Write the HTML rendering of a notebook beside it and return its path."""
    from nbconvert import HTMLExporter

    html, _ = HTMLExporter().from_filename(str(path))  # type: ignore[no-untyped-call]
    target = path.with_suffix(".html")
    target.write_text(html, encoding="utf-8")
    return target


def _execute(
    source: Path,
    target: Path,
    values: Mapping[str, object],
    environment: Mapping[str, str],
    show_progress: bool,
) -> None:
    import papermill
    from nbclient.exceptions import CellTimeoutError, DeadKernelError

    try:
        papermill.execute_notebook(
            source,
            target,
            parameters=dict(values),
            kernel_name=KERNEL_NAME,
            cwd=paths.ROOT,
            progress_bar={"desc": source.stem} if show_progress else False,
            kernel_manager_class=_make_kernel_manager_class(environment),
        )
    except papermill.PapermillExecutionError as error:
        first_line = error.source.strip().partition("\n")[0]
        raise NotebookError(
            f"{source.name} failed in cell [{error.exec_count}] ({first_line!r}): "
            f"{error.ename}: {error.evalue}; the executed copy is {target}"
        ) from error
    except (CellTimeoutError, DeadKernelError, RuntimeError) as error:
        raise NotebookError(
            f"{source.name}: its kernel died ({error}); the executed copy is {target}. Too little "
            "memory is the usual reason"
        ) from error


def _make_kernel_manager_class(environment: Mapping[str, str]) -> type:
    """Return a kernel manager whose only kernel is this Python with these variables.

    By name, a ``python3`` installed for the user could be another environment's.
    """
    from jupyter_client.kernelspec import KernelSpec
    from jupyter_client.manager import AsyncKernelManager

    spec = KernelSpec(
        argv=[sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"],
        display_name="Python 3 (ipykernel)",
        language="python",
        env=dict(environment),
    )

    class ThisPythonKernelManager(AsyncKernelManager):
        @property
        def kernel_spec(self) -> KernelSpec:
            return spec

    return ThisPythonKernelManager
