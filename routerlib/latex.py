"""Reading LaTeX by its braces. Pure text in, pure text out; never raises on any text."""

from __future__ import annotations

import re


def find_last_boxed(text: str) -> str | None:
    r"""Return what the last complete ``\boxed{...}`` (or ``\fbox``) of a text holds, else None.

    >>> find_last_boxed(r"so \boxed{\frac{1}{2}} or \boxed{0.5")
    '\\frac{1}{2}'
    """
    for match in reversed(list(re.finditer(r"\\(?:boxed|fbox)\s*\{", text))):
        depth = 1
        for position in range(match.end(), len(text)):
            depth += (text[position] == "{") - (text[position] == "}")
            if depth == 0:
                return text[match.end() : position].strip() or None
    # The MATH solutions also write "\boxed 2", for one token.
    bare = re.findall(r"\\boxed\s+([^\s{}$]+)", text)
    return bare[-1].rstrip(".,") or None if bare else None
