"""Checks arguments and answers in a separate process, if their schema may cost any amount of time."""

from __future__ import annotations

import json
import signal

from msgspec import Struct

CPU_SECONDS = 0.5
"""Processor time of one check, in seconds. A check that takes longer ends its process."""
SECONDS = 15.0
"""The time limit of one check on a busy machine, in seconds; the start of a process is part of it."""


class ArgumentsJob(Struct, frozen=True, tag="arguments"):
    """Check a value against a schema, both as JSON. `whole`: what a problem of the whole value calls it."""

    schema: bytes
    value: bytes
    whole: str = "arguments"


class Checked(Struct, frozen=True):
    """The first problems of the value; None if the schema is not valid."""

    problems: list[str] | None


def check_arguments(job: ArgumentsJob) -> Checked:
    """Check the value."""
    from perdure.domain.json_schemas import compile_schema, problems_of  # only these jobs need it

    signal.setitimer(signal.ITIMER_PROF, CPU_SECONDS)
    try:
        validator = compile_schema(json.loads(job.schema), linear=False)
        return Checked(problems_of(validator, json.loads(job.value), job.whole))
    except (ValueError, RecursionError):
        return Checked(None)
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
