"""Organizations, users, and who is calling."""

from __future__ import annotations

from typing import Literal

from msgspec import Struct

UserRole = Literal["owner", "admin", "member"]


class Caller(Struct, frozen=True):
    """Who makes a request, and in which organization: everything it touches belongs there (promise P8)."""

    organization_id: str
    user_id: str
    role: UserRole = "owner"
