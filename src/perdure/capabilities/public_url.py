"""Where others reach this server."""

from __future__ import annotations


class PublicUrl:
    """The URL under which others reach this server: a setting, or the address that it listens on.

    `url` is empty until the server listens.
    """

    def __init__(self, url: str = "") -> None:
        self.url = url
