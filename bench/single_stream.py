"""How fast a model reads and writes, one request at a time: the speeds of the latency lens.

Three calls tell them apart: one with a prompt that is new to the server and one written token, the
same again (the prompt is cached now, but for the end of it that fills no block), and the same with
many written tokens. What they share, the way to the server and back, is in none of the differences.
"""

from __future__ import annotations

import asyncio
import random
import statistics
from dataclasses import dataclass

from bench.measurement import Measurement
from routerlib.models.openai_compatible import OpenAICompatibleModel
from routerlib.models.protocol import Model
from routerlib.records import Completion, Message, Request, Sampling
from routerlib.serve import ENGINE_PREFILL, Engine, serve_local

PROMPT_WORDS = 300
WRITTEN = 128


@dataclass(frozen=True, slots=True)
class Speeds:
    """Tokens per second that a model reads and writes, of one prompt."""

    prefill: float
    decode: float


async def measure_once(model: Model, seed: int) -> Speeds:
    """Return the speeds on one prompt of its own. Raises ValueError when the answer is shorter than
    two tokens, or a longer call takes less time: something else was running."""
    generator = random.Random(seed)
    words = [str(generator.randrange(10**4)) for _ in range(PROMPT_WORDS)]
    text = f"Write all of these numbers as words: {' '.join(words)}"

    async def ask(max_tokens: int) -> Completion:
        return await model.complete(
            Request((Message("user", text),), Sampling(max_tokens=max_tokens, top_logprobs=0))
        )

    first, again, long = await ask(1), await ask(1), await ask(WRITTEN)
    reading, writing = first.latency_s - again.latency_s, long.latency_s - again.latency_s
    if long.completion_tokens < 2 or min(reading, writing) <= 0.0:
        raise ValueError(
            f"{model.id} took {first.latency_s:.3f} s for a new prompt, {again.latency_s:.3f} s "
            f"for a known one and {long.latency_s:.3f} s for {long.completion_tokens} tokens: let "
            "nothing else run, and try again"
        )
    return Speeds(_count_read(first, again) / reading, (long.completion_tokens - 1) / writing)


def _count_read(first: Completion, again: Completion) -> int:
    """The tokens that only the first call read. A server that counts no cached tokens (vLLM, unless
    it is told to) is taken to have read nothing again, which is right but for one block."""
    read = first.prompt_tokens - first.cached_prompt_tokens
    read_again = again.prompt_tokens - again.cached_prompt_tokens
    return read - read_again if again.cached_prompt_tokens else read


def measure_single_stream(
    engine: Engine | None, weights: str, repetitions: int = 5
) -> list[Measurement]:
    """Return the median speeds of the weights in an engine that is started for it; nothing where no
    engine is named."""
    if engine is None:
        return []
    with serve_local(engine, weights, served_name=weights, concurrency=1) as server:
        model = OpenAICompatibleModel(
            weights, server.base_url, weights, prefill=ENGINE_PREFILL[engine], max_in_flight=1
        )

        async def measure() -> list[Speeds]:
            try:
                return [await measure_once(model, seed) for seed in range(repetitions + 1)][1:]
            finally:
                await model.aclose()

        found = asyncio.run(measure())
    return [
        Measurement(
            f"{weights}, {engine}: tokens/s {verb}",
            statistics.median(getattr(speeds, name) for speeds in found),
            detail={"tokens_per_s": [getattr(speeds, name) for speeds in found]},
        )
        for name, verb in (("prefill", "read"), ("decode", "written"))
    ]
