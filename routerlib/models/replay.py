"""A model that answers from recorded steps: the collector's tests and checks run without a server.

Invariants: only what was recorded is answered, a request that was never recorded is an error; a
failed call is not an answer.
"""

from __future__ import annotations

from collections.abc import Iterable

from routerlib.errors import ModelError
from routerlib.records import Completion, Request, Step


class ReplayModel:
    """A model made of (request, recorded step) pairs.

    Whoever knows how requests are built from states (the collector) pairs them; of two successful
    steps for one request the first is kept.
    """

    def __init__(self, id: str, recorded: Iterable[tuple[Request, Step]]) -> None:
        self.id = id
        self._completions: dict[Request, Completion] = {}
        for request, step in recorded:
            if step.error is None:
                self._completions.setdefault(request, build_completion(step))

    def __len__(self) -> int:
        return len(self._completions)

    async def complete(self, request: Request) -> Completion:
        """Return the recorded answer.

        Raises:
            ModelError: this request was never answered in the recording.
        """
        try:
            return self._completions[request]
        except KeyError:
            last = request.messages[-1].content if request.messages else ""
            raise ModelError(
                f"{self.id}: no recorded answer to the request that ends in {last[-80:]!r} with "
                f"{request.sampling}. Record it, or check that prompt and sampling are the same"
            ) from None

    async def aclose(self) -> None:
        """Do nothing: there is no connection."""


def build_completion(step: Step) -> Completion:
    """Return the completion that a successful recorded step was made from.

    Raises:
        ModelError: the step is a failed call.
    """
    if step.error is not None or step.text is None or step.ended_by is None:
        raise ModelError(f"step {step.id} is a failed call ({step.error}): it holds no answer")
    return Completion(
        text=step.text,
        ended_by=step.ended_by,
        prompt_tokens=step.prompt_tokens,
        completion_tokens=step.completion_tokens,
        reasoning_tokens=step.reasoning_tokens,
        cached_prompt_tokens=step.cached_prompt_tokens,
        token_logprobs=step.token_logprobs,
        first_token_top=step.first_token_top,
        finish_reason=step.finish_reason or "",
        returned_model=step.returned_model or "",
        request_id=step.request_id or "",
        latency_s=step.latency_s,
        retries=step.retries,
    )
