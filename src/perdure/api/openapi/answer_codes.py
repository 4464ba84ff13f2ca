"""The error codes of answers and their schemas, as rows for `error_codes`: code, meaning, remedy."""

from __future__ import annotations

from perdure.api.openapi.budget_codes import BUDGETS

OUTPUT_SCHEMAS = (
    (
        "invalid_output_schema",
        "The `output_schema` is not a valid JSON Schema, or too large or too costly to check.",
        "Correct the part that `field` names.",
    ),
)
ANSWERS = (
    *BUDGETS,
    ("answer_truncated", "Three answers in a row were cut in a tool call.", "Ask for smaller steps."),
    ("empty_answer", "The model was asked twice, and said nothing.", "Lower the effort, or try again."),
    (
        "output_invalid",
        "Three answers of the turn did not match the `output_schema`, although the model was told why.",
        "See the error for what was wrong. Use a simpler schema, describe its fields, or use another model.",
    ),
)
POLICIES = (
    (
        "blocked_by_policy",
        "A policy hook blocked the model call, or the result of a tool that ran in the background.",
        "See the error for the hook's reason, and the event `hook.decided` for the hook.",
    ),
    (
        "policy_unavailable",
        "A policy hook gave no decision about a model call, and its configuration blocks then.",
        "The event `hook.decided` says why (`failure`). Repair the hook, then send another message.",
    ),
)
QUESTIONS = (
    *POLICIES,
    (
        "invalid_answer",
        "An answer does not fit its question, a question has no answer, or one is not asked.",
        "Correct what `field` names. The questions stay open.",
    ),
    (
        "questions_closed",
        "Nothing waits for the answers: they came already, the time is over, or the turn went on or ended.",
        "Read the session's events to see which.",
    ),
    ("not_a_question", "The item of the inbox asks no questions.", "Send a `decision`."),
)
TASKS = (
    *QUESTIONS,
    (
        "too_deep",
        "The session is too many levels below the first one of its tree to begin sub-agents.",
        "Let it do the work itself.",
    ),
    (
        "too_many_tasks",
        "Too many tasks of the session have not ended.",
        "Wait for some of them, or cancel them.",
    ),
    ("task_ended", "The task has ended.", "Begin another one."),
)
