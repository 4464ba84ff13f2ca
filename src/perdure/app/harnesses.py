"""Harnesses: create, read, list, change, copy, archive. Built-in ones can only be read and copied."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Awaitable, Callable

import msgspec
from msgspec import UNSET

from perdure.app.agents import check_files
from perdure.app.context import App
from perdure.app.damaged import without_damage
from perdure.app.etags import check_match
from perdure.app.idempotency import Once, write_once
from perdure.app.mcp_checks import check_inline
from perdure.app.ref_checks import check_configs, check_refs
from perdure.app.restoring import Restored, restored_columns
from perdure.app.searches import search
from perdure.app.sessions import check_model
from perdure.app.stored_refs import stored_refs
from perdure.domain.accounts import Caller
from perdure.domain.errors import Conflict, Forbidden, InvalidInput, NotFound
from perdure.domain.examples import HARNESS_EXAMPLES
from perdure.domain.harnesses import (
    BUILT_IN_HARNESSES,
    MAX_DEPTH,
    CreateHarness,
    Harness,
    HarnessConfig,
    HarnessExample,
    UpdateHarness,
)
from perdure.domain.ids import HarnessId, ModelId, OrgId, check_id, is_id
from perdure.domain.network import check_network
from perdure.domain.paging import AllowedAction
from perdure.domain.resources import (
    NameCheck,
    ResourceStats,
    check_free_word,
    check_size,
    copy_name,
    copy_stem,
    is_reserved,
    require_manager,
)
from perdure.domain.sessions import clean_tags
from perdure.domain.times import Micros, maybe_rfc3339, to_rfc3339
from perdure.store.accounts import get_organization, lock_organization
from perdure.store.database import Changes, Tx
from perdure.store.harnesses import (
    HarnessRow,
    add_harness,
    follow_built_in,
    get_harness,
    harness_by_name,
    harness_chain,
    harness_names,
    levels_below,
    list_harnesses,
    update_harness,
)
from perdure.store.rows import to_json
from perdure.store.stats import resource_stats, session_counts

log = logging.getLogger("perdure.harnesses")


async def add_built_in_harnesses(app: App, tx: Tx, org_id: OrgId, now: Micros) -> None:
    """Add the built-in harnesses to a new organization: `base` (empty) and `generic` (the default)."""
    for each in BUILT_IN_HARNESSES:
        row = HarnessRow(
            id=app.new_id("harness"),
            org_id=org_id,
            name=each.name,
            display_name=each.display_name,
            description=each.description,
            system_prompt=None,
            parent_harness_id=None,
            default_model_id=None,
            tags="[]",
            config=to_json(each.config()),
            is_built_in=1,
            status="active",
            created_at=now,
            updated_at=now,
            archived_at=None,
        )
        await add_harness(tx, row)


async def follow_built_in_harnesses(tx: Tx, now: Micros) -> None:
    """Update the built-in harnesses of all organizations to those of this version."""
    for each in BUILT_IN_HARNESSES:
        changed = await follow_built_in(tx, each, now)
        if changed:
            log.info("updated the built-in harness %s in %d organizations", each.name, changed)


def to_harness(row: HarnessRow, *, sessions: int | None = None) -> Harness:
    """Convert a row to the resource that clients see; without `sessions` it has no session count."""
    config, url = row.config_struct(), f"/v1/harnesses/{row.id}"
    actions = [
        AllowedAction("self", "GET", url, "get_harness"),
        AllowedAction("copy", "POST", f"{url}/copy", "copy_harness"),
    ]
    if not row.is_built_in:
        actions.append(AllowedAction("update", "PATCH", url, "update_harness"))
        actions.append(AllowedAction("delete", "DELETE", url, "delete_harness"))
    return Harness(
        id=row.id,
        name=row.name,
        status=row.status,
        is_built_in=bool(row.is_built_in),
        created_at=to_rfc3339(row.created_at),
        updated_at=to_rfc3339(row.updated_at),
        self_url=url,
        view_url=url,
        ui_link=url,
        capabilities=config.capabilities,
        tags=row.tag_list(),
        system_prompt=row.system_prompt,
        display_name=row.display_name,
        description=row.description,
        parent_harness_id=row.parent_harness_id,
        default_model_id=row.default_model_id,
        initial_files=config.initial_files,
        network_access=config.network_access,
        parallel_tool_calls=config.parallel_tool_calls,
        embedder_metadata=config.embedder_metadata,
        mcp_servers=config.mcp_servers,
        archived_at=maybe_rfc3339(row.archived_at),
        deleted_at=to_rfc3339(row.updated_at) if row.status == "deleted" else None,
        session_count=UNSET if sessions is None else sessions,
        app_count=UNSET if sessions is None else 0,
        allowed_actions=tuple(actions),
    )


async def find_any_harness(tx: Tx, org_id: OrgId, ref: str, *, lock: bool = False) -> HarnessRow:
    """Return a harness by id or name; an archived one only by id. `lock` locks its row until the commit.

    Raises NotFound.
    """
    row = await harness_by_name(tx, org_id, ref) if not is_id(ref, "harness") else None
    if row is None or lock:
        row = await get_harness(tx, org_id, HarnessId(ref) if row is None else row.id, lock=lock)
    if row.status == "deleted":
        raise NotFound("harness")
    return row


async def create_harness(app: App, caller: Caller, body: CreateHarness, once: Once | None = None) -> Harness:
    """Create a harness."""
    require_manager(caller, "harness")
    tags = clean_tags(body.tags)
    app.registry.check(body.capabilities)
    await check_configs(app, body.capabilities)
    check_files(body.initial_files)
    check_network(body.network_access)
    await check_inline(app, body.mcp_servers)
    capabilities = await stored_refs(app, caller.organization_id, body.capabilities)
    body = msgspec.structs.replace(body, capabilities=capabilities)
    now = app.now()

    async def work(tx: Tx) -> Harness:
        org_id = caller.organization_id
        await check_refs(app, tx, org_id, body.capabilities)
        model_id: ModelId | None = None
        if body.default_model_id is not None:
            model_id = await check_model(tx, org_id, body.default_model_id, "default_model_id")
        config = HarnessConfig(
            body.capabilities,
            body.initial_files,
            body.network_access,
            None,
            body.embedder_metadata,
            body.mcp_servers,
        )
        row = HarnessRow(
            app.new_id("harness"),
            org_id,
            body.name,
            body.display_name,
            body.description,
            body.system_prompt,
            None,
            model_id,
            to_json(tags),
            to_json(config),
            0,
            "active",
            now,
            now,
            None,
        )
        return await _insert(tx, row, body.parent_harness_id)

    return await write_once(app, once, work)


async def _insert(tx: Tx, row: HarnessRow, parent: str | None) -> Harness:
    """Check a new harness's name, size and parent, then insert it."""
    await _check_name(tx, row)
    check_size(row.config + (row.system_prompt or ""))
    if parent is not None:
        parent_id = await _check_parent(tx, row.org_id, parent, None)
        row = msgspec.structs.replace(row, parent_harness_id=parent_id)
    await add_harness(tx, row)
    return to_harness(row)


