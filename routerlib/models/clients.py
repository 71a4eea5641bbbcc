"""From a table of ``models.toml`` and what the model was found to be able to do, to its client.

Invariant: a client sends nothing that the probe saw refused.
"""

from __future__ import annotations

from typing import Any, TypeAlias, cast

from routerlib.models.anthropic_messages import AnthropicModel
from routerlib.models.capabilities import Capabilities
from routerlib.models.model_file import ModelEntry
from routerlib.models.openai_compatible import OpenAICompatibleModel, Prefill
from routerlib.models.openai_responses import OpenAIResponsesModel

Client: TypeAlias = AnthropicModel | OpenAICompatibleModel | OpenAIResponsesModel


def make_client(
    entry: ModelEntry,
    capabilities: Capabilities,
    *,
    max_in_flight: int = 128,
    also_named: tuple[str, ...] = (),
) -> Client:
    """Make a model's client; no I/O. ``max_in_flight`` counts at most ``entry.concurrency``."""
    in_flight = min(max_in_flight, entry.concurrency or max_in_flight)
    shared: dict[str, Any] = {
        "id": entry.card.id,
        "base_url": entry.base_url,
        "model_name": entry.model_name,
        "api_key_env": entry.api_key_env,
        "max_in_flight": in_flight,
        "also_named": also_named,
        "rate": entry.rate,
        "takes_temperature": capabilities.temperature,
        "thinking_tokens": entry.thinking_tokens,
    }
    if entry.sdk == "anthropic":
        return AnthropicModel(
            takes_blank_stops=capabilities.blank_stop,
            repeats_prefill=capabilities.prefill == "repeated",
            **shared,
        )
    most_logprobs = capabilities.top_logprobs if capabilities.logprobs else 0
    if entry.api == "responses":
        return OpenAIResponsesModel(most_logprobs=most_logprobs, **shared)
    prefill = "plain" if capabilities.prefill == "none" else capabilities.prefill
    return OpenAICompatibleModel(
        prefill=cast(Prefill, prefill),
        takes_seed=capabilities.seed,
        takes_stops=capabilities.stop and capabilities.blank_stop,
        most_logprobs=most_logprobs,
        limit_field=capabilities.limit_field,
        **shared,
    )
