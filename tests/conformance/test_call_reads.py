"""What a model call reads in one statement is what the statements of its parts read."""

from __future__ import annotations

from itertools import product
from pathlib import Path

import pytest
from msgspec.structs import replace

from perdure.app.accounts import bootstrap
from perdure.app.agents import create_agent
from perdure.app.models import create_model
from perdure.app.providers import create_provider
from perdure.app.sessions import create_session
from perdure.app.storage import put_secrets
from perdure.capabilities.layers import load_layers
from perdure.capabilities.model_choice import find_model
from perdure.domain.agents import CreateAgent
from perdure.domain.decisions import StandingDecision
from perdure.domain.errors import NotFound
from perdure.domain.ids import ModelId
from perdure.domain.providers import CreateModel, CreateProvider
from perdure.domain.sessions import CreateSession
from perdure.domain.storage import SetSecrets
from perdure.settings import Settings
from perdure.store.budgets import standings_of
from perdure.store.call_reads import read_call
from perdure.store.database import Tx
from perdure.store.sessions import SessionRow, look_session
from perdure.store.standing_approvals import set_standing_approval, standing_approvals
from perdure.store.storage import open_secrets
from perdure.wiring import Parts, open_parts


async def row_of(parts: Parts, session_id: str) -> SessionRow:
    row = await parts.database.read(lambda tx: look_session(tx, session_id))  # type: ignore[arg-type]
    assert row is not None
    return row


async def test_the_first_usable_model_is_found_whatever_is_set_and_disabled(
    database_url: str, tmp_path: Path
) -> None:
    async with open_parts(Settings(data=str(tmp_path), database_url=database_url)) as parts:
        app, owner = parts.app, await bootstrap(parts.app)
        provider = await create_provider(app, owner, CreateProvider("Simulated", "llmsim"))
        asked, own, agents, harness, default = [
            (await create_model(app, owner, provider.id, CreateModel(name, name))).id
            for name in ("asked", "own", "agents", "harness", "default")
        ]
        agent, _ = await create_agent(app, owner, CreateAgent("helper", "You help.", default_model_id=agents))
        session = await create_session(app, owner, CreateSession(agent_id=agent.id, model_id=own))
        row = await row_of(parts, session.id)

        async def set_up(tx: Tx) -> None:
            await tx.run("UPDATE harnesses SET default_model_id = ? WHERE id = ?", harness, row.harness_id)
            await tx.run("UPDATE organizations SET default_model_id = ? WHERE id = ?", default, row.org_id)

        await parts.database.write(set_up)
        models = (asked, own, agents, harness, default)
        for enabled in product((0, 1), repeat=len(models)):

            async def enable(tx: Tx, states: tuple[int, ...] = enabled) -> None:
                for model, state in zip(models, states, strict=True):
                    await tx.run("UPDATE models SET enabled = ? WHERE id = ?", state, model)

            await parts.database.write(enable)
            for requested in (None, asked):

                async def read(tx: Tx, requested: ModelId | None = requested) -> tuple[object, object]:
                    known = await read_call(tx, app.vault, row, row, requested)
                    layers = await load_layers(tx, row)
                    assert await load_layers(tx, row, None, known) == layers
                    return known.model, await find_model(tx, row.org_id, layers.layers, requested)

                together, alone = await parts.database.read(read)
                assert together == alone, (enabled, requested)
        await parts.database.write(lambda tx: tx.run("UPDATE providers SET status = 'disabled'"))
        known = await parts.database.read(lambda tx: read_call(tx, app.vault, row, row, asked))
        assert known.model is None


async def test_decisions_secrets_and_budgets_do_not_get_mixed_up(database_url: str, tmp_path: Path) -> None:
    async with open_parts(Settings(data=str(tmp_path), database_url=database_url)) as parts:
        app, owner = parts.app, await bootstrap(parts.app)
        session = await create_session(app, owner, CreateSession())
        other = await create_session(app, owner, CreateSession())
        for each, word in ((session, "mine"), (other, "theirs")):
            await put_secrets(app, owner, each.id, SetSecrets({f"{word}_{n}": word * 3 for n in range(3)}))
            row = await row_of(parts, each.id)
            for tool in ("write_file", "bash"):
                decision = StandingDecision("approved" if word == "mine" else "rejected", None)  # type: ignore[arg-type]
                await parts.database.write(
                    lambda tx, row=row, tool=tool, decision=decision: set_standing_approval(
                        tx, row, tool, decision
                    )
                )
        row = await row_of(parts, session.id)

        async def read(tx: Tx) -> None:
            known = await read_call(tx, app.vault, row, row, None)
            assert known.secrets == await open_secrets(tx, app.vault, row.org_id, row.id)
            assert len(known.secrets) == 3
            assert known.approvals == await standing_approvals(tx, row.id)
            assert len(known.approvals) == 2
            assert known.standings == await standings_of(tx, row, row.agent_id)

        await parts.database.read(read)


async def test_a_missing_harness_or_agent_is_named(database_url: str, tmp_path: Path) -> None:
    async with open_parts(Settings(data=str(tmp_path), database_url=database_url)) as parts:
        app, owner = parts.app, await bootstrap(parts.app)
        row = await row_of(parts, (await create_session(app, owner, CreateSession())).id)
        for lacks, what in (
            ({"harness_id": app.new_id("harness")}, "harness"),
            ({"agent_id": app.new_id("agent")}, "agent"),
        ):
            odd = replace(row, **lacks)
            with pytest.raises(NotFound, match=what):
                await parts.database.read(lambda tx, odd=odd: read_call(tx, app.vault, odd, row, None))
