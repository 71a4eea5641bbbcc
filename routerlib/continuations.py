"""How a model is made to go on from the steps so far: four protocols, requests and answers.

- ``prefill``: it goes on with its own begun answer, up to the delimiter. The server must continue a
  last message of the assistant.
- ``dialogue``: user and assistant take turns, one step a turn: the steps so far are the assistant's
  earlier turns, whoever wrote them, and the worked examples are told in the same way.
- ``continue_turn``: a user's turn holds the steps so far and asks for the next one alone; the model
  writes up to the delimiter.
- ``one_shot``: such a turn asks for the rest of the solution; the next step is cut off its start,
  the others are thrown away. It takes no stop sequence either.

A completion to the end (kind ``tail``) is asked for alike, without a delimiter. Everything here is
computed; nothing calls a model. Invariants: what is accepted is one new step (or one tail) that
goes on where the steps so far end, or it is refused with the reason; tokens are those that were
written, also of text that is thrown away; log-probabilities are of the tokens that are kept, or
there are none.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Literal, get_args

from routerlib.errors import StepRefusedError
from routerlib.prompts import PromptVersion, build_messages
from routerlib.records import Completion, Message, Request, Sampling, StepKind
from routerlib.steps import StepRule, cut_completion, split_steps

Continuation = Literal["prefill", "dialogue", "continue_turn", "one_shot"]
CONTINUATIONS: tuple[Continuation, ...] = get_args(Continuation)

_SEPARATOR = "+"
_SO_FAR = "The solution so far:"
_REST = "Write the rest, to the end of the solution."


def name_prompt_version(prompt_version: str, continuation: Continuation) -> str:
    """Return what a step records as its prompt version: a protocol other than prefill is part of
    it.

    >>> name_prompt_version("short-lines-v1", "one_shot")
    'short-lines-v1+one_shot'
    """
    if continuation == "prefill":
        return prompt_version
    return f"{prompt_version}{_SEPARATOR}{continuation}"


def split_prompt_version(name: str) -> tuple[str, Continuation]:
    """Return the prompt and the protocol that a step's prompt version names. Raises ValueError for
    a protocol that is none.

    >>> split_prompt_version("short-lines-v1+one_shot"), split_prompt_version("short-lines-v1")
    (('short-lines-v1', 'one_shot'), ('short-lines-v1', 'prefill'))
    """
    version, separator, protocol = name.partition(_SEPARATOR)
    if not separator:
        return version, "prefill"
    for known in CONTINUATIONS[1:]:
        if protocol == known:
            return version, known
    raise ValueError(f"{name!r} names no protocol: use one of {', '.join(CONTINUATIONS[1:])}")


def get_max_tokens(continuation: Continuation, kind: StepKind, rule: StepRule) -> int:
    """Return the cap of one call: what writes the whole rest may take as much as a tail."""
    return rule.get_max_tokens("tail" if continuation == "one_shot" else kind)


def build_request(
    prompt: PromptVersion,
    continuation: Continuation,
    problem_text: str,
    prefix: str,
    *,
    kind: StepKind,
    delimiter: str,
    sampling: Sampling,
) -> Request:
    """Return the call that asks for what follows ``prefix``; a step ends at ``delimiter``."""
    if continuation == "prefill":
        messages = build_messages(prompt, problem_text, prefix)
    elif continuation == "dialogue":
        messages = _build_dialogue(prompt, problem_text, prefix, kind, delimiter)
    else:
        turn = _build_turn(continuation, problem_text, prefix, kind, delimiter)
        messages = build_messages(prompt, turn)
    stops = (delimiter,) if kind == "step" and continuation != "one_shot" else ()
    return Request(messages, sampling, stops)


def build_shared_messages(
    prompt: PromptVersion, continuation: Continuation, delimiter: str
) -> tuple[Message, ...]:
    """Return the prompt of an empty problem, whose tokens the prompts of all problems share; steps
    end at ``delimiter``."""
    if continuation == "dialogue":
        told = _tell_examples(prompt, delimiter)
        return (Message("system", prompt.system), *told, Message("user", ""))
    return build_messages(prompt, "")


def keeps_own_words(continuation: Continuation) -> bool:
    """Say whether what a model wrote stays where it was in its next prompt, so that it need not be
    read again; in a user's turn that repeats the steps it does not."""
    return continuation in ("prefill", "dialogue")


def _build_dialogue(
    prompt: PromptVersion, problem_text: str, prefix: str, kind: StepKind, delimiter: str
) -> tuple[Message, ...]:
    unit = _name_unit(delimiter)
    steps = [step.strip() for step in split_steps(prefix, delimiter) if step.strip()]
    if not steps:
        asked = _ask_first(problem_text, unit, kind)
    else:
        asked = _ask_next(unit) if kind == "step" else _REST
    return (
        Message("system", prompt.system),
        *_tell_examples(prompt, delimiter),
        *_tell(problem_text, steps, unit),
        Message("user", asked),
    )


