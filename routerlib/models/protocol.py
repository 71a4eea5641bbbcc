"""The one contract of every model client.

Invariants: making a client does no I/O and reads no key; ``complete`` returns a completion or
raises a named error, never an answer made of an error's text; retries are bounded and counted.
"""

from __future__ import annotations

from typing import Protocol

from routerlib.records import Completion, Request, TextScore


class Model(Protocol):
    """A language model that continues a chat."""

    @property
    def id(self) -> str:
        """The ``ModelCard.id`` under which answers are recorded."""

    async def complete(self, request: Request) -> Completion:
        """Return the model's answer to one request.

        Raises:
            TransientModelError: the call failed in a way that may pass, and the retries are used
                up.
            ModelError: the call failed for good.
        """

    async def aclose(self) -> None:
        """Close the connections. A closed model may be used again: it opens new ones."""


class TextScorer(Protocol):
    """A language model that tells how well it predicts a text. Not every server can."""

    @property
    def id(self) -> str:
        """The ``ModelCard.id`` under which scores are recorded."""

    async def score_text(self, text: str) -> TextScore:
        """Return the log-probability of a text that stands alone. Raises like ``Model.complete``,
        and ModelError when the server gives no log-probabilities of a prompt."""

    async def aclose(self) -> None:
        """Close the connections; see ``Model.aclose``."""
