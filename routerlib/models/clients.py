"""From a table of ``models.toml`` and what the model was found to be able to do, to its client.

Invariant: a client sends nothing that the probe saw refused.
"""

from __future__ import annotations

from typing import TypeAlias, cast

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
    if entry.sdk == "anthropic":
        return AnthropicModel(
            id=entry.card.id,
            base_url=entry.base_url,
            model_name=entry.model_name,
            api_key_env=entry.api_key_env,
            max_in_flight=in_flight,
            also_named=also_named,
            rate=entry.rate,
            takes_temperature=capabilities.temperature,
            takes_blank_stops=capabilities.blank_stop,
            thinking_tokens=entry.thinking_tokens,
        )
    most_logprobs = capabilities.top_logprobs if capabilities.logprobs else 0
    if entry.api == "responses":
        return OpenAIResponsesModel(
            id=entry.card.id,
            base_url=entry.base_url,
            model_name=entry.model_name,
            api_key_env=entry.api_key_env,
            max_in_flight=in_flight,
            also_named=also_named,
            rate=entry.rate,
            takes_temperature=capabilities.temperature,
            most_logprobs=most_logprobs,
            thinking_tokens=entry.thinking_tokens,
        )
    prefill = "plain" if capabilities.prefill == "none" else capabilities.prefill
    return OpenAICompatibleModel(
        id=entry.card.id,
        base_url=entry.base_url,
        model_name=entry.model_name,
        api_key_env=entry.api_key_env,
        max_in_flight=in_flight,
        also_named=also_named,
        rate=entry.rate,
        prefill=cast(Prefill, prefill),
        takes_seed=capabilities.seed,
        takes_temperature=capabilities.temperature,
        takes_stops=capabilities.stop and capabilities.blank_stop,
        most_logprobs=most_logprobs,
        limit_field=capabilities.limit_field,
        thinking_tokens=entry.thinking_tokens,
    )
