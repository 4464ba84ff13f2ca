"""What a check of `perdure doctor` has found."""

from __future__ import annotations

from typing import Literal

from msgspec import Struct


class Finding(Struct, frozen=True, omit_defaults=True):
    """The result of one check.

    Attributes:
        check: what was checked.
        status: `ok`; `warn`: it works, and may not always; `fail`: it does not work; `skip`: not checked.
        detail: what was found.
        advice: what to do about it.
    """

    check: str
    status: Literal["ok", "warn", "fail", "skip"]
    detail: str
    advice: str = ""
