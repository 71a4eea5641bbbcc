"""What a model can do, found out by asking: one small request for each capability.

A documented feature may be switched off, and a server may take a field and ignore it, so what
counts is what comes back. Invariants: every request asks for a few tokens of the same short text,
and for more where a model thinks those away; a request that is refused for good means "cannot", a
failure that may pass or an answer that never came is an error, never "cannot".
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

from routerlib.errors import ModelError, SpendingCapError, TransientModelError
from routerlib.models.anthropic_messages import read_message
from routerlib.models.chat_reply import read_completion
from routerlib.models.model_file import Api
from routerlib.models.openai_responses import INCLUDE_LOGPROBS, read_response
from routerlib.models.spending import Payer, compute_worst_usd
from routerlib.models.transport import Transport
from routerlib.records import Completion, Message, Request, Sampling

QUESTION = "What is the capital of France? Answer in one sentence."
# Only what is really continued goes on in the middle of a word, and no new turn begins so oddly:
# a server that repeats what was begun is told from one that starts anew.
BEGUN, WORD = "To the question of the capital I answer Par", "Paris"
ENDINGS = ("is", "\u00eds")  # some models write París
TOKENS = 24
THINKING_TOKENS = 512  # for models that think before the first word
MORE_TOKENS = 4096  # on top, for those that have thought and not begun to answer
MOST_ALTERNATIVES = 20
BEYOND_ALL = 10_000_000  # tokens: more than any model writes, so a server with a limit says it
DENIED = (401, 402, 403)  # says something of the key or the account, and nothing of the model
# So does Anthropic with status 400, as to a request that it does not take.
NO_MONEY = ("credit balance", "usage limit")

# What OpenAI says of a model that chat completions do not reach, by either of two messages.
_NOT_OF_CHAT = ("v1/responses", "not supported in the v1/chat/completions endpoint")
# Anthropic; OpenAI, of a model and of a field; vLLM, old and new; Bedrock.
_LIMIT = re.compile(r"(?:\d > |at most |value <= |length is |greater than \D*|limit of )(\d+)")
_PLAIN = Request((Message("user", QUESTION),), Sampling(max_tokens=TOKENS))


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What one model behind one server can do.

    ``prefill`` names how it continues a last message of the assistant: ``continue_final_message``
    (vLLM's field), ``plain`` (unasked), ``repeated`` (by a text that begins with what was begun, in
    the Messages protocol of llama.cpp), or ``none``. ``top_logprobs`` is the number of alternatives
    that come with a token; ``logprobs`` is False where none come or only placeholders.
    ``blank_stop`` is a stop sequence of white space alone. ``limit_field`` is how the body names
    the most tokens to write, ``most_output_tokens`` the highest number that the server says it
    takes there (vLLM's is of prompt and answer together), None where it said none. ``api`` is which
    of OpenAI's APIs was asked. ``refusals`` holds what the server said to what it refused.
    """

    returned_model: str
    limit_field: str
    prefill: str
    logprobs: bool
    top_logprobs: int
    seed: bool
    temperature: bool
    stop: bool
    blank_stop: bool
    reports_cached_tokens: bool
    api: Api = "chat"
    refusals: Mapping[str, str] = field(default_factory=dict)
    most_output_tokens: int | None = None


async def probe_capabilities(
    transport: Transport,
    api: Api = "chat",
    thinking_tokens: int = 0,
    payer: Payer | None = None,
) -> Capabilities:
    """Ask a model for each capability, one request after the other; at most twelve. ``api`` is
    which of OpenAI's APIs is asked, ``thinking_tokens`` what the model may write in thought on top
    of each request's limit. ``payer`` pays for each request, None where nobody counts.

    Raises ModelError when it answers no plain request or thinks without end, TransientModelError
    when the server fails, SpendingCapError when the next request might cost more than is left.
    """
    probe = _make_probe(transport, api, thinking_tokens, payer)
    first = await probe.find_limit_field()
    top, logprobs = await probe.try_logprobs()
    found = Capabilities(
        returned_model=first.returned_model,
        limit_field=probe.limit_field,
        prefill=await probe.try_prefill(),
        logprobs=logprobs,
        top_logprobs=top,
        seed=await probe.try_seed(),
        temperature=await probe.ask("temperature", {"temperature": 0.7}) is not None,
        stop=await probe.try_stop("stop", WORD),
        blank_stop=await probe.try_stop("blank_stop", " "),
        reports_cached_tokens=probe.reports_cached_tokens,
        api=api,
    )
    most_output_tokens = await probe.find_most_output(found.stop)  # last: it may take the turns
    return replace(found, most_output_tokens=most_output_tokens, refusals=dict(probe.refusals))


