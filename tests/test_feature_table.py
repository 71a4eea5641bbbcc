"""``docs/features.md`` says what the registry says, and its Python runs."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from lattice_cases import build_scripted

from routerlib import paths
from routerlib.cli import main
from routerlib.costs import Lens
from routerlib.feature_table import END, START, render_features, update_features
from routerlib.features import FEATURE_SETS, FIELDS, get_feature_names

DOCUMENT = paths.ROOT / "docs" / "features.md"
TEXT = DOCUMENT.read_text(encoding="utf-8")


def test_the_document_has_the_registrys_table() -> None:
    written = TEXT.partition(START)[2].partition(END)[0]
    assert written.strip() == render_features(), "run `routerlib readme`"


def test_every_feature_has_a_row_and_every_set_its_sizes() -> None:
    table = render_features()
    for name, field in FIELDS.items():
        assert f"| `{name}` | {field.unit} | `{field.protocol}` | {field.group} |" in table
    for name in FEATURE_SETS:
        sizes = " | ".join(str(len(get_feature_names(name, p))) for p in ("before", "probe"))
        assert f"| `{name}` | {sizes} |" in table


def test_the_document_names_every_set_and_is_reachable() -> None:
    prose = TEXT.partition(START)[0]
    assert all(f"`{name}`" in prose for name in FEATURE_SETS)
    assert "(docs/features.md)" in (paths.ROOT / "README.md").read_text(encoding="utf-8")


def test_readme_rewrites_the_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    readme, document = tmp_path / "README.md", tmp_path / "features.md"
    readme.write_text((paths.ROOT / "README.md").read_text(encoding="utf-8"), encoding="utf-8")
    document.write_text(f"# F\n\n{START}\nold\n{END}\n", encoding="utf-8")
    assert main(["readme", "--readme", str(readme), "--features", str(document)]) == 0
    assert "features.md: rewritten" in capsys.readouterr().out
    assert document.read_text("utf-8") == f"# F\n\n{START}\n{render_features()}\n{END}\n"
    assert not update_features(document)


def test_the_documented_environment_runs(
    toy_lens: Lens, capsys: pytest.CaptureFixture[str]
) -> None:
    code = re.search(r"```python\n(.*?)```", TEXT, re.DOTALL)
    assert code is not None
    exec(code.group(1), {"train": build_scripted(), "lens": toy_lens})
    assert re.fullmatch(r"p\d (right|wrong) [\d.]+\n", capsys.readouterr().out)
