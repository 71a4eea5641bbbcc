"""What the clients of all protocols have in common: where a model is served, and the way there.

Invariants: the constructor does no I/O and reads no key; a client says nothing of itself that the
transport does not keep.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from routerlib.models.names import check_returned_model
from routerlib.models.rate import NO_LIMIT, Rate
from routerlib.models.transport import Backoff, Sdk, Transport


@dataclass(slots=True)
class ServedModel:
    """One model behind a server; each protocol's client adds what its requests are made of.

    Args:
        id: the ``ModelCard.id`` under which answers are recorded.
        base_url: the server's address.
        model_name: the name that the server knows the model by.
        api_key_env: environment variable that holds the key, read at the first call; None for a
            server that wants no key.
        timeout_s: longest silence of the server within one try.
        max_retries: tries after the first one.
        backoff: waits between tries.
        max_in_flight: open connections; further requests wait for one, which is no part of
            ``latency_s``.
        seed: of the jitter's generator.
        also_named: further names that the server may answer under, whole. ``model_name`` itself
            and its dated snapshots (``gpt-x-2025-01-01`` of ``gpt-x``) are right without them.
        rate: requests and tokens per minute that are kept.
    """

    sdk: ClassVar[Sdk]

    id: str
    base_url: str
    model_name: str
    api_key_env: str | None = None
    timeout_s: float = 600.0
    max_retries: int = 4
    backoff: Backoff = field(default_factory=Backoff)
    max_in_flight: int = 128
    seed: int = 0
    also_named: tuple[str, ...] = ()
    rate: Rate = NO_LIMIT
    _transport: Transport = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self._transport = Transport(
            self.sdk,
            self.model_name,
            self.base_url,
            self.api_key_env,
            self.timeout_s,
            self.max_retries,
            self.backoff,
            self.max_in_flight,
            self.seed,
            self.rate,
        )

    async def aclose(self) -> None:
        """Close the connections; the next call opens new ones."""
        await self._transport.aclose()

    def _check_returned(self, returned: str) -> None:
        """Raise ModelError for an answer that says it is another model's."""
        check_returned_model(returned, self.model_name, self.base_url, self.also_named)