class _Probe:
    """Asks, and keeps what was refused."""

    path: ClassVar[str]
    stop_field: ClassVar[str]
    limit_fields: ClassVar[Mapping[str, int]]
    logprob_fields: ClassVar[Mapping[str, Any]]

    def __init__(
        self, transport: Transport, thinking_tokens: int, payer: Payer | None = None
    ) -> None:
        self.transport = transport
        self.thinking_tokens = thinking_tokens
        self.payer = payer
        self.limit_field = next(iter(self.limit_fields))
        self.refusals: dict[str, str] = {}
        self.reports_cached_tokens = False

    async def ask(
        self, capability: str, more: Mapping[str, Any], begun: str | None = None
    ) -> Completion | None:
        """Return the answer to a request with more fields, None when it was refused for good.

        A model that thought up to the limit is asked again, this time and from now on with a higher
        one: an answer that it did not begin shows nothing. Raises ModelError for one that then
        thinks to the limit, or whose server refuses it.
        """
        try:
            found = await self.send(more, begun)
        except TransientModelError:
            raise
        except ModelError as refusal:
            said = str(refusal).lower()
            if refusal.status_code in DENIED or any(words in said for words in NO_MONEY):
                raise
            self.refusals[capability] = str(refusal)
            return None
        if _is_begun(found):
            return found
        self.thinking_tokens += MORE_TOKENS
        found = await self.send(more, begun)
        if not _is_begun(found):
            raise ModelError(
                f"{self.transport.model_name} at {self.transport.base_url} wrote "
                f"{found.completion_tokens} tokens and none of an answer: give its table more "
                "thinking_tokens"
            )
        return found

    async def send(self, more: Mapping[str, Any], begun: str | None) -> Completion:
        """Ask once, and pay for it. Raises ModelError and SpendingCapError."""
        messages = [Message("user", QUESTION)]
        if begun is not None:
            messages.append(Message("assistant", begun))
        usual = self.limit_fields[self.limit_field] + self.thinking_tokens
        most_tokens = int(more.get(self.limit_field, usual))
        body = {
            "model": self.transport.model_name,
            self.limit_field: most_tokens,
            **self.build_question([{"role": m.role, "content": m.content} for m in messages]),
            **more,
        }
        if self.payer is None:
            return await self._post(body)
        request = Request(tuple(messages), Sampling(max_tokens=most_tokens))
        worst_usd = compute_worst_usd(self.payer.card, request)
        return await self.payer.pay(worst_usd, most_tokens, lambda: self._post(body))

    async def _post(self, body: Mapping[str, Any]) -> Completion:
        answer = await self.transport.send(self.path, body)
        usage = answer.reply.get("usage") if isinstance(answer.reply, dict) else None
        if isinstance(usage, dict):
            self.reports_cached_tokens |= self.has_cached_tokens(usage)
        with answer.reading():
            return replace(self.read(answer.reply), doubtful_tries=answer.doubtful_tries)

    async def find_limit_field(self) -> Completion:
        """Ask plainly, with each name that the limit of tokens may have."""
        for name in self.limit_fields:
            self.limit_field = name
            found = await self.ask(name, {})
            if found is not None:
                return found
        raise ModelError(
            f"{self.transport.model_name} at {self.transport.base_url} answers no plain request: "
            + "; ".join(self.refusals.values())
            + self.suggest_remedy()
        )

    async def try_stop(self, capability: str, stop: str) -> bool:
        """Whether a stop sequence is taken and obeyed."""
        found = await self.ask(capability, {self.stop_field: [stop]})
        if found is None or stop in found.text:
            return False
        return found.ended_by != "length"  # cut off before the stop may have been written

    async def try_logprobs(self) -> tuple[int, bool]:
        """How many alternatives come with a token, and whether log-probabilities come at all."""
        for top in (MOST_ALTERNATIVES, 5):
            found = await self.ask("logprobs", {**self.logprob_fields, "top_logprobs": top})
            if found is not None:
                return len(found.first_token_top), bool(found.token_logprobs)
        return 0, False

    async def find_most_output(self, stops: bool) -> int | None:
        """The highest limit of tokens that the server says it takes, when it is asked for one that
        none does; None where it says none, and where so much could not be paid. A server that
        ``stops`` at sequences, and takes the limit, ends the answer with its first sentence."""
        end = {self.stop_field: ["."]} if stops else {}
        try:
            await self.send({self.limit_field: BEYOND_ALL, **end}, None)
        except SpendingCapError:
            return None
        except ModelError as refusal:
            self.refusals["most output"] = str(refusal)
            return read_limit(str(refusal))
        return None

    def build_question(self, messages: Sequence[Mapping[str, str]]) -> dict[str, Any]:
        return {"messages": messages}

    def suggest_remedy(self) -> str:
        return ""

    async def try_prefill(self) -> str:
        raise NotImplementedError

    async def try_seed(self) -> bool:
        raise NotImplementedError

    def read(self, reply: Any) -> Completion:
        raise NotImplementedError

    def has_cached_tokens(self, usage: Mapping[str, Any]) -> bool:
        raise NotImplementedError


