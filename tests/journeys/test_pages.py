"""Paged lists: each page links to its neighbours, and following the links returns each item once."""

from __future__ import annotations

from urllib.parse import parse_qs, urlsplit

import httpx

from tests.journeys.people import fresh, get
from tests.server import post


async def test_following_a_lists_own_urls_shows_everything_once(api: httpx.AsyncClient) -> None:
    word, tag = fresh("page"), "a & ü"
    made = [
        (await post(api, "/v1/sessions", {"title": f"{word} {number}", "tags": [tag]}))["id"]
        for number in range(7)
    ]
    page = await get(api, "/v1/sessions", search=word, tags=tag, limit=3)
    assert "prev_url" not in page
    pages = [page]
    while "next_url" in pages[-1]:
        query = parse_qs(urlsplit(pages[-1]["next_url"]).query)
        assert (query["search"], query["tags"], query["limit"]) == ([word], [tag], ["3"])
        pages.append((await api.get(pages[-1]["next_url"])).json())
    seen = [each["id"] for each in [item for each in pages for item in each["data"]]]
    assert seen == made[::-1]
    assert [each["offset"] for each in pages] == [0, 3, 6]
    assert (await api.get(pages[2]["prev_url"])).json()["data"] == pages[1]["data"]


async def test_the_urls_work_below_api_as_well(api: httpx.AsyncClient) -> None:
    page = await get(api, "/api/v1/capabilities", limit=1)
    assert page["next_url"] == "/v1/capabilities?limit=1&offset=1"
    assert (await api.get(f"/api{page['next_url']}")).json()["offset"] == 1
