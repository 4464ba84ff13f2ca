"""Says why a command failed, and ends it.

`perdure serve` uses this without the library of the command line.
"""

from __future__ import annotations

import os
import re
import sys
from shlex import quote
from typing import NoReturn

from perdure.cli.parts import MISSING, advice
from perdure.cli.terminal import complain, write_traceback
from perdure.domain.errors import PerdureError

FAILED = 1
USAGE = 2
"""The exit status for wrong usage."""
INTERRUPTED = 130


def end_with(error: Exception) -> NoReturn:
    """Print one readable line about an error and exit with a status.

    The status is 1, or 2 for wrong usage and for a missing package.

    Raises:
        ModuleNotFoundError: a package of an extra is missing; `perdure.__main__` says what to install.
    """
    if isinstance(error, PerdureError):
        # The message of an error that a missing package caused already says what to install.
        missing = isinstance(error.__cause__, ModuleNotFoundError)
        usage = USAGE if error.code == "invalid_tools" else FAILED
        _fail(error, explain(error), MISSING if missing else usage)
    if isinstance(error, ModuleNotFoundError) and advice(error) is not None:
        raise error
    if isinstance(error, OSError) and error.filename is not None and error.strerror:
        _fail(error, f"cannot use {os.fsdecode(error.filename)}: {error.strerror}", FAILED)
    _fail(error, f"{type(error).__name__}: {error} (set PERDURE_DEBUG=1 to see the traceback)", FAILED)


def _fail(error: Exception, message: str, status: int) -> NoReturn:
    if os.environ.get("PERDURE_DEBUG") == "1":
        write_traceback(error)
    else:
        complain(message)
    sys.exit(status)


def explain(error: PerdureError) -> str:
    """Return the error's message, with the next step if there is an obvious one."""
    message = error.message.replace("`entity_ref`", "the id or name")
    status = getattr(error, "status", None)
    if error.code == "unreachable":
        return f"{message}\nStart a server with `perdure serve`, or name one with --url or PERDURE_URL."
    if status == 401:
        advice = "Pass an access token with --token or PERDURE_TOKEN; `perdure keys create` creates one."
        return f"{message}\n{advice}"
    if error.code == "organization_required":
        return "you belong to several organizations: name one by its id with --org or PERDURE_ORG"
    if error.code == "session_held":
        held = list(dict.fromkeys(_SESSION.findall(message)))
        one = held[0] if held else "SESSION_ID"
        return f"{message}\n`perdure erase hold --release {one}` releases it; that needs the role admin."
    if error.code == "session_not_found":
        return f"{message}; `perdure sessions list` lists them."
    if error.code == "task_not_found":
        return f"{message}; `perdure tasks list SESSION_ID` lists them."
    if error.code == "missing_variable":
        return f"{message}\nThe option --var NAME=VALUE gives a value."
    if error.code == "not_an_approval":
        advice = (
            "`perdure inputs answer SESSION_ID` answers questions, `perdure mcp sign-in` signs in, and "
            "`perdure budgets top-up BUDGET_ID AMOUNT` gives a turn money."
        )
        return f"{message}\n{advice}"
    if budget_id := getattr(error, "budget_id", ""):  # the client's TurnPaused
        return f"{message}\n{money_advice(budget_id)}"
    if error.code == "agent_not_found":
        return f"{message}; `perdure agents list` lists them."
    if error.code == f"http_{status}":  # the body is not in this API's error format
        return f"{message}, not in Perdure's format. Is another program at --url or PERDURE_URL?"
    if error.code == "model_not_configured":
        return f"{message}\n{MODEL_ADVICE}"
    return message


_SESSION = re.compile(r"session_[0-9a-f]{32}")


def money_advice(budget_id: str) -> str:
    """What lets a turn go on that waits for a budget."""
    budget = quote(budget_id)
    return (
        f"`perdure budgets show {budget}` shows the budget; `perdure budgets top-up {budget} AMOUNT` or "
        f"`perdure budgets set {budget}` lets the turn go on."
    )


MODEL_ADVICE = """\
Register a vendor, or a server that speaks OpenAI's chat protocol, in another terminal:
  perdure providers add openai
  perdure providers add local --base-url http://127.0.0.1:8080/v1
Or restart the server with `perdure serve --local-model`, a small model that needs no API key."""
