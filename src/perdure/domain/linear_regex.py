"""Regular expressions whose search time is linear in the text: those of RE2, limited in size."""

from __future__ import annotations

from typing import Any

from perdure.domain.errors import InvalidInput

MAX_PROGRAM = 5_000
"""Size of a compiled pattern in RE2 instructions."""
MEMORY = 2 * 1024 * 1024
"""Bytes that RE2 may use for the fast DFA of a pattern; above them it falls back to the slow NFA."""


def compile_re2(
    pattern: str,
    *,
    ignore_case: bool = False,
    limit: int = MAX_PROGRAM,
    field: str = "pattern",
) -> Any:
    """Compile a pattern.

    Raises:
        InvalidInput: RE2 refuses it, or it is too large. `field` is the error's field.
    """
    import re2  # imported here because loading it is slow

    options = re2.Options()
    options.case_sensitive, options.log_errors, options.max_mem = not ignore_case, False, MEMORY
    options.never_capture = True
    try:
        regex = re2.compile(pattern, options)
    except UnicodeEncodeError:
        raise InvalidInput("cannot be encoded as UTF-8", field=field) from None
    except re2.error as error:
        reason = error.args[0]
        text = reason.decode("utf-8", "replace") if isinstance(reason, bytes) else str(reason)
        raise InvalidInput(f"is not a valid RE2 regular expression: {text[:200]}", field=field) from None
    finally:
        re2.purge()  # the library would keep the patterns of all organizations
    if regex.programsize > limit:
        raise InvalidInput(
            f"has {regex.programsize} instructions, more than {limit}: use fewer or smaller repetitions",
            field=field,
        )
    return regex
