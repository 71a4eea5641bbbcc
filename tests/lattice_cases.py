"""Recordings made by hand or by scripted models, and a reference that walks them path by path."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import polars as pl

from routerlib.benchmarks.problem_features import PROBLEM_FEATURES
from routerlib.lattice import Lattice, TraceTables, build_lattice
from routerlib.records import Judgement, State, Step

PROBLEM_COLUMNS = tuple(f"feature_{name}" for name in PROBLEM_FEATURES)
SCHEMA_OF_STEPS = {
    "token_logprobs": pl.List(pl.Float32),
    "first_token_texts": pl.List(pl.String),
    "first_token_logprobs": pl.List(pl.Float32),
    "next_state_id": pl.String,
    "text": pl.String,
    "error": pl.String,
}


def make_step(
    step_id: str, state: str, model: str, next_state: str, text: str, **more: Any
) -> Step:
    """A successful greedy step of problem ``p`` with little in it."""
    step = Step(
        id=step_id,
        attempt=0,
        run_id="run",
        problem_id="p",
        state_id=state,
        model_id=model,
        kind="step",
        sample_index=0,
        prompt_version="v1",
        temperature=0.0,
        max_tokens=100,
        next_state_id=next_state,
        text=text,
        ended_by="delimiter",
        completion_tokens=1,
        prompt_tokens=10,
        cached_prompt_tokens=0,
        shared_prompt_tokens=10,
        finish_reason="stop",
    )
    return replace(step, **more)


# Tokens of the judge's prompts that all share, and of the question at their end.
JUDGE_SHARED, JUDGE_QUESTION_TOKENS = 8, 2


def make_judgement(
    step_id: str, judge: str, score: float, solution_tokens: float, draft_tokens: int
) -> Judgement:
    """The judge's answer about a step after a problem and steps of so many tokens."""
    prompt = JUDGE_SHARED + int(solution_tokens) + draft_tokens + JUDGE_QUESTION_TOKENS
    return Judgement(step_id, judge, "usefulness-v1", score, prompt, JUDGE_SHARED, 1)


def judge_drafts(tables: TraceTables, small: str, large: str) -> TraceTables:
    """The tables with a judgement of each step of the small model where the large one wrote too;
    both count tokens alike, and a draft of n tokens has the score 1 / (1 + n)."""
    prompts = {
        row["state_id"]: row["prompt_tokens"] - row["shared_prompt_tokens"]
        for row in tables.steps.filter(pl.col("model_id") == large).to_dicts()
    }
    judgements = [
        make_judgement(row["id"], large, 1 / (1 + n), prompts[row["state_id"]], n)
        for row in tables.steps.filter(pl.col("model_id") == small).to_dicts()
        if (n := row["completion_tokens"]) and row["state_id"] in prompts
    ]
    return replace(tables, judgements=pl.DataFrame([asdict(row) for row in judgements]))


def make_tables(problem_ids: list[str], states: list[State], steps: list[Step]) -> TraceTables:
    """The store's tables of these records, for benchmark ``toy``, split ``train``."""
    problems = pl.DataFrame(
        {"id": problem_ids, "benchmark": "toy", "split": "train"}
        | {
            c: [float(i * 10 + j) for i in range(len(problem_ids))]
            for j, c in enumerate(PROBLEM_COLUMNS)
        }
    )
    rows = []
    for step in steps:
        row = asdict(step)
        top = row.pop("first_token_top")
        row["token_logprobs"] = list(step.token_logprobs)
        row["first_token_texts"] = [text for text, _ in top]
        row["first_token_logprobs"] = [logprob for _, logprob in top]
        rows.append(row)
    return TraceTables(
        problems,
        pl.DataFrame(
            [asdict(state) for state in states], schema_overrides={"is_correct": pl.Boolean}
        ),
        pl.DataFrame(rows, schema_overrides=SCHEMA_OF_STEPS, infer_schema_length=None),
    )