class _ChatProbe(_Probe):
    """Of ``/chat/completions``."""

    path = "/chat/completions"
    stop_field = "stop"
    # Reasoning models refuse the first name, and think within the limit.
    limit_fields: ClassVar[Mapping[str, int]] = {
        "max_tokens": TOKENS,
        "max_completion_tokens": THINKING_TOKENS,
    }
    logprob_fields: ClassVar[Mapping[str, Any]] = {"logprobs": True}

    def suggest_remedy(self) -> str:
        said = " ".join(self.refusals.values())
        if not any(words in said for words in _NOT_OF_CHAT):
            return ""
        return '. It is no model of chat completions: put api = "responses" in its table'

    def read(self, reply: Any) -> Completion:
        return read_completion(reply, _PLAIN, echoed="", request_id=None, latency_s=0.0, retries=0)

    def has_cached_tokens(self, usage: Mapping[str, Any]) -> bool:
        return (usage.get("prompt_tokens_details") or {}).get("cached_tokens") is not None

    async def try_prefill(self) -> str:
        ways = {
            "continue_final_message": {
                "continue_final_message": True,
                "add_generation_prompt": False,
            },
            "plain": {},
        }
        for way, more in ways.items():
            found = await self.ask(f"prefill, {way}", more, BEGUN)
            # llama.cpp ignores the first way and repeats what was begun, which only the client of
            # the second takes off.
            echoed = BEGUN if way == "plain" else ""
            if found is not None and _continues(found.text.removeprefix(echoed)):
                return way
        return "none"

    async def try_seed(self) -> bool:
        return await self.ask("seed", {"seed": 1}) is not None


class _ResponsesProbe(_Probe):
    """Of ``/responses``, which has no stop sequences, no seeds, and takes a begun answer for an
    earlier turn."""

    path = "/responses"
    limit_fields: ClassVar[Mapping[str, int]] = {"max_output_tokens": THINKING_TOKENS}
    logprob_fields: ClassVar[Mapping[str, Any]] = {"include": [INCLUDE_LOGPROBS]}

    def build_question(self, messages: Sequence[Mapping[str, str]]) -> dict[str, Any]:
        return {"input": messages, "store": False}

    def read(self, reply: Any) -> Completion:
        return read_response(reply, _PLAIN, request_id=None, latency_s=0.0, retries=0)

    def has_cached_tokens(self, usage: Mapping[str, Any]) -> bool:
        return (usage.get("input_tokens_details") or {}).get("cached_tokens") is not None

    async def try_prefill(self) -> str:
        return "none"

    async def try_seed(self) -> bool:
        return False

    async def try_stop(self, capability: str, stop: str) -> bool:
        return False


class _AnthropicProbe(_Probe):
    """Of ``/v1/messages``, which has neither log-probabilities nor seeds."""

    path = "/v1/messages"
    stop_field = "stop_sequences"
    limit_fields: ClassVar[Mapping[str, int]] = {"max_tokens": TOKENS}

    def read(self, reply: Any) -> Completion:
        return read_message(reply, _PLAIN, (), request_id=None, latency_s=0.0, retries=0)

    def has_cached_tokens(self, usage: Mapping[str, Any]) -> bool:
        return usage.get("cache_read_input_tokens") is not None

    async def try_prefill(self) -> str:
        found = await self.ask("prefill", {}, BEGUN)
        if found is None:
            return "none"
        if _continues(found.text):
            return "plain"
        return "repeated" if _continues(found.text.removeprefix(BEGUN)) else "none"

    async def try_logprobs(self) -> tuple[int, bool]:
        return 0, False

    async def try_seed(self) -> bool:
        return False


def _make_probe(
    transport: Transport, api: Api, thinking_tokens: int, payer: Payer | None
) -> _Probe:
    kind: type[_Probe] = _ResponsesProbe if api == "responses" else _ChatProbe
    if transport.sdk == "anthropic":
        kind = _AnthropicProbe
    return kind(transport, thinking_tokens, payer)


def read_limit(refusal: str) -> int | None:
    """Return the limit of tokens that a server names when it refuses a higher one, None if it names
    none.

    >>> read_limit("max_tokens: 10000000 > 8192, which is the maximum of claude-3-5")
    8192
    """
    found = _LIMIT.search(refusal)
    limit = int(found[1]) if found else BEYOND_ALL
    return limit if limit < BEYOND_ALL else None


def _is_begun(found: Completion) -> bool:
    """Whether a model wrote something of an answer, or ended before it did by itself or a stop."""
    return bool(found.text.strip()) or found.ended_by != "length"


def _continues(text: str) -> bool:
    return text.startswith(ENDINGS)