async def _check_name(tx: Tx, row: HarnessRow) -> None:
    check_free_word(row.name)
    if await harness_by_name(tx, row.org_id, row.name) is not None:
        raise Conflict(f"another harness is named {row.name!r}", code="name_taken")


async def _check_parent(tx: Tx, org_id: OrgId, parent: str, child: HarnessRow | None) -> HarnessId:
    """Check that a parent leads to no cycle and to no chain above `MAX_DEPTH`.

    Args:
        child: the harness that gets the parent; None for a new one.

    Raises InvalidInput or NotFound.
    """
    field = "parent_harness_id"
    await lock_organization(tx, org_id)  # serializes changes of inheritance: two at once could form a cycle
    parent_id = check_id(parent, "harness", field)
    chain = await harness_chain(tx, org_id, parent_id)
    if chain[-1].status == "deleted":
        raise NotFound("harness")
    if chain[-1].status != "active":
        raise InvalidInput("this harness is archived", code="harness_archived", field=field)
    below = 0
    if child is not None:
        if any(row.id == child.id for row in chain):
            raise InvalidInput(
                f"`{field}` would form a cycle: {parent_id} is this harness or inherits from it",
                code="harness_cycle",
                field=field,
            )
        below = await levels_below(tx, org_id, child.id)
    if len(chain) + 1 + below > MAX_DEPTH:
        raise InvalidInput(
            f"a chain of inheritance has at most {MAX_DEPTH} harnesses, this one would have"
            f" {len(chain) + 1 + below}: choose a parent with fewer ancestors",
            code="harness_too_deep",
            field=field,
        )
    return parent_id