def build(tables: TraceTables, models: tuple[str, ...], depth: int, **more: Any) -> Lattice:
    return build_lattice(
        tables, benchmark="toy", split="train", model_ids=models, depth=depth, **more
    )


# --- three steps by hand ---------------------------------------------------------------------


def make_hand_records() -> tuple[list[State], list[Step]]:
    """Problem ``p`` of depth 2 with shared prompt 10 and own prompt 5, and ``q``, which ends at
    once and is always wrong.

    p: "" -small-> A; "" -large-> B; A -small-> wrong end; A -large-> AC; B -small-> BC; B -large->
    right end; AC, BC: tails, of which only the small model's at AC is wrong.
    """

    def state(name: str, text: str, depth: int, correct: bool | None = None) -> State:
        problem = "q" if name.startswith("q") else "p"
        return State(name, problem, depth, text, correct is not None, None, correct)

    states = [
        state("root", "", 0),
        state("A", "1 + 1 = 2\n", 1),
        state("B", "b\n", 1),
        state("A.end", "1 + 1 = 2\nAnswer: 1\n", 2, False),
        state("AC", "1 + 1 = 2\nc\n", 2),
        state("BC", "b\nb\n", 2),
        state("B.end", "b\nAnswer: 2\n", 2, True),
        state("AC.s", "1 + 1 = 2\nc\nAnswer: 3", 3, False),
        state("AC.l", "1 + 1 = 2\nc\nAnswer: 2", 3, True),
        state("BC.s", "b\nb\nAnswer: 2", 3, True),
        state("BC.l", "b\nb\nx = 1\nAnswer: 2", 3, True),
        state("q.root", "", 0),
        state("q.s", "Answer: 9\n", 1, False),
        state("q.l", "Answer: 8\n", 1, False),
    ]
    text_of = {s.id: s.text for s in states}

    def step(start: str, model: str, end: str, prompt: int, tokens: int, **more: Any) -> Step:
        text = text_of[end].removeprefix(text_of[start])
        base = make_step(f"{start}-{model}", start, model, end, text)
        base = replace(base, problem_id="q" if start.startswith("q") else "p")
        return replace(base, prompt_tokens=prompt, completion_tokens=tokens, **more)

    half = math.log(0.5)
    steps = [
        step(
            "root",
            "small",
            "A",
            15,
            2,
            token_logprobs=(-0.2, -0.4),
            first_token_top=(("1", half), ("2", math.log(0.25))),
        ),
        step("root", "large", "B", 15, 3, token_logprobs=(-0.1, -0.2, -0.6)),
        step(
            "A",
            "small",
            "A.end",
            17,
            4,
            token_logprobs=(-1.0, -0.5, -0.5, 0.0),
            first_token_top=(("A", 0.0),),
        ),
        step("A", "large", "AC", 17, 3, token_logprobs=(-0.3,) * 3),
        step(
            "B",
            "small",
            "BC",
            18,
            2,
            token_logprobs=(-2.0, -1.0),
            first_token_top=(("b", half), ("c", half)),
        ),
        step("B", "large", "B.end", 18, 4, token_logprobs=(-0.1,) * 4),
        step("AC", "small", "AC.s", 20, 5, kind="tail", token_logprobs=(-0.5,) * 5),
        step("AC", "large", "AC.l", 20, 6, kind="tail", token_logprobs=(-0.5,) * 6),
        step("BC", "small", "BC.s", 20, 5, kind="tail"),
        step("BC", "large", "BC.l", 20, 6, kind="tail"),
        step("q.root", "small", "q.s", 15, 4),
        step("q.root", "large", "q.l", 15, 5),
    ]
    return states, steps


def make_hand_tables() -> TraceTables:
    """The tables of ``make_hand_records``, all drafts judged."""
    return judge_drafts(make_tables(["p", "q"], *make_hand_records()), "small", "large")


def build_hand_lattice(**more: Any) -> Lattice:
    return build(make_hand_tables(), ("small", "large"), 2, **more)


# --- scripted recordings ---------------------------------------------------------------------


