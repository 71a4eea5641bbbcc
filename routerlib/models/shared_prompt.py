"""How many tokens the prompts of all problems share, by the server's own count."""

from __future__ import annotations

from dataclasses import replace

from routerlib.errors import ModelError
from routerlib.models.protocol import Model
from routerlib.records import Request

BAD_REQUEST = (400, 422)
"""The statuses of a server that does not take a request of this form."""

LETTER = "x"
"""Stands in an empty message where a server takes none; a token in every tokeniser."""


async def count_shared_tokens(model: Model, request: Request) -> int:
    """Return the prompt tokens of a request that ends with an empty message, with one call; with a
    second one where the server takes no empty message (Anthropic's does not): then with a letter
    in it, which counts as one token.

    Raises ModelError as ``model`` does, of the second call where there were two.
    """
    try:
        return (await model.complete(request)).prompt_tokens
    except ModelError as refusal:
        if refusal.status_code not in BAD_REQUEST:
            raise
        *before, empty = request.messages
        filled = replace(request, messages=(*before, replace(empty, content=LETTER)))
        return (await model.complete(filled)).prompt_tokens - 1
