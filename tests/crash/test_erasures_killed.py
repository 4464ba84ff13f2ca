"""`kill -9` while a session or a user is erased: the next server goes on, and the receipt is right."""

from __future__ import annotations

import httpx
import pytest

from tests.journeys.erasing import a_mark, counts, erased, finished, plain_session, used_session
from tests.journeys.keyed import add_member, person, with_login
from tests.remnants import database_of, files_with, tables_with
from tests.server import Server, post
from tests.soak import amounts


@pytest.mark.parametrize("times", amounts(3, 12))
async def test_an_erasure_that_is_killed_is_finished_all_the_same(
    http: httpx.AsyncClient, any_server: Server, times: int
) -> None:
    for number in range(times):
        mark = a_mark()
        talk = await used_session(http, mark)
        long = await plain_session(http, mark)
        await long.turn({"tokens": 50}, ask=mark * 2_000)
        erasures = [await post(http, "/v1/erasures", {"session_id": each.id}) for each in (talk, long)]
        for _ in range(number * 5):  # killed at another moment each time: at once, and ever later
            await http.get(f"/v1/erasures/{erasures[0]['id']}")
        await any_server.restart()
        first, second = [await finished(http, each) for each in erasures]
        assert counts(first)["sessions"] == 3
        assert counts(second)["sessions"] == 1
        async with database_of(any_server) as database:
            assert await tables_with(database, mark) == {}
    if not any_server.database_url:
        assert files_with(any_server.data, mark) == {}


async def test_a_user_whose_erasure_is_killed_is_erased_all_the_same(any_server: Server) -> None:
    mark = a_mark()
    token = await with_login(any_server)
    async with person(any_server, token) as owner:
        ann, anns = await add_member(owner, mark)
        async with person(any_server, anns) as hers:
            for _ in range(5):
                await plain_session(hers, mark)
        erasure = await post(owner, "/v1/erasures", {"user_id": ann["id"]})
        await any_server.restart()
        receipt = await finished(owner, erasure)
        assert counts(receipt)["sessions"] == 5
        assert counts(receipt)["pseudonymized"] == 5 + 3  # model calls, and entries of the audit log
        assert (await erased(owner, {"user_id": ann["id"]})) == receipt
        async with database_of(any_server) as database:
            assert await tables_with(database, mark) == {}
            assert set(await tables_with(database, ann["id"])) == {"erasures"}

            sql = "SELECT DISTINCT user_id FROM model_calls"
            # One pseudonym for all of them, although the work was interrupted.
            assert len(await database.read(lambda tx: tx.all(sql))) == 1
