"""Times that people type."""

from __future__ import annotations

from datetime import UTC, datetime

import typer


def moment(text: str | None, option: str) -> str | None:
    """Read a date or a time; return it as RFC 3339. Without an offset, it is in UTC; a date is its beginning.

    Raises:
        BadParameter: it is neither.
    """
    if text is None:
        return None
    try:
        found = datetime.fromisoformat(text.strip())
    except ValueError:
        raise typer.BadParameter(
            f"{text!r} is neither a date, such as 2026-03-14, nor a time, such as 2026-03-14T09:26:53Z",
            param_hint=option,
        ) from None
    return (found if found.tzinfo else found.replace(tzinfo=UTC)).isoformat()
