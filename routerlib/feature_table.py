"""The table of all features in ``docs/features.md``, written from their own descriptions.

The table stands between two comment lines of the document; a test compares it with the registry.
"""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from routerlib.features import FEATURE_SETS, FIELDS, PROTOCOLS, get_feature_names
from routerlib.readme import replace_section
from routerlib.tables import format_markdown

START = "<!-- features: written by `routerlib readme` from routerlib/features/registry.py -->"
END = "<!-- /features -->"


def render_features() -> str:
    """Return two tables in Markdown: how many features each set has under each protocol, and one
    row for each feature."""
    sizes = [
        {"set": f"`{name}`"} | {f"`{p}`": len(get_feature_names(name, p)) for p in PROTOCOLS}
        for name in FEATURE_SETS
    ]
    rows = [
        {
            "feature": f"`{field.name}`",
            "unit": field.unit,
            "seen from": f"`{field.protocol}`",
            "group": field.group,
            "default": "yes" if field.in_default else "",
            "meaning": field.meaning,
        }
        for field in FIELDS.values()
    ]
    return "\n\n".join(format_markdown(pd.DataFrame(table)) for table in (sizes, rows))


def update_features(document: Path) -> bool:
    """Rewrite the document's tables and return whether that changed it.

    Raises ``RouterlibError`` when the document cannot be read or written, or lacks the two comment
    lines.
    """
    return replace_section(document, START, END, render_features())
