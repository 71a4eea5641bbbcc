"""The views that answer usual questions, as DuckDB's SQL over one view per table.

Invariant: they follow recorded steps, so nothing in them is estimated. They leave out the steps
that rollouts recorded, except those that are part of a lattice as well:

- ``answers``: one row per finished solution, with its problem.
- ``solo_paths``: one row per problem, model and sampling setting: the model alone from the
  problem to its answer, tokens summed over the path; ``is_complete`` is false where the path
  leaves what is recorded, after no step where the first call failed.
- ``solo``: ``solo_paths`` in the mean over complete problems: each model's accuracy and tokens a
  problem.
- ``solo_states``: the states on those paths, by ``depth``, the ends left out.
- ``process_labels``: one row per state, model and sampling setting whose path is recorded to its
  end: what comes of it when this model alone goes on from there (``is_correct``, ``steps_left``,
  ``completion_tokens_left``; a tail is one step). It follows the model's own recorded steps, so
  nothing is estimated; a state from which that path leaves the record has no row, nor has a
  terminal one. At a problem's first state it is ``solo_paths``.
- ``substitutions``: what one step of another model changes: one row per state, model and author,
  with ``is_correct`` when the model goes on alone, and ``is_correct_after`` when ``author_id``
  writes the next step and the model the rest. A step of kind "tail" is all of the rest.
- ``agreement``: one row per state that two or more models continued, with ``agrees``: all wrote
  the same next step and reached the same state.

The last two compare models of one prompt version, and models that a run asked together by different
protocols: ``author_prompt_version`` is then another, and ``prompt_version`` of ``agreement`` is the
prompt with all protocols in the order of the models, such as "short-lines-v1+prefill,dialogue".
"""

from __future__ import annotations

_SETTING = "prompt_version, temperature, sample_index"

# The calls that count. Those of rollouts are left out: which model wrote was drawn, and what one
# model happened to write alone is no sample of what it does. The run that recorded a step tells,
# not ``choices``: a rollout also chooses steps that a lattice recorded, and those stay. Nor does
# a lattice record again what a rollout did, so that counts where a lattice was: in the states that
# it asked in, or came through to one. Of models that it did not ask nothing counts.
_CALLS = f"""
        asked AS (
            SELECT steps.*, states.text AS before, split_part(prompt_version, '+', 1) AS prompt
            FROM steps JOIN states ON states.id = steps.state_id
            WHERE run_id NOT IN (SELECT id FROM runs WHERE plan = 'rollout')
        ),
        drawn AS (
            SELECT steps.*, states.text AS before, split_part(prompt_version, '+', 1) AS prompt
            FROM steps JOIN states ON states.id = steps.state_id
            WHERE run_id IN (SELECT id FROM runs WHERE plan = 'rollout') AND error IS NULL
                AND (model_id, {_SETTING}) IN (SELECT (model_id, {_SETTING}) FROM asked)
        ),
        calls AS (
            SELECT * FROM asked
            UNION ALL
            SELECT * FROM drawn
            WHERE EXISTS (
                SELECT 1 FROM asked
                WHERE asked.problem_id = drawn.problem_id
                    AND asked.prompt = drawn.prompt
                    AND asked.temperature = drawn.temperature
                    AND asked.sample_index = drawn.sample_index
                    AND starts_with(asked.before, drawn.before)
            )
        )"""

# The steps that were written, with the states that they reached.
_WRITTEN = f"""{_CALLS},
        written AS (
            SELECT calls.*, states.is_terminal, states.is_correct, states.extracted_answer
            FROM calls JOIN states ON states.id = calls.next_state_id
            WHERE calls.error IS NULL
        )"""

# The models of the plans in which they go on by different protocols, with the prompt versions that
# they therefore have there. ``plan`` is the prompt with the protocols in the order of the models.
_MIXED = """
        mixed AS (
            SELECT DISTINCT models, prompt || '+' || array_to_string(protocols, ',') AS plan,
                   unnest(models) AS model_id,
                   unnest(list_transform(protocols, lambda name:
                       if(name = 'prefill', prompt, prompt || '+' || name))) AS prompt_version
            FROM (
                SELECT told.models, told.prompt_version AS prompt, told.continuations AS protocols
                FROM (
                    SELECT from_json(configuration, '{"models": ["VARCHAR"],
                        "continuations": ["VARCHAR"], "prompt_version": "VARCHAR"}') AS told
                    FROM runs WHERE json_valid(configuration)
                )
            )
            WHERE len(list_distinct(protocols)) > 1
        )"""

