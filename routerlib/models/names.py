"""Whether a reply comes from the model that was asked for. Pure."""

from __future__ import annotations

import re
from collections.abc import Sequence

from routerlib.errors import ModelError

_SNAPSHOT = re.compile(r"[-@:](\d{4}-\d{2}-\d{2}|\d{3,8})")


def is_same_model(returned: str, requested: str, also_named: Sequence[str] = ()) -> bool:
    """Say whether the name in a reply is that of the model that was asked for: the requested name,
    a dated or numbered snapshot of it, or one of ``also_named``; case does not count.

    >>> [is_same_model(name, "gpt-x") for name in ("GPT-X", "gpt-x-2025-01-01", "gpt-x-mini")]
    [True, True, False]
    """
    found, wanted = returned.casefold(), requested.casefold()
    if found.startswith(wanted):
        rest = found.removeprefix(wanted)
        if not rest or _SNAPSHOT.fullmatch(rest):
            return True
    return found in {name.casefold() for name in also_named}


def check_returned_model(
    returned: str, requested: str, base_url: str, also_named: Sequence[str]
) -> None:
    """Raise ModelError unless ``is_same_model``."""
    if not is_same_model(returned, requested, also_named):
        raise ModelError(
            f"{base_url} was asked for model {requested!r} and answered as {returned!r}: ask for "
            "the model by the name of its own, or, if both are one model, give the second name in "
            "also_named (routerlib collect: --small-alias, --large-alias)"
        )
