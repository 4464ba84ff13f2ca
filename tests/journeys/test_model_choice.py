"""How a model is chosen: no call decrypts the keys of fallbacks that are known to be usable."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from msgspec import Struct

from perdure.app.accounts import bootstrap
from perdure.app.context import App
from perdure.app.models import create_model
from perdure.app.providers import change_provider, create_provider
from perdure.app.sessions import create_session
from perdure.capabilities import model_choice
from perdure.capabilities.layers import load_layers
from perdure.capabilities.model_choice import FitProviders, ModelChoice, choose_model
from perdure.domain.accounts import Caller
from perdure.domain.errors import InvalidInput
from perdure.domain.ids import ModelId, ProviderId
from perdure.domain.providers import CreateModel, CreateProvider, ProviderSecrets, UpdateProvider
from perdure.domain.sessions import CreateSession, Session
from perdure.llm.registry import DriverPool
from perdure.settings import Settings
from perdure.store.database import Tx
from perdure.store.providers import ProviderRow
from perdure.store.sessions import get_session
from perdure.wiring import open_parts


class Place(Struct):
    """A server's parts, which note for which providers a driver is wanted."""

    app: App
    owner: Caller
    fit: FitProviders
    pool: DriverPool
    asked: list[str] = []

    async def model(self, name: str, key: str | None) -> tuple[ProviderId, ModelId]:
        body = CreateProvider(name, "anthropic", api_key=key)
        provider = await create_provider(self.app, self.owner, body, check=False)
        model = await create_model(self.app, self.owner, provider.id, CreateModel(name, name))
        return provider.id, model.id

    async def session(self, *models: ModelId) -> Session:
        body = CreateSession(harness_name="base", model_id=models[0], fallback_models=models[1:])
        return await create_session(self.app, self.owner, body)

    async def choose(self, session: Session, **how: Any) -> ModelChoice:
        self.asked.clear()

        def driver_of(row: ProviderRow, secrets: ProviderSecrets) -> Any:
            self.asked.append(row.name)
            return self.pool.driver_for(row, secrets)

        async def body(tx: Tx) -> ModelChoice | None:
            layers = await load_layers(tx, await get_session(tx, session.organization_id, session.id))
            return await choose_model(tx, layers, None, self.app.vault, driver_of, self.fit, **how)

        choice = await self.app.database.read(body)
        assert choice is not None
        return choice


@asynccontextmanager
async def place(url: str, folder: Path) -> AsyncIterator[Place]:
    async with open_parts(Settings(data=str(folder / "data"), database_url=url)) as parts:
        pool = DriverPool({})
        yield Place(parts.app, await bootstrap(parts.app), parts.engine.fit, pool)
        await pool.close()


async def test_the_key_of_a_fallback_is_decrypted_once_until_its_provider_changes(
    database_url: str, tmp_path: Path
) -> None:
    async with place(database_url, tmp_path) as there:
        _, first = await there.model("first", "a key")
        provider, other = await there.model("other", "a key")
        session = await there.session(first, other)
        choices = [await there.choose(session)]
        assert sorted(there.asked) == ["first", "first", "other"]
        choices.append(await there.choose(session))
        assert there.asked == ["first"]
        for choice in choices:
            assert (choice.model.id, [each.model.id for each in choice.others]) == (first, [other])
        await change_provider(there.app, there.owner, provider, UpdateProvider(api_key=None), check=False)
        choice = await there.choose(session)
        assert there.asked == ["other", "first"]
        assert [each.model.model.id for each in choice.unfit] == [other]


async def test_a_first_model_that_the_log_names_is_not_replaced(database_url: str, tmp_path: Path) -> None:
    async with place(database_url, tmp_path) as there:
        _, first = await there.model("first", None)
        _, other = await there.model("other", "a key")
        session = await there.session(first, other)
        choice = await there.choose(session)
        assert choice.model.id == other
        assert choice.instead_of is not None
        assert choice.instead_of.model.id == first
        with pytest.raises(InvalidInput) as caught:
            await there.choose(session, begun=True)
        assert caught.value.code == "provider_misconfigured"


async def test_a_session_without_fallbacks_asks_for_one_driver(database_url: str, tmp_path: Path) -> None:
    async with place(database_url, tmp_path) as there:
        _, only = await there.model("only", "a key")
        await there.choose(await there.session(only))
        assert there.asked == ["only"]


def test_only_so_many_providers_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model_choice, "MAX_FIT", 2)
    fit = FitProviders()

    class Row(Struct):
        id: ProviderId
        updated_at: int

    rows: list[Any] = [Row(ProviderId(f"p{number}"), 1) for number in range(3)]
    for row in rows:
        fit.add(row)
    assert [row in fit for row in rows] == [False, False, True]
    assert Row(ProviderId("p2"), 2) not in fit
