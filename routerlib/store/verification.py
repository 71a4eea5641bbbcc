"""Find everything that is wrong with a store: files first, then rows and the links between them.

Invariant: every problem is one line that names the file or the row, what is wrong, and what to
do; the search goes on after each. Where a table cannot be read, the links to it are not checked,
and a line says so. Memory holds the states and steps of some problems at a time.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq

from routerlib.errors import ManifestMismatchError, SchemaVersionError
from routerlib.store.contents import find_content_problems
from routerlib.store.files import is_shard, list_files
from routerlib.store.journal import get_journal_path
from routerlib.store.manifest import MANIFEST_NAME, Manifest, find_mismatches, load_manifest
from routerlib.store.reading import JOURNAL_NAME
from routerlib.store.schema import TABLES


def verify(root: Path) -> list[str]:
    """Return every problem of the store at ``root``, none when it is sound.

    Re-hashes all files, compares them with the manifest, reads every row, follows every link, and
    recomputes every id. A store whose compaction stopped half way is reported as that alone.
    """
    if not root.is_dir():
        return [f"{root}: there is no store; record one with `routerlib collect`"]
    if (root / JOURNAL_NAME).exists():
        return [
            f"{root / JOURNAL_NAME}: a compaction was interrupted or is running; when none is "
            "running, `routerlib compact` finishes it"
        ]
    problems: list[str] = []
    if get_journal_path(root).exists():
        problems.append(
            f"{get_journal_path(root)} holds rows that are in no shard yet, as when their writer "
            "is running or was killed: `routerlib compact` takes them in"
        )
    manifest: Manifest | None = None
    try:
        manifest = load_manifest(root)
    except (ManifestMismatchError, SchemaVersionError) as error:
        problems.append(str(error))
    else:
        problems += _find_manifest_problems(root, manifest)
    paths = {name: list_files(root, name) for name in reversed(TABLES)}  # a writer may add rows
    with tempfile.TemporaryDirectory(prefix="routerlib-") as folder:
        problems += find_content_problems(paths, Path(folder))
    return problems


def _find_manifest_problems(root: Path, manifest: Manifest | None) -> Iterator[str]:
    if manifest is None:
        yield (
            f"{root / MANIFEST_NAME} is missing: restore it from version control, or run "
            "`routerlib compact` to accept the files as they are"
        )
    for folder in sorted({path.parent.name for path in root.glob("*/*.parquet")} - set(TABLES)):
        yield f"{root / folder} is no table of the store: move its files away"
    for name in TABLES:
        entries = manifest.tables.get(name, {}) if manifest else {}
        if manifest is not None:
            yield from find_mismatches(root, name, manifest)
        for path in list_files(root, name):
            if path.name in entries:
                yield from _check_row_count(path, entries[path.name].rows)
            elif is_shard(path) and manifest is not None:
                yield (
                    f"{path} is not in the manifest, as when its writer is running or was killed: "
                    "`routerlib compact` takes it in"
                )


def _check_row_count(path: Path, expected: int) -> Iterator[str]:
    try:
        rows = pq.read_metadata(path).num_rows
    except (ValueError, OSError):
        return  # reading the file reports it
    if rows != expected:
        yield (
            f"{path} has {rows} rows, the manifest says {expected}: restore both from version "
            "control"
        )
