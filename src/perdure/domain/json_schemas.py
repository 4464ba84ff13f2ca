"""Checks values against JSON Schemas. Nothing is fetched, and messages leave out the value.

The caller bounds the cost (`schema_cost`), or runs this in a process that it can end.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jsonschema_rs import ValidationError, Validator

MAX_PROBLEMS = 5
"""Problems that one check reports."""

_PROGRAM, _LARGE_PROGRAM, _MATCHER = 1 << 20, 8 << 20, 256 << 10
"""Bytes of a compiled pattern, of one in the sandbox, and of the memory that matches it."""
_BACKTRACKS = 100_000
"""Steps back of a pattern with look-around or back-references before it counts as not matching."""

_DIALECTS = ("http://json-schema.org/draft-0", "https://json-schema.org/draft/20")


def compile_schema(schema: Any, *, linear: bool) -> Validator:
    """Compile a schema.

    Args:
        linear: match patterns in time that is linear in the text. Such patterns have no look-around and no
            back-references.

    Raises:
        ValueError: this is not a valid schema, or a pattern is not `linear`.
    """
    import jsonschema_rs  # heavy: only servers that use tools need it

    options = (
        jsonschema_rs.RegexOptions(size_limit=_PROGRAM, dfa_size_limit=_MATCHER)
        if linear
        else jsonschema_rs.FancyRegexOptions(
            backtrack_limit=_BACKTRACKS, size_limit=_LARGE_PROGRAM, dfa_size_limit=_MATCHER
        )
    )
    try:
        # `mask`: messages leave out the value, which may be a secret. `offline`: a reference to another
        # document is not fetched. Formats are notes for people and models.
        return jsonschema_rs.validator_for(
            declared(schema), mask="the value", offline=True, validate_formats=False, pattern_options=options
        )
    except jsonschema_rs.ReferencingError as error:
        raise ValueError(error.message) from None


def declared(schema: Any) -> Any:
    """The schema without a `$schema` that is none of the standard's: it would have to be fetched."""
    dialect = schema.get("$schema") if isinstance(schema, dict) else None
    if dialect is None or (isinstance(dialect, str) and dialect.startswith(_DIALECTS)):
        return schema
    return {name: value for name, value in schema.items() if name != "$schema"}


def problems_of(validator: Validator, value: Any, whole: str) -> list[str]:
    """The first problems of a value, each with its path, or `whole` for the value itself."""
    try:
        return [
            f"{_path_of(error) or whole}: {error.message}"
            for error, _ in zip(validator.iter_errors(value), range(MAX_PROBLEMS), strict=False)
        ]
    except ValueError:  # some hundred levels of nesting
        return ["They are nested too deeply."]


def compile_pattern(pattern: str) -> str | None:
    """Compile a regular expression of a schema; returns what is wrong with it."""
    try:
        compile_schema({"pattern": pattern}, linear=False)
    except ValueError as error:
        return str(error).partition("\n")[0][:200]
    return None


def _path_of(error: ValidationError) -> str:
    return "/".join(str(step) for step in error.instance_path)
