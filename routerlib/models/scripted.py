"""A model that answers from a script, for tests and for trying a pipeline without a server.

Invariants: the same request gets the same answer; nothing random, no I/O; every call is counted.
A "token" is a word with the white space before it, so that counts can be checked by hand.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from routerlib.errors import ModelError
from routerlib.records import Completion, EndedBy, Request, compute_id

Answer = str | Completion | Exception
Script = Mapping[str, Answer] | Mapping[Request, Answer] | Callable[[Request], Answer]


@dataclass(slots=True)
class ScriptedModel:
    """A model that follows a script.

    ``script`` is a function of the request, or a mapping whose keys are requests or the text of
    the last message (the prefill where there is one, else the problem). An answer is the text
    that the model would write if nothing stopped it, a whole ``Completion``, or an error to raise.
    ``requests`` holds what was asked, in order.
    """

    id: str
    script: Script
    requests: list[Request] = field(default_factory=list)

    @property
    def calls(self) -> int:
        """How often ``complete`` was called."""
        return len(self.requests)

    async def complete(self, request: Request) -> Completion:
        """Return the scripted answer, cut as ``stop`` and ``max_tokens`` ask.

        Raises:
            ModelError: the script has no answer to this request; or whatever error it holds.
        """
        self.requests.append(request)
        answer = self._find_answer(request)
        if isinstance(answer, Exception):
            raise answer
        if isinstance(answer, Completion):
            return answer
        return build_completion(answer, request, self.id)

    async def aclose(self) -> None:
        """Do nothing: there is no connection."""

    def _find_answer(self, request: Request) -> Answer:
        if not isinstance(self.script, Mapping):
            return self.script(request)
        last = request.messages[-1].content if request.messages else ""
        for key in (request, last):
            if key in self.script:
                return self.script[key]  # type: ignore[index]  # keys of either kind
        raise ModelError(f"the script of {self.id} has no answer to {last!r}; add one")


def build_completion(text: str, request: Request, model_id: str) -> Completion:
    """Return the completion of a server that would write ``text`` and then end.

    The text is cut before the first stop string and after ``max_tokens`` tokens. What ended it
    counts as one token (the stop string or the end mark). A token's log-probability is a fixed
    function of the token, between -1 and -0.01.

    >>> from routerlib.records import Message, Sampling
    >>> ask = Request((Message("user", "1 + 1?"),), Sampling(), stop=("\\n",))
    >>> reply = build_completion("It is 2.\\nAnswer: 2", ask, "small")
    >>> reply.text, reply.ended_by, reply.prompt_tokens, reply.completion_tokens
    ('It is 2.', 'delimiter', 3, 4)
    """
    ended_by: EndedBy = "eos"
    found = [(text.index(stop), stop) for stop in request.stop if stop in text]
    end_token = "<end>"
    if found:
        cut, end_token = min(found)
        text, ended_by = text[:cut], "delimiter"
    tokens = _split_tokens(text)
    if len(tokens) >= request.sampling.max_tokens:
        tokens = tokens[: request.sampling.max_tokens]
        text, ended_by = "".join(tokens), "length"
    else:
        tokens.append(end_token)
    logprobs = tuple(_compute_logprob(token) for token in tokens)
    top = ((tokens[0], logprobs[0]), ("<other>", -5.0))[: request.sampling.top_logprobs]
    return Completion(
        text=text,
        ended_by=ended_by,
        prompt_tokens=sum(len(_split_tokens(message.content)) for message in request.messages),
        completion_tokens=len(tokens),
        cached_prompt_tokens=0,
        token_logprobs=logprobs,
        first_token_top=top,
        finish_reason="length" if ended_by == "length" else "stop",
        returned_model=model_id,
        request_id=f"scripted-{compute_id(request)}",
        latency_s=0.0,
        token_texts=tuple(tokens),
    )


def _split_tokens(text: str) -> list[str]:
    """Split into words, each with the white space before it; nothing is lost."""
    return re.findall(r"\s*\S+|\s+$", text)


def _compute_logprob(token: str) -> float:
    return -(hashlib.sha256(token.encode()).digest()[0] % 100 + 1) / 100
