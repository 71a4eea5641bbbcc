"""How a model is made to go on: what each protocol asks, and what it accepts of the answer."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from routerlib.continuations import (
    CONTINUATIONS,
    Continuation,
    build_correction,
    build_request,
    build_shared_messages,
    get_max_tokens,
    name_prompt_version,
    read_continuation,
    split_prompt_version,
)
from routerlib.errors import StepRefusedError
from routerlib.models.scripted import build_completion
from routerlib.prompts import PROMPTS, build_messages
from routerlib.records import Completion, Message, Request, Sampling, StepKind
from routerlib.steps import StepRule

PROMPT = PROMPTS["short-lines-v1"]
RULE = StepRule()
SAMPLING = Sampling(max_tokens=50)
TURNS: tuple[Continuation, ...] = ("continue_turn", "one_shot")  # that hold the steps so far
PREFIX = "First 2 + 2 = 4.\nThen 4 * 3 = 12.\n"


def ask(
    continuation: Continuation, prefix: str = PREFIX, kind: StepKind = "step", delimiter: str = "\n"
) -> Request:
    return build_request(
        PROMPT,
        continuation,
        "How many?",
        prefix,
        kind=kind,
        delimiter=delimiter,
        sampling=SAMPLING,
    )


def answer(
    continuation: Continuation, written: str, prefix: str = PREFIX, kind: StepKind = "step"
) -> Completion:
    """What is accepted when the model would write ``written``, if nothing stopped it."""
    completion = build_completion(written, ask(continuation, prefix, kind), "m")
    return read_continuation(continuation, completion, prefix, kind, RULE)


@pytest.mark.parametrize("continuation", CONTINUATIONS)
def test_a_prompt_version_names_prompt_and_protocol(continuation: Continuation) -> None:
    name = name_prompt_version("short-lines-v1", continuation)
    assert split_prompt_version(name) == ("short-lines-v1", continuation)
    assert (name == "short-lines-v1") == (continuation == "prefill")


def test_an_unknown_protocol_is_refused() -> None:
    with pytest.raises(
        ValueError, match="names no protocol: use one of dialogue, continue_turn, one_shot"
    ):
        split_prompt_version("short-lines-v1+two_shot")


def test_only_what_writes_the_rest_may_write_as_much_as_a_tail() -> None:
    caps = [get_max_tokens(continuation, "step", RULE) for continuation in CONTINUATIONS]
    assert caps == [100, 100, 100, 200]
    assert {get_max_tokens(continuation, "tail", RULE) for continuation in CONTINUATIONS} == {200}


def test_prefill_asks_as_recorded_prompts_always_did() -> None:
    assert ask("prefill") == Request(build_messages(PROMPT, "How many?", PREFIX), SAMPLING, ("\n",))
    assert ask("prefill", kind="tail").stop == ()


@pytest.mark.parametrize("continuation", TURNS)
@pytest.mark.parametrize("kind", ["step", "tail"])
def test_a_user_turn_holds_the_problem_and_the_steps(
    continuation: Continuation, kind: StepKind
) -> None:
    request = ask(continuation, kind=kind)
    assert request.messages[:-1] == build_messages(PROMPT, "How many?")[:-1]
    last = request.messages[-1]
    assert last.role == "user"
    assert last.content.startswith("How many?\n\nThe solution so far:\n" + PREFIX)
    assert request.sampling == SAMPLING


def test_what_is_asked_for_differs() -> None:
    turns = {
        (continuation, kind): ask(continuation, kind=kind)
        for continuation in TURNS
        for kind in ("step", "tail")
    }
    asked = {
        key: request.messages[-1].content.rpartition("\n")[2] for key, request in turns.items()
    }
    assert asked["continue_turn", "step"].startswith("Write the next line")
    assert asked["one_shot", "step"] == asked["one_shot", "tail"] == asked["continue_turn", "tail"]
    assert {key for key, request in turns.items() if request.stop} == {("continue_turn", "step")}
    paragraphs = ask("continue_turn", delimiter="\n\n")
    assert "Write the next paragraph" in paragraphs.messages[-1].content
    assert paragraphs.stop == ("\n\n",)


@pytest.mark.parametrize("delimiter", ["\n", "\n\n"])
def test_in_a_dialogue_steps_are_turns(delimiter: str) -> None:
    prefix = "First.\nIt is so." + delimiter + "Then." + delimiter
    request = ask("dialogue", prefix, delimiter=delimiter)
    roles = [message.role for message in request.messages]
    assert roles == ["system", *["user", "assistant"] * (len(roles) // 2 - 1), "user"]
    unit = {"\n": "line", "\n\n": "paragraph"}[delimiter]
    steps = [step for step in prefix.strip().split(delimiter) if step]
    turns = [message.content for message in request.messages[-2 * len(steps) - 1 :]]
    assert turns[0] == f"How many?\n\nWrite the first {unit} only."
    assert turns[1::2] == steps
    assert set(turns[2::2]) == {f"Write the next {unit} only."}
    assert request.stop == (delimiter,)
    rest = ask("dialogue", prefix, "tail", delimiter)
    assert rest.messages[:-1] == request.messages[:-1]
    assert rest.messages[-1].content == "Write the rest, to the end of the solution."
    assert rest.stop == ()
    shared = build_shared_messages(PROMPT, "dialogue", delimiter)
    assert request.messages[: len(shared) - 1] == shared[:-1]


def test_a_dialogue_tells_the_examples_in_its_own_form() -> None:
    shared = build_shared_messages(PROMPT, "dialogue", "\n")
    assert ask("dialogue").messages[: len(shared) - 1] == shared[:-1]
    assert ask("dialogue", "").messages[: len(shared) - 1] == shared[:-1]
    assert shared[-1] == Message("user", "")
    said = "\n".join(message.content for message in shared if message.role == "assistant")
    assert said == "\n".join(example.render("\n") for example in PROMPT.examples)
    asked = [message.content for message in shared if message.role == "user"]
    assert asked.count("Write the rest, to the end of the solution.") == 1
    assert sum(text.endswith("Write the first line only.") for text in asked) == len(
        PROMPT.examples
    )
    assert build_shared_messages(PROMPT, "one_shot", "\n") == build_messages(PROMPT, "")


@pytest.mark.parametrize("kind", ["step", "tail"])
def test_without_steps_the_rest_is_the_whole_solution(kind: StepKind) -> None:
    """So one shot asks exactly what prefill asks, and only reads the answer otherwise."""
    assert ask("one_shot", "", kind).messages == ask("prefill", "", kind).messages
    told = ask("dialogue", "", kind).messages[-1].content
    asked = {"step": "Write the first line only.", "tail": "Write the whole solution."}[kind]
    assert told == f"How many?\n\n{asked}"
    first = ask("continue_turn", "", kind).messages[-1].content
    assert first == {"step": "How many?\n\nWrite the first line only.", "tail": "How many?"}[kind]


def test_one_shot_keeps_the_first_step_and_bills_all() -> None:
    rest = "So 12 - 1 = 11.\nAnswer: 11"
    completion = build_completion(rest, ask("one_shot"), "m")
    kept = read_continuation("one_shot", completion, PREFIX, "step", RULE)
    assert (kept.text, kept.ended_by) == ("So 12 - 1 = 11.", "delimiter")
    assert kept.completion_tokens == completion.completion_tokens == 9
    # A word takes the white space before it along, so the delimiter is in "\nAnswer:".
    assert kept.token_logprobs == completion.token_logprobs[:7]
    assert kept.first_token_top == completion.first_token_top


def test_one_shot_at_the_last_step_ends_as_its_model_did() -> None:
    assert answer("one_shot", "Answer: 11").ended_by == "eos"
    whole = answer("one_shot", "So 12 - 1 = 11.\nAnswer: 11", kind="tail")
    assert (whole.text, whole.ended_by) == ("So 12 - 1 = 11.\nAnswer: 11", "eos")
    assert len(whole.token_logprobs) == whole.completion_tokens


def test_one_shot_without_token_texts_has_no_log_probabilities() -> None:
    completion = build_completion("So 11.\nAnswer: 11", ask("one_shot"), "m")
    for texts in ((), ("So", " 11.", "?", "?", "?")):
        kept = read_continuation(
            "one_shot", replace(completion, token_texts=texts), PREFIX, "step", RULE
        )
        assert kept.text == "So 11."
        assert kept.token_logprobs == ()


@pytest.mark.parametrize("continuation", CONTINUATIONS[1:])
def test_a_verbatim_repetition_is_taken_off(continuation: Continuation) -> None:
    """A chat model likes to begin its solution anew; its confidence is then not the step's."""
    written = f"{PREFIX}So 12 - 1 = 11.\nAnswer: 11"
    kept = answer(continuation, written, kind="tail")
    assert kept.text == "So 12 - 1 = 11.\nAnswer: 11"
    assert kept.token_logprobs == kept.first_token_top == ()
    assert kept.completion_tokens > 8


