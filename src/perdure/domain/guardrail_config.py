"""Reads and checks the configuration of `guardrails`: errors name the check, and say what to fix."""

from __future__ import annotations

import re
from typing import Any

import msgspec

from perdure.domain.errors import InvalidInput
from perdure.domain.guardrail_checks import (
    GUARDRAILS,
    AnyCheck,
    GuardrailsConfig,
    JudgeCheck,
    ModerationCheck,
)
from perdure.domain.guardrail_rules import compile_rule
from perdure.domain.guardrails import check_id

CODE = "invalid_capability_config"

MAX_TOTAL_PROGRAM = 30_000
"""Size of all compiled patterns of a configuration, in RE2 instructions: compiling them takes about 30 ms."""

_PLACE = re.compile(r"^(?P<problem>.*?)(?: - at `\$(?P<path>[^`]*)`)?$", re.DOTALL)
_INDEX = re.compile(r"^\.checks\[(\d+)\]")


def read_config(config: Any, where: str) -> GuardrailsConfig:
    """Read a configuration.

    Args:
        where: the path of the configuration in the request, for errors.

    Raises:
        InvalidInput: names the check that is not valid.
    """
    try:
        return msgspec.convert({} if config is None else config, GuardrailsConfig)
    except msgspec.ValidationError as error:
        found = _PLACE.match(str(error))
        problem, path = (found["problem"], found["path"] or "") if found else (str(error), "")
        index = _INDEX.match(path)
        name = "" if index is None else _name_of(config, int(index[1]))
        if problem.startswith(("Invalid", "Expected", "Object contains unknown")):
            problem += "; the `config_schema` of GET /v1/capabilities/guardrails has what is possible"
        raise _refused(f"{where}{path}", name, problem) from None


def _name_of(config: Any, index: int) -> str:
    check = config["checks"][index]
    own = check.get("id") if isinstance(check, dict) else None
    return own if isinstance(own, str) else ""


def check_config(config: Any, where: str) -> GuardrailsConfig:
    """Read a configuration, and compile its patterns. This takes too long for the event loop.

    Raises:
        InvalidInput: names the check that is not valid, or that is one too many.
    """
    found = read_config(config, where)
    size = 0
    known: set[str] = set()
    for index, check in enumerate(found.checks):
        path, own = f"{where}.checks[{index}]", check_id(check, index)
        if own in known:
            raise _refused(f"{path}.id", own, "another check has this id: choose a different one")
        known.add(own)
        if isinstance(check, ModerationCheck | JudgeCheck):
            continue
        try:
            size += compile_rule(check).size
        except InvalidInput as error:
            raise _refused(f"{path}.{error.field}", own, error.message) from None
        if size > MAX_TOTAL_PROGRAM:
            problem = (
                f"the patterns up to this one have {size} RE2 instructions, more than {MAX_TOTAL_PROGRAM}: "
                "use fewer or smaller ones"
            )
            raise _refused(path, own, problem)
    return found


def _refused(where: str, name: str, problem: str) -> InvalidInput:
    of = f" (check `{name}`)" if name else ""
    return InvalidInput(f"`{where}`{of}: {problem}", code=CODE, field=where)


def stored_checks(config: Any) -> tuple[AnyCheck, ...]:
    """The checks of a stored configuration. Raises InvalidInput: this release cannot read it."""
    return read_config(config, GUARDRAILS).checks
