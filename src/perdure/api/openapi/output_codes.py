"""The error codes of typed results, as rows for `error_codes`: code, meaning, remedy."""

from __future__ import annotations

OUTPUT_SCHEMAS = (
    (
        "invalid_output_schema",
        "The `output_schema` is not a valid JSON Schema, or too large or too costly to check.",
        "Correct the part that `field` names.",
    ),
)
OUTPUTS = (
    (
        "output_invalid",
        "Three answers in a row did not match the `output_schema`. The model was told what was wrong.",
        "See the error for what was wrong. Use a simpler schema, describe its fields, or use another model.",
    ),
)
