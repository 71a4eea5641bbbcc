"""The manifest: which files the store consists of, with hashes, and what was recorded.

Invariants: an entry, once written, changes only by compaction, so a file that was altered after
it was listed never becomes right again by recording more; ``created_at`` changes only when the
files do. Shards that a running or killed writer left are not listed yet and are still valid.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeAlias

import pyarrow as pa
import pyarrow.parquet as pq

from routerlib.errors import ManifestMismatchError, SchemaVersionError
from routerlib.records import SCHEMA_VERSION, ModelCard
from routerlib.store.files import compute_file_sha256, is_shard, list_files, write_text
from routerlib.store.schema import TABLES

MANIFEST_NAME = "manifest.json"

# prompt version, kind, temperature, max_tokens
SamplingSetting: TypeAlias = tuple[str, str, float, int]


@dataclass(frozen=True, slots=True)
class FileEntry:
    """What a file is known by."""

    rows: int
    bytes: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Manifest:
    """The files of each table (table -> file name -> entry) and what was recorded in them.

    ``description`` holds the models, prompt versions, sampling settings and library versions.
    """

    created_at: str
    tables: Mapping[str, Mapping[str, FileEntry]]
    description: Mapping[str, Any]


def describe_recording(
    cards: Iterable[ModelCard], settings: Iterable[SamplingSetting]
) -> dict[str, Any]:
    """Return what a manifest says besides its files."""
    ordered = sorted(set(settings))
    return {
        "models": {
            card.id: {
                "parameters": card.parameters,
                "quantisation": card.quantisation,
                "weights_sha256": card.weights_sha256,
            }
            for card in sorted(cards, key=lambda card: card.id)
        },
        "prompt_versions": sorted({setting[0] for setting in ordered}),
        "sampling": [
            {"prompt_version": p, "kind": kind, "temperature": temperature, "max_tokens": tokens}
            for p, kind, temperature, tokens in ordered
        ],
        "library_versions": {"pyarrow": pa.__version__},
    }


def make_entry(path: Path) -> FileEntry:
    """Return the entry of a file as it is now."""
    return FileEntry(
        rows=pq.read_metadata(path).num_rows,
        bytes=path.stat().st_size,
        sha256=compute_file_sha256(path),
    )


def make_manifest(
    tables: Mapping[str, Mapping[str, FileEntry]],
    description: Mapping[str, Any],
    previous: Manifest | None,
) -> Manifest:
    """Return the manifest of these files: the previous one itself when the files are the same."""
    if previous is not None and _drop_empty(previous.tables) == _drop_empty(tables):
        return previous
    return Manifest(datetime.now(UTC).isoformat(timespec="seconds"), tables, description)


def _drop_empty(
    tables: Mapping[str, Mapping[str, FileEntry]],
) -> dict[str, Mapping[str, FileEntry]]:
    return {name: files for name, files in tables.items() if files}


def list_entries(root: Path, previous: Manifest | None) -> dict[str, dict[str, FileEntry]]:
    """Return the entries of ``previous`` as they are, and new ones for shards it does not list."""
    tables: dict[str, dict[str, FileEntry]] = {}
    for name in TABLES:
        tables[name] = dict(previous.tables.get(name, {})) if previous else {}
        for path in list_files(root, name):
            if path.name not in tables[name] and is_shard(path):
                tables[name][path.name] = make_entry(path)
    return tables


def render_manifest(manifest: Manifest) -> str:
    """Return a manifest as JSON text."""
    content = {
        "schema_version": SCHEMA_VERSION,
        "created_at": manifest.created_at,
        "tables": {
            name: {
                "rows": sum(entry.rows for entry in files.values()),
                "files": {
                    file: {"rows": e.rows, "bytes": e.bytes, "sha256": e.sha256}
                    for file, e in sorted(files.items())
                },
            }
            for name, files in manifest.tables.items()
            if files
        },
        **manifest.description,
    }
    return json.dumps(content, indent=2) + "\n"


def save_manifest(root: Path, manifest: Manifest) -> None:
    """Write ``manifest.json`` whole or not at all; leave it alone when nothing changes."""
    path, text = root / MANIFEST_NAME, render_manifest(manifest)
    if not path.exists() or path.read_text(encoding="utf-8") != text:
        write_text(path, text)


def parse_manifest(text: str, path: Path) -> Manifest:
    """Return the manifest that ``text`` (of ``path``) holds.

    Raises SchemaVersionError for another version, ManifestMismatchError when it is no manifest.
    """
    try:
        content = json.loads(text)
        version = content.pop("schema_version")
        if version != SCHEMA_VERSION:
            raise SchemaVersionError(
                f"{path} has schema version {version!r}, this code reads version "
                f"{SCHEMA_VERSION}: use the release that wrote it, or record again"
            )
        tables = {
            name: {file: FileEntry(**entry) for file, entry in table["files"].items()}
            for name, table in content.pop("tables").items()
        }
        return Manifest(content.pop("created_at"), tables, content)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ManifestMismatchError(
            f"{path} is not a manifest ({type(error).__name__}: {error}): restore it from version "
            "control, or delete it and run `routerlib compact` to accept the files as they are"
        ) from error


def load_manifest(root: Path) -> Manifest | None:
    """Return the manifest of a store, None when there is none yet. Errors as parse_manifest."""
    path = root / MANIFEST_NAME
    if not path.exists():
        return None
    return parse_manifest(path.read_text(encoding="utf-8"), path)


def find_mismatches(
    root: Path, name: str, manifest: Manifest | None, *, contents: bool = True
) -> list[str]:
    """Compare a table's files with the manifest and return every difference. Without ``contents``
    their names and sizes count and they are not re-hashed."""
    entries = manifest.tables.get(name, {}) if manifest else {}
    paths = {path.name: path for path in list_files(root, name)}
    remedy = (
        f"restore it from version control, or delete {root / MANIFEST_NAME} and run "
        "`routerlib compact` to accept the files as they are"
    )
    found = [
        f"{root / name / file} is in the manifest and not on the disk: {remedy}"
        for file in sorted(entries.keys() - paths.keys())
    ]
    for file, path in paths.items():
        entry = entries.get(file)
        if entry is None:
            if not is_shard(path):
                found.append(f"{path} is not in the manifest: {_explain_unlisted(manifest)}")
        elif path.stat().st_size != entry.bytes:
            found.append(
                f"{path} has {path.stat().st_size} bytes, the manifest says {entry.bytes}: {remedy}"
            )
        elif contents and (sha256 := compute_file_sha256(path)) != entry.sha256:
            found.append(f"{path} has SHA-256 {sha256}, the manifest says {entry.sha256}: {remedy}")
    return found


def _explain_unlisted(manifest: Manifest | None) -> str:
    if manifest is None:
        return (
            f"there is no {MANIFEST_NAME}; restore it from version control, or run "
            "`routerlib compact` to accept the files as they are"
        )
    return "delete the file, or restore the manifest that lists it from version control"