def _tell_examples(prompt: PromptVersion, delimiter: str) -> list[Message]:
    """Return the worked examples step by step; the last one shows how the rest is asked for."""
    messages: list[Message] = []
    unit = _name_unit(delimiter)
    for number, example in enumerate(prompt.examples):
        rendered = example.render(delimiter)
        steps = [step.strip() for step in split_steps(rendered, delimiter)]
        if number < len(prompt.examples) - 1 or len(steps) == 1:
            messages += _tell(example.problem, steps, unit)
        else:
            messages += _tell(example.problem, steps[:1], unit)
            messages += [Message("user", _REST), Message("assistant", delimiter.join(steps[1:]))]
    return messages


def _tell(problem_text: str, steps: Sequence[str], unit: str) -> list[Message]:
    messages = []
    for number, step in enumerate(steps):
        asked = _ask_next(unit) if number else _ask_first(problem_text, unit, "step")
        messages += [Message("user", asked), Message("assistant", step)]
    return messages


def _name_unit(delimiter: str) -> str:
    return "line" if delimiter == "\n" else "paragraph"


def _ask_first(problem_text: str, unit: str, kind: StepKind) -> str:
    asked = f"Write the first {unit} only." if kind == "step" else "Write the whole solution."
    return f"{problem_text}\n\n{asked}"


def _ask_next(unit: str) -> str:
    return f"Write the next {unit} only."


def _build_turn(
    continuation: Continuation, problem_text: str, prefix: str, kind: StepKind, delimiter: str
) -> str:
    """Return the user's turn. Without any step yet, the whole solution is asked for by the problem
    alone, as in the worked examples."""
    unit = _name_unit(delimiter)
    whole = kind == "tail" or continuation == "one_shot"
    if not prefix:
        return problem_text if whole else _ask_first(problem_text, unit, kind)
    asked = (
        f"Write what follows these {unit}s, to the end of the solution. Do not repeat them."
        if whole
        else f"Write the next {unit} of the solution only. Do not repeat what is there."
    )
    return f"{problem_text}\n\n{_SO_FAR}\n{prefix.rstrip()}\n\n{asked}"


def build_correction(request: Request, written: str, reason: str) -> Request:
    """Return the call that asks once more after a refused answer."""
    complaint = f"That was not usable: {reason}. Write only what comes next."
    answer = Message("assistant", written.strip() or "(nothing)")
    return replace(request, messages=(*request.messages, answer, Message("user", complaint)))


def read_continuation(
    continuation: Continuation,
    completion: Completion,
    prefix: str,
    kind: StepKind,
    rule: StepRule,
) -> Completion:
    r"""Return the part of an answer that goes on from ``prefix``, as a prefilled model would have
    written it.

    A verbatim repetition of all of ``prefix`` is taken off the start, and so is white space. Of
    ``one_shot`` a step is what stands before the first delimiter. Asked for one step, a model that
    ends its turn after one without an answer line has ended the step, not the solution. After a
    step that was cut off the delimiter comes first, for nothing goes on in the middle of a line.

    Raises:
        StepRefusedError: nothing was written, a step that is already there was written again, or
            several steps where one was asked for.
    """
    if continuation == "prefill":
        if not completion.text and completion.ended_by == "length":
            raise StepRefusedError("it holds no text, all its tokens went into thought")
        return completion
    written = completion.text
    start, end = _skip_white_space(written, 0), len(written)
    given = prefix.strip()
    if written[start:] == given or written.startswith(given + rule.delimiter, start):
        start = _skip_white_space(written, start + len(given))
    ended_by = completion.ended_by
    if kind == "step" and continuation == "one_shot" and rule.delimiter in written[start:]:
        end, ended_by = written.index(rule.delimiter, start), "delimiter"
    if kind == "step" and continuation != "one_shot" and ended_by == "eos":
        end = max(start, len(written.rstrip()))
        if not re.search(rule.answer_pattern, written[start:end], flags=re.MULTILINE):
            ended_by = "delimiter"
    kept = cut_completion(completion, start, end, ended_by)
    _check(kept.text, prefix, kind, rule)
    is_cut_off = bool(prefix) and not prefix.endswith(rule.delimiter)
    return replace(kept, text=rule.delimiter + kept.text) if is_cut_off else kept


def _skip_white_space(text: str, start: int) -> int:
    return len(text) - len(text[start:].lstrip())


def _check(text: str, prefix: str, kind: StepKind, rule: StepRule) -> None:
    if not text.strip():
        raise StepRefusedError("it holds no text that goes on from the steps so far")
    if kind == "step" and rule.delimiter in text:
        raise StepRefusedError("it holds several steps where one was asked for")
    first = split_steps(text, rule.delimiter)[0].strip()
    if first in {step.strip() for step in split_steps(prefix, rule.delimiter)}:
        raise StepRefusedError("it repeats a step that is already there")
