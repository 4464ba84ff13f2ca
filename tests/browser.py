"""A browser without scripts: it follows links and redirects, sends forms, and keeps cookies."""

from __future__ import annotations

from types import TracebackType
from typing import Self
from urllib.parse import urljoin, urlsplit

import httpx


class Browser:
    """One person's browser. `visited` are the URLs that it asked for."""

    def __init__(self) -> None:
        self.http = httpx.AsyncClient(timeout=30, cookies=httpx.Cookies())
        self.visited: list[str] = []

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.http.aclose()

    async def open(self, url: str) -> httpx.Response:
        """Follow a link, as from a chat, and its redirects."""
        return await self._go("GET", url, {"sec-fetch-site": "none"})

    async def click(self, url: str) -> httpx.Response:
        """Send the form of the page at this URL, and follow the redirects."""
        parts = urlsplit(url)
        headers = {"sec-fetch-site": "same-origin", "origin": f"{parts.scheme}://{parts.netloc}"}
        return await self._go("POST", url, headers)

    async def _go(self, method: str, url: str, headers: dict[str, str]) -> httpx.Response:
        self.visited.append(url)
        answer = await self.http.request(method, url, headers=headers)
        while answer.is_redirect:
            url = urljoin(url, answer.headers["location"])
            self.visited.append(url)
            answer = await self.http.get(url, headers={"sec-fetch-site": "cross-site"})
        return answer

    async def sign_in(self, url: str) -> httpx.Response:
        """Open a sign-in's page, and continue."""
        page = await self.open(url)
        assert page.status_code == 200, page.text
        return await self.click(url)