async def read_harness(app: App, caller: Caller, ref: str) -> Harness:
    """Read a harness, by id or name, with the number of its sessions."""

    async def work(tx: Tx) -> Harness:
        row = await find_any_harness(tx, caller.organization_id, ref)
        counts = await session_counts(tx, row.org_id, "harness_id", (row.id,))
        return to_harness(row, sessions=counts.get(row.id, 0))

    return await app.database.read(work, long=True)


async def all_harnesses(
    app: App, caller: Caller, text: str | None, archived: bool
) -> AsyncIterator[list[Harness]]:
    """List the organization's harnesses in parts, built-in ones first, without their initial files."""
    offset, more = 0, True
    while more:

        async def work(tx: Tx, offset: int = offset) -> tuple[list[Harness], bool]:
            rows, more = await list_harnesses(tx, caller.organization_id, text, archived, offset)
            ids = tuple(row.id for row in rows)
            counts = await session_counts(tx, caller.organization_id, "harness_id", ids)
            return [to_harness(without_damage(row), sessions=counts.get(row.id, 0)) for row in rows], more

        part, more = await search(app, caller, work)
        yield [msgspec.structs.replace(each, initial_files=()) for each in part]
        offset += len(part)


async def change_harness(
    app: App, caller: Caller, ref: str, body: UpdateHarness, if_match: frozenset[str] | None = None
) -> Harness:
    """Change the fields of a harness that the body contains."""
    require_manager(caller, "harness")
    if body.capabilities is not UNSET:
        app.registry.check(body.capabilities)
        await check_configs(app, body.capabilities)
    if body.initial_files is not UNSET:
        check_files(body.initial_files)
    check_network(body.network_access)
    await check_inline(app, body.mcp_servers)
    capabilities = await stored_refs(app, caller.organization_id, body.capabilities)
    body = msgspec.structs.replace(body, capabilities=capabilities)
    now = app.now()

    async def work(tx: Tx) -> Harness:
        row = await _changeable(tx, caller, ref)
        check_match(if_match, to_harness(row).editable())
        await check_refs(app, tx, row.org_id, body.capabilities)
        changes = await _changes(tx, row, body, now)
        if changes:
            changes["updated_at"] = max(now, row.updated_at + 1)
            await update_harness(tx, row.org_id, row.id, changes)
        return to_harness(msgspec.structs.replace(row, **changes))

    return await app.database.write(work)


async def _changeable(tx: Tx, caller: Caller, ref: str) -> HarnessRow:
    row = await find_any_harness(tx, caller.organization_id, ref, lock=True)
    if row.is_built_in:
        raise Forbidden(
            f"the harness {row.name!r} is built in and cannot be changed: copy it, and change the copy",
            code="built_in_read_only",
        )
    return row


_PLAIN = ("name", "system_prompt", "display_name", "description", "default_model_id", "parent_harness_id")
"""The columns of a harness that are fields as they are."""


async def _changes(tx: Tx, row: HarnessRow, body: UpdateHarness, now: Micros) -> Changes:
    """Check a change and return the columns that it sets."""
    fields = {
        name: getattr(body, name) for name in body.__struct_fields__ if getattr(body, name) is not UNSET
    }
    if "mcp_servers" in fields:
        fields["mcp_servers"] = fields["mcp_servers"] or {}
    changes: Changes = {name: fields[name] for name in _PLAIN if name in fields}
    if fields.get("default_model_id") is not None:
        await check_model(tx, row.org_id, fields["default_model_id"], "default_model_id")
    if fields.get("parent_harness_id") is not None:
        await _check_parent(tx, row.org_id, fields["parent_harness_id"], row)
    if "tags" in fields:
        changes["tags"] = to_json(clean_tags(fields["tags"]))
    parts = {name: fields[name] for name in HarnessConfig.__struct_fields__ if name in fields}
    if parts:
        changes["config"] = to_json(msgspec.structs.replace(row.config_struct(), **parts))
    if "status" in fields and fields["status"] != row.status:
        changes |= {
            "status": fields["status"],
            "archived_at": None if fields["status"] == "active" else row.archived_at or now,
        }
    await _check_changed(tx, row, changes)
    return changes


async def _check_changed(tx: Tx, row: HarnessRow, changes: Changes) -> None:
    """Check a harness with its new values as a whole."""
    new = msgspec.structs.replace(row, **changes)
    check_size(new.config + (new.system_prompt or ""))
    if new.status == "active" and (new.name != row.name or row.status != "active"):
        await _check_name(tx, new)
    if new.status != "active":
        await _check_not_default(tx, row)