@pytest.mark.parametrize(
    ("continuation", "written", "kind", "reason"),
    [
        ("continue_turn", "", "step", "no text"),
        ("continue_turn", "\n\n", "step", "no text"),
        ("dialogue", "Then 4 * 3 = 12.", "step", "repeats a step"),
        ("continue_turn", "First 2 + 2 = 4.\nThen", "step", "repeats a step"),
        ("continue_turn", " Then 4 * 3 = 12. ", "step", "repeats a step"),
        ("continue_turn", "Then 4 * 3 = 12.\nAnswer: 12", "tail", "repeats a step"),
        ("one_shot", "First 2 + 2 = 4.\nSo 5.\nAnswer: 5", "step", "repeats a step"),
        ("one_shot", PREFIX, "step", "no text"),
    ],
)
def test_what_does_not_go_on_is_refused(
    continuation: Continuation, written: str, kind: StepKind, reason: str
) -> None:
    with pytest.raises(StepRefusedError, match=reason):
        answer(continuation, written, kind=kind)


def test_several_steps_where_the_server_did_not_stop_are_refused() -> None:
    ignored = replace(ask("continue_turn"), stop=())
    completion = build_completion("So 11.\nAnswer: 11", ignored, "m")
    with pytest.raises(StepRefusedError, match="several steps where one was asked for"):
        read_continuation("continue_turn", completion, PREFIX, "step", RULE)