@dataclass(frozen=True)
class World:
    """Models that are pure functions of (problem, text): few different lines, so paths merge."""

    seed: int
    n_models: int = 2
    n_lines: int = 3
    end_share: float = 0.2

    def draw(self, *parts: object) -> float:
        digest = hashlib.sha256(repr((self.seed, *parts)).encode()).hexdigest()
        return int(digest[:12], 16) / 16**12

    @property
    def model_ids(self) -> tuple[str, ...]:
        return tuple(f"m{i}" for i in range(self.n_models))

    def write(self, problem: str, text: str, model: int, kind: str) -> tuple[str, bool]:
        """The step's text and whether it ends the solution."""
        if kind == "tail" or self.draw("ends", problem, text, model) < self.end_share:
            return f"Answer: {int(3 * self.draw('answer', problem, text, model))}", True
        return f"{int(self.n_lines * self.draw('line', problem, text, model))} + 1\n", False

    def count(self, model: int, text: str) -> int:
        """Tokens of a text, by each model's own tokeniser."""
        return sum(1 + model + int(3 * self.draw("t", model, line)) for line in text.splitlines())


def record(
    world: World, problem_ids: list[str], depth: int, *, merge: bool, plan: str = "lattice"
) -> TraceTables:
    """Record complete lattices. With ``merge`` equal texts are one state; without, each path has
    states and steps of its own, as if every call had been made again."""
    states: dict[str, State] = {}
    steps: dict[str, Step] = {}
    judgements: dict[str, Judgement] = {}
    judge = world.n_models - 1

    def visit(problem: str, text: str, path: str, at: int) -> None:
        state_id = f"{problem}|{text}" if merge else f"{problem}|{path}"
        states.setdefault(state_id, State(state_id, problem, at, text, False, None, None))
        for model, model_id in enumerate(world.model_ids):
            kind = "tail" if at == depth or (plan == "switch" and model > 0) else "step"
            added, ends = world.write(problem, text, model, kind)
            after = text + added
            next_id = f"{problem}|{after}" if merge else f"{problem}|{path}{model}"
            if ends:
                right = added.endswith("1")
                next_id += "|end"
                states.setdefault(next_id, State(next_id, problem, at + 1, after, True, "", right))
            step_id = f"{state_id}>{model_id}{kind}"
            n_tokens = world.count(model, added)
            logprobs = tuple(-world.draw("lp", model, text, i) for i in range(n_tokens))
            steps[step_id] = make_step(
                step_id,
                state_id,
                model_id,
                next_id,
                added,
                problem_id=problem,
                kind=kind,
                token_logprobs=logprobs,
                completion_tokens=n_tokens,
                prompt_tokens=20 + world.count(model, text) + 2 * model,
                shared_prompt_tokens=12 + model,
                first_token_top=(("x", logprobs[0]), ("y", -3.0), ("z", -4.0)),
            )
            if model == 0:
                judgements[step_id] = make_judgement(
                    step_id,
                    world.model_ids[judge],
                    world.draw("judge", problem, text),
                    8 + judge + world.count(judge, text),
                    world.count(judge, added),
                )
            if not ends:
                visit(problem, after, f"{path}{model}", at + 1)

    for problem in problem_ids:
        visit(problem, "", "", 0)
    tables = make_tables(problem_ids, list(states.values()), list(steps.values()))
    return replace(tables, judgements=pl.DataFrame([asdict(row) for row in judgements.values()]))


def build_scripted(seed: int = 0, n_problems: int = 3, depth: int = 3, **more: Any) -> Lattice:
    world = World(seed, **more)
    problems = [f"p{i}" for i in range(n_problems)]
    return build(record(world, problems, depth, merge=True), world.model_ids, depth)


# --- the reference ---------------------------------------------------------------------------


