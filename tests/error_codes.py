"""The error codes that the reference explains."""

from __future__ import annotations

from perdure.api.openapi.error_codes import PROGRAMS, RESPONSES, TOOLS, TURNS

EXPLAINED = frozenset(error.code for error in (*PROGRAMS, *TOOLS, *TURNS, *RESPONSES))

INTERNAL_SIGNALS = frozenset(("fenced", "stale_head"))
"""Codes that never leave the server: signals between its own parts."""