def test_a_turn_that_ends_ends_the_step_and_not_the_solution() -> None:
    step = answer("continue_turn", "So 12 - 1 = 11. ")
    assert (step.text, step.ended_by) == ("So 12 - 1 = 11.", "delimiter")
    assert answer("continue_turn", "Answer: 11").ended_by == "eos"
    assert answer("continue_turn", "Nothing is left.", kind="tail").ended_by == "eos"


def test_nothing_goes_on_in_the_middle_of_a_line() -> None:
    cut_off = "First 2 + 2"
    assert answer("continue_turn", "So 4.", cut_off).text == "\nSo 4."
    assert answer("one_shot", "So 4.\nAnswer: 4", cut_off, "tail").text == "\nSo 4.\nAnswer: 4"


def test_a_correction_shows_the_refused_answer_and_the_reason() -> None:
    request = ask("continue_turn")
    again = build_correction(request, "Then 4 * 3 = 12.", "it repeats a step")
    assert again == replace(request, messages=again.messages)
    assert again.messages[:-2] == request.messages
    assert again.messages[-2] == Message("assistant", "Then 4 * 3 = 12.")
    assert again.messages[-1].role == "user"
    assert "it repeats a step" in again.messages[-1].content
    # Providers refuse an empty message.
    assert build_correction(request, " \n", "it is empty").messages[-2].content == "(nothing)"


LINES = st.lists(st.from_regex(r"[a-z][a-z ]{0,8}[a-z]", fullmatch=True), min_size=2, unique=True)


@given(LINES, st.data())
def test_a_well_behaved_model_writes_the_same_by_every_protocol(
    lines: list[str], data: st.DataObject
) -> None:
    """Given the steps so far, what is accepted is the next step of the solution in its mind."""
    solution = [*lines, "Answer: 1"]
    done = data.draw(st.integers(0, len(lines)))
    prefix = "".join(line + "\n" for line in solution[:done])
    rest = "\n".join(solution[done:])
    texts = set()
    for continuation in CONTINUATIONS:
        got = answer(continuation, rest, prefix)
        texts.add((got.text, got.ended_by))
        assert len(got.token_logprobs) <= got.completion_tokens
    assert texts == {(solution[done], "eos" if done == len(lines) else "delimiter")}


def test_a_begun_answer_may_end_at_once_but_not_run_out_of_tokens() -> None:
    blank = replace(build_completion("x", ask("prefill"), "m"), text="", completion_tokens=9)
    ended = replace(blank, ended_by="eos")
    assert read_continuation("prefill", ended, PREFIX, "step", RULE) == ended
    with pytest.raises(StepRefusedError, match="all its tokens went into thought"):
        read_continuation("prefill", replace(blank, ended_by="length"), PREFIX, "step", RULE)