# The step by which a model goes on alone from a state. At a state with both, "step" comes before
# "tail": the deeper recording, unless it has not come to an end there and the other has. ``ends``
# are the states from which some of the model's steps do, told from the ends backwards. A step of no
# text leads back to its state, so a path that meets one never ends and is not complete.
_OWN = f"""{_WRITTEN},
        ends AS (
            SELECT state_id, model_id, {_SETTING} FROM written WHERE is_terminal
            UNION
            SELECT written.state_id, model_id, {_SETTING}
            FROM ends JOIN written USING (model_id, {_SETTING})
            WHERE written.next_state_id = ends.state_id
        ),
        own AS (
            SELECT written.* FROM written LEFT JOIN ends
                ON ends.state_id = written.next_state_id
                AND ends.model_id = written.model_id
                AND ends.prompt_version = written.prompt_version
                AND ends.temperature = written.temperature
                AND ends.sample_index = written.sample_index
            QUALIFY row_number() OVER (
                PARTITION BY written.state_id, written.model_id, written.prompt_version,
                             written.temperature, written.sample_index
                ORDER BY is_terminal OR ends.state_id IS NOT NULL DESC, kind, max_tokens, id
            ) = 1
        )"""

HELPER_VIEWS = {
    "answers": """
        SELECT problems.benchmark, problems.split, states.problem_id, problems.subject,
               problems.level, states.id AS state_id, states.depth, states.text,
               states.extracted_answer, states.is_correct
        FROM states JOIN problems ON problems.id = states.problem_id
        WHERE states.is_terminal
    """,
    "solo_paths": f"""
        WITH RECURSIVE {_OWN},
        walk AS (
            SELECT problem_id, model_id, prompt_version, temperature, sample_index,
                   next_state_id, 1 AS steps, completion_tokens, prompt_tokens,
                   is_terminal, is_correct, extracted_answer
            FROM own WHERE before = ''
            UNION ALL
            SELECT problem_id, model_id, prompt_version, temperature, sample_index,
                   NULL, 0, 0, 0, false, NULL, NULL
            FROM calls WHERE before = '' AND error IS NOT NULL
            UNION ALL
            SELECT walk.problem_id, walk.model_id, walk.prompt_version, walk.temperature,
                   walk.sample_index, own.next_state_id, walk.steps + 1,
                   walk.completion_tokens + own.completion_tokens,
                   walk.prompt_tokens + own.prompt_tokens,
                   own.is_terminal, own.is_correct, own.extracted_answer
            FROM walk JOIN own ON own.state_id = walk.next_state_id
                AND own.model_id = walk.model_id
                AND own.prompt_version = walk.prompt_version
                AND own.temperature = walk.temperature
                AND own.sample_index = walk.sample_index
            WHERE NOT walk.is_terminal AND own.next_state_id <> own.state_id
        )
        SELECT problems.benchmark, problems.split, walk.problem_id, walk.model_id,
               walk.prompt_version, walk.temperature, walk.sample_index, walk.steps,
               walk.completion_tokens, walk.prompt_tokens, walk.is_terminal AS is_complete,
               walk.extracted_answer, walk.is_correct
        FROM walk JOIN problems ON problems.id = walk.problem_id
        QUALIFY row_number() OVER (
            PARTITION BY walk.problem_id, model_id, prompt_version, temperature, sample_index
            ORDER BY walk.steps DESC
        ) = 1
    """,
    "solo_states": f"""
        WITH RECURSIVE {_OWN},
        walk AS (
            SELECT own.*, 0 AS depth FROM own WHERE before = ''
            UNION ALL
            SELECT own.*, walk.depth + 1
            FROM walk JOIN own ON own.state_id = walk.next_state_id
                AND own.model_id = walk.model_id
                AND own.prompt_version = walk.prompt_version
                AND own.temperature = walk.temperature
                AND own.sample_index = walk.sample_index
            WHERE NOT walk.is_terminal AND walk.next_state_id <> walk.state_id
        )
        SELECT problems.benchmark, problems.split, walk.problem_id, walk.model_id,
               walk.prompt_version, walk.temperature, walk.sample_index, walk.depth,
               walk.state_id
        FROM walk JOIN problems ON problems.id = walk.problem_id
    """,
    "solo": """
        SELECT benchmark, split, model_id, prompt_version, temperature, sample_index,
               count(*) FILTER (is_complete) AS problems,
               count(*) FILTER (NOT is_complete) AS incomplete_problems,
               avg(is_correct::INTEGER) FILTER (is_complete) AS accuracy,
               avg(steps) FILTER (is_complete) AS steps_per_problem,
               avg(completion_tokens) FILTER (is_complete) AS completion_tokens_per_problem,
               avg(prompt_tokens) FILTER (is_complete) AS prompt_tokens_per_problem
        FROM solo_paths
        GROUP BY ALL
        ORDER BY ALL
    """,
    # From the ends of the paths backwards: each (state, model) is reached once, from its own step.
    "process_labels": f"""
        WITH RECURSIVE {_OWN},
        labels AS (
            SELECT problem_id, state_id, model_id, prompt_version, temperature, sample_index,
                   is_correct, 1 AS steps_left, completion_tokens AS completion_tokens_left
            FROM own WHERE is_terminal
            UNION ALL
            SELECT own.problem_id, own.state_id, own.model_id, own.prompt_version,
                   own.temperature, own.sample_index, labels.is_correct, labels.steps_left + 1,
                   labels.completion_tokens_left + own.completion_tokens
            FROM labels JOIN own ON own.next_state_id = labels.state_id
                AND own.model_id = labels.model_id
                AND own.prompt_version = labels.prompt_version
                AND own.temperature = labels.temperature
                AND own.sample_index = labels.sample_index
        )
        SELECT problems.benchmark, problems.split, labels.problem_id, labels.state_id,
               states.depth, labels.model_id, labels.prompt_version, labels.temperature,
               labels.sample_index, labels.is_correct, labels.steps_left,
               labels.completion_tokens_left
        FROM labels
        JOIN states ON states.id = labels.state_id
        JOIN problems ON problems.id = labels.problem_id
    """,
    # Of an author's step and its tail the first counts after which the model's end is recorded.
    "substitutions": f"""
        WITH {_WRITTEN}, {_MIXED},
        compared AS (
            SELECT one.model_id, one.prompt_version, other.model_id AS author_id,
                   other.prompt_version AS author_prompt_version
            FROM mixed AS one JOIN mixed AS other USING (models, plan)
        )
        SELECT alone.benchmark, alone.split, alone.problem_id, alone.state_id, alone.depth,
               alone.model_id, written.model_id AS author_id, written.kind, alone.prompt_version,
               written.prompt_version AS author_prompt_version, alone.temperature,
               alone.sample_index, alone.is_correct,
               CASE WHEN written.is_terminal THEN written.is_correct ELSE later.is_correct END
                   AS is_correct_after
        FROM process_labels AS alone
        JOIN written ON written.state_id = alone.state_id
            AND written.model_id <> alone.model_id
            AND written.temperature = alone.temperature
            AND written.sample_index = alone.sample_index
        LEFT JOIN process_labels AS later ON later.state_id = written.next_state_id
            AND later.model_id = alone.model_id
            AND later.prompt_version = alone.prompt_version
            AND later.temperature = alone.temperature
            AND later.sample_index = alone.sample_index
        WHERE (written.is_terminal OR later.state_id IS NOT NULL)
            AND (written.prompt_version = alone.prompt_version
                OR (alone.model_id, alone.prompt_version, written.model_id, written.prompt_version)
                    IN (FROM compared))
        QUALIFY row_number() OVER (
            PARTITION BY alone.state_id, alone.model_id, alone.prompt_version, written.model_id,
                         written.prompt_version, alone.temperature, alone.sample_index
            ORDER BY written.kind, written.max_tokens, written.id
        ) = 1
    """,
    "agreement": f"""
        WITH {_CALLS}, {_MIXED},
        planned AS (
            SELECT prompt_version AS plan, NULL AS models, calls.* FROM calls
            UNION ALL
            SELECT mixed.plan, mixed.models, calls.*
            FROM calls JOIN mixed USING (model_id, prompt_version)
        )
        SELECT problems.benchmark, problems.split, planned.problem_id, planned.state_id,
               states.depth, kind, plan AS prompt_version, temperature, sample_index,
               count(DISTINCT model_id) AS models, count(DISTINCT next_state_id) = 1 AS agrees
        FROM planned
        JOIN states ON states.id = planned.state_id
        JOIN problems ON problems.id = planned.problem_id
        WHERE planned.error IS NULL
        GROUP BY benchmark, split, planned.problem_id, planned.state_id, states.depth, kind, plan,
                 planned.models, temperature, sample_index
        HAVING count(DISTINCT model_id) > 1
    """,
}
