"""The one contract of every model client.

Invariants: making a client does no I/O and reads no key; ``complete`` returns a completion or
raises a named error, never an answer made of an error's text; retries are bounded and counted.
"""

from __future__ import annotations

from typing import Protocol

from routerlib.records import Completion, Request


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