async def restore_harness(
    app: App,
    tx: Tx,
    caller: Caller,
    harness_id: str,
    restored: Restored,
    check: Callable[[], Awaitable[None]],
) -> None:
    """Restore a harness from a revision.

    Args:
        check: is awaited once the harness's row is locked.
    """
    row = await _changeable(tx, caller, harness_id)
    await check()
    now = app.now()
    changes = restored_columns(row, restored, _PLAIN, HarnessConfig, now)
    if not changes:
        return
    if isinstance(model := changes.get("default_model_id"), str):
        await check_model(tx, row.org_id, model, "default_model_id")
    if isinstance(parent := changes.get("parent_harness_id"), str):
        await _check_parent(tx, row.org_id, parent, row)
    await _check_changed(tx, row, changes)
    await update_harness(tx, row.org_id, row.id, {**changes, "updated_at": max(now, row.updated_at + 1)})


async def _check_not_default(tx: Tx, row: HarnessRow) -> None:
    organization = await get_organization(tx, row.org_id)
    if organization is not None and organization.default_harness_id == row.id:
        raise Conflict(
            "this harness is the organization's default: choose another first", code="harness_in_use"
        )


async def archive_harness(app: App, caller: Caller, ref: str) -> None:
    """Archive a harness: lists hide it, and nothing new can use it. Its present users continue to work."""
    require_manager(caller, "harness")
    now = app.now()

    async def work(tx: Tx) -> None:
        row = await _changeable(tx, caller, ref)
        if row.status == "active":
            await _check_not_default(tx, row)
            moved = max(now, row.updated_at + 1)
            await update_harness(
                tx, row.org_id, row.id, {"status": "archived", "archived_at": now, "updated_at": moved}
            )

    await app.database.write(work)


async def copy_harness(app: App, caller: Caller, ref: str, once: Once | None = None) -> Harness:
    """Create a harness with the same configuration, under the next free name `...-copy`.

    The copy of a built-in harness can be changed.
    """
    require_manager(caller, "harness")
    now = app.now()

    async def work(tx: Tx) -> Harness:
        # Serializes copies, so that each finds the names that earlier ones took.
        await lock_organization(tx, caller.organization_id)
        source = await find_any_harness(tx, caller.organization_id, ref)
        taken = await harness_names(tx, source.org_id, copy_stem(source.name))
        row = msgspec.structs.replace(
            source,
            id=app.new_id("harness"),
            name=copy_name(source.name, taken),
            is_built_in=0,
            status="active",
            created_at=now,
            updated_at=now,
            archived_at=None,
        )
        return await _insert(tx, row, source.parent_harness_id)

    return await write_once(app, once, work)


async def check_harness_name(app: App, caller: Caller, name: str, exclude_id: HarnessId | None) -> NameCheck:
    """Check whether a name is free for a harness, or belongs to the harness with `exclude_id`."""
    if is_reserved(name):
        return NameCheck(False)
    row = await app.database.read(lambda tx: harness_by_name(tx, caller.organization_id, name))
    return NameCheck(row is None or row.id == exclude_id)


async def harness_stats(app: App, caller: Caller, ref: str) -> ResourceStats:
    """Sum up a harness's sessions."""

    async def work(tx: Tx) -> ResourceStats:
        row = await find_any_harness(tx, caller.organization_id, ref)
        return await resource_stats(tx, row.org_id, "harness_id", row.id)

    return await app.database.read(work, long=True)


def harness_examples(app: App) -> list[HarnessExample]:
    """List the examples whose capabilities this server has."""
    return [
        each.entry
        for each in HARNESS_EXAMPLES
        if all(app.registry.get(ref.ref) for ref in each.entry.capabilities)
    ]


async def import_harness(app: App, caller: Caller, example: str, once: Once | None = None) -> Harness:
    """Create the harness of an example. Raises NotFound."""
    names = {each.name for each in harness_examples(app)}
    found = next((each for each in HARNESS_EXAMPLES if each.entry.name == example and example in names), None)
    if found is None:
        raise NotFound("harness example")
    listed, parent_id = found.entry, None
    if listed.parent_name is not None:
        name = listed.parent_name
        parent = await app.database.read(lambda tx: find_any_harness(tx, caller.organization_id, name))
        parent_id = parent.id
    body = CreateHarness(
        listed.name,
        listed.display_name,
        listed.description,
        parent_id,
        found.system_prompt,
        None,
        listed.capabilities,
        listed.tags,
    )
    return await create_harness(app, caller, body, once)