class Walker:
    """Walks one path of one problem at a time over the recorded rows, in plain Python."""

    def __init__(self, tables: TraceTables, model_ids: tuple[str, ...], depth: int) -> None:
        self.steps = {
            (row["state_id"], row["model_id"], row["kind"]): row for row in tables.steps.to_dicts()
        }
        self.states = {row["id"]: row for row in tables.states.to_dicts()}
        judgements = [] if tables.judgements is None else tables.judgements.to_dicts()
        self.judgements = {row["step_id"]: row for row in judgements}
        self.roots = {
            row["problem_id"]: row["id"] for row in self.states.values() if row["text"] == ""
        }
        self.model_ids, self.depth = model_ids, depth

    def walk(
        self,
        problem: str,
        decide: Callable[[tuple[int, ...]], int],
        weights: list[list[float]],
        protocol: str,
    ) -> tuple[float, float, tuple[int, ...]]:
        """Return (right, cost, actions) when ``decide(actions so far)`` takes the decisions."""
        state, path, cost = self.roots[problem], (), 0.0
        seen = [0.0] * len(self.model_ids)
        judged = 0.0  # tokens of the problem and the steps that the judge has read
        for depth in range(self.depth + 1):
            kind = "tail" if depth == self.depth else "step"
            action = decide(path)
            row = self.steps[state, self.model_ids[action], kind]
            if protocol != "before" and action != 0:
                spent = self.steps[state, self.model_ids[0], kind]
                written = 1 if protocol == "probe" else spent["completion_tokens"]
                cost += self.bill(spent, seen, 0, written, weights)
                seen[0] = spent["prompt_tokens"]
            if protocol == "judge":
                draft = self.steps[state, self.model_ids[0], kind]
                own = self.steps[state, self.model_ids[-1], kind]
                call = self.judgements[draft["id"]]
                last, known = len(self.model_ids) - 1, call["shared_prompt_tokens"] + judged
                cost += self.bill(
                    call, [known] * (last + 1), last, call["completion_tokens"], weights
                )
                whole = call["prompt_tokens"] - call["shared_prompt_tokens"] - JUDGE_QUESTION_TOKENS
                kept = action == 0
                judged = whole if kept else own["prompt_tokens"] - own["shared_prompt_tokens"]
            cost += self.bill(row, seen, action, row["completion_tokens"], weights)
            seen[action] = row["prompt_tokens"] + row["completion_tokens"]
            path = (*path, action)
            state = row["next_state_id"]
            if self.states[state]["is_terminal"]:
                return float(self.states[state]["is_correct"]), cost, path
        raise AssertionError("a tail must end the solution")

    @staticmethod
    def bill(
        row: dict[str, Any], seen: list[float], model: int, written: int, weights: list[list[float]]
    ) -> float:
        known = max(seen[model], row["shared_prompt_tokens"])
        uncached = max(0.0, row["prompt_tokens"] - known)
        of_model = weights[model]
        return (
            uncached * of_model[0]
            + (row["prompt_tokens"] - uncached) * of_model[1]
            + written * of_model[2]
        )


def get_paths(lattice: Lattice) -> list[tuple[int, ...]]:
    """The actions that lead to each node."""
    paths: list[tuple[int, ...]] = []
    for node in range(lattice.n_nodes):
        parent = int(lattice.parent[node])
        paths.append(() if parent < 0 else (*paths[parent], int(lattice.parent_action[node])))
    return paths


def index_nodes(lattice: Lattice) -> dict[tuple[str, tuple[int, ...]], int]:
    """Node numbers by (problem id, path)."""
    return {
        (lattice.problem_ids[lattice.node_problem[node]], path): node
        for node, path in enumerate(get_paths(lattice))
    }


def draw_policy(lattice: Lattice, seed: int) -> np.ndarray:
    """Random probabilities (N, K), a third of the nodes certain."""
    rng = np.random.default_rng(seed)
    probabilities = rng.dirichlet(np.ones(lattice.n_models), size=lattice.n_nodes)
    certain = rng.random(lattice.n_nodes) < 1 / 3
    choice = rng.integers(lattice.n_models, size=lattice.n_nodes)
    probabilities[certain] = np.eye(lattice.n_models)[choice[certain]]
    return probabilities
