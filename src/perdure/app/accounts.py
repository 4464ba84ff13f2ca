"""Organizations and their users; and what a fresh installation begins with."""

from __future__ import annotations

import msgspec
from msgspec import UNSET

from perdure.app.context import App
from perdure.app.harnesses import add_built_in_harnesses, follow_built_in_harnesses
from perdure.app.idempotency import Once, write_once
from perdure.app.login import to_token
from perdure.app.sessions import check_model, find_harness
from perdure.domain.accounts import (
    AddUser,
    Caller,
    CreateOrganization,
    DeletedAccount,
    ExportedOrganization,
    ExportedUser,
    Organization,
    Profile,
    ResolvedOrganization,
    SwitchedOrganization,
    UpdateOrganization,
    UpdateProfile,
    UpdateUser,
    User,
    UserRole,
    require,
    require_own_token,
)
from perdure.domain.errors import Conflict, InvalidInput, NotFound
from perdure.domain.ids import OrgId, UserId, check_id
from perdure.domain.times import Micros, maybe_rfc3339, to_rfc3339
from perdure.store.accounts import (
    OrganizationRow,
    UserRow,
    add_organization,
    add_user,
    delete_user,
    end_membership,
    first_organization,
    get_organization,
    get_user,
    lock_organization,
    members_of,
    memberships_of,
    organization_holding,
    owners_of,
    rename_user,
    set_membership,
    tokens_of,
    update_organization,
    user_by_email,
)
from perdure.store.database import Changes, Tx
from perdure.store.locks import Lock, hold


async def bootstrap(app: App) -> Caller:
    """Make the first organization, its owner and the built-in harnesses, if there is none; the owner.

    The built-in harnesses of all organizations follow the code.
    """
    now = app.now()

    async def work(tx: Tx) -> Caller:
        await hold(tx, Lock.BOOTSTRAP)
        found = await first_organization(tx)
        if found is None:
            user = UserRow(app.new_id("user"), "Owner", "owner@localhost", now)
            await add_user(tx, user)
            org_id = await _found(app, tx, "Default", user.id, now)
            return Caller(org_id, user.id, "owner")
        await follow_built_in_harnesses(tx, now)
        owners = await owners_of(tx, found.id)
        return Caller(found.id, owners[0] if owners else UserId(""), "owner")

    return await app.database.write(work)


async def _found(app: App, tx: Tx, name: str, owner_id: UserId, now: Micros) -> OrgId:
    """Make an organization with its data key and built-in harnesses; its id."""
    org_id = app.new_id("org")
    await add_organization(tx, OrganizationRow(org_id, name, None, None, None, now, now))
    await set_membership(tx, org_id, owner_id, "owner", now)
    await app.vault.add_org(tx, org_id, now)
    await add_built_in_harnesses(app, tx, org_id, now)
    return org_id


def to_organization(row: OrganizationRow) -> Organization:
    """The row as clients see it."""
    return Organization(
        row.id,
        row.name,
        to_rfc3339(row.created_at),
        to_rfc3339(row.updated_at),
        {},
        row.default_model_id,
        row.default_harness_id,
        None,
        maybe_rfc3339(row.onboarding_completed_at),
    )


async def all_organizations(app: App, caller: Caller) -> list[Organization]:
    """The caller's organizations."""

    async def work(tx: Tx) -> list[Organization]:
        found = [await get_organization(tx, org_id) for org_id, _ in await _memberships(tx, caller)]
        return [to_organization(row) for row in found if row is not None]

    return await app.database.read(work)


async def create_organization(
    app: App, caller: Caller, body: CreateOrganization, once: Once | None = None
) -> Organization:
    """Make an organization that the caller owns."""
    require_own_token(caller)
    now = app.now()

    async def work(tx: Tx) -> Organization:
        org_id = await _found(app, tx, body.name, caller.user_id, now)
        return to_organization(OrganizationRow(org_id, body.name, None, None, None, now, now))

    return await write_once(app, once, work)


async def _memberships(tx: Tx, caller: Caller) -> list[tuple[OrgId, UserRole]]:
    """The organizations that the caller's token reaches, with the role in each."""
    found = await memberships_of(tx, caller.user_id)
    return [each for each in found if each[0] == caller.organization_id] if caller.bound else found


async def _own(tx: Tx, caller: Caller, org_id: str) -> tuple[OrganizationRow, UserRole]:
    """One of the caller's organizations and the caller's role in it. Raises NotFound."""
    org_id = check_id(org_id, "org", "org")
    roles = dict(await _memberships(tx, caller))
    row = await get_organization(tx, org_id) if org_id in roles else None
    if row is None:
        raise NotFound("organization")
    return row, roles[org_id]


async def read_organization(app: App, caller: Caller, org_id: OrgId) -> Organization:
    """One of the caller's organizations."""

    async def work(tx: Tx) -> Organization:
        return to_organization((await _own(tx, caller, org_id))[0])

    return await app.database.read(work)


async def change_organization(
    app: App, caller: Caller, org_id: OrgId, body: UpdateOrganization
) -> Organization:
    """Change what the caller named, and nothing else; admins only."""
    now = app.now()

    async def work(tx: Tx) -> Organization:
        row, role = await _own(tx, caller, org_id)
        require(Caller(org_id, caller.user_id, role), "admin")
        changes: Changes = {}
        if body.name is not UNSET:
            changes["name"] = body.name
        if body.default_model_id is not UNSET:
            if isinstance(body.default_model_id, str):
                await check_model(tx, org_id, body.default_model_id, "default_model_id")
            changes["default_model_id"] = body.default_model_id
        if body.default_harness_id is not UNSET and body.default_harness_name is not UNSET:
            raise InvalidInput(
                "give `default_harness_id` or `default_harness_name`, not both", field="default_harness_id"
            )
        if isinstance(body.default_harness_id, str):
            changes["default_harness_id"] = (
                await find_harness(tx, org_id, body.default_harness_id, None, "default_harness_id")
            ).id
        elif isinstance(body.default_harness_name, str):
            changes["default_harness_id"] = (
                await find_harness(tx, org_id, None, body.default_harness_name, "default_harness_name")
            ).id
        elif body.default_harness_id is None:
            changes["default_harness_id"] = None
        return await _changed(tx, row, changes, now)

    return await app.database.write(work)


async def _changed(tx: Tx, row: OrganizationRow, changes: Changes, now: Micros) -> Organization:
    if changes:
        changes["updated_at"] = max(now, row.updated_at + 1)
        await update_organization(tx, row.id, changes)
    return to_organization(msgspec.structs.replace(row, **changes))


async def complete_onboarding(app: App, caller: Caller, org_id: OrgId) -> Organization:
    """Remember that the organization has been set up; saying it twice is fine."""
    now = app.now()

    async def work(tx: Tx) -> Organization:
        row, role = await _own(tx, caller, org_id)
        require(Caller(org_id, caller.user_id, role), "admin")
        done = row.onboarding_completed_at is not None
        return await _changed(tx, row, {} if done else {"onboarding_completed_at": now}, now)

    return await app.database.write(work)


def to_user(row: UserRow, role: UserRole) -> User:
    """The row as the organization's members see it."""
    return User(row.id, row.name, row.email, (role,), to_rfc3339(row.created_at))


async def all_users(app: App, caller: Caller, search: str | None) -> list[User]:
    """The organization's users."""
    found = await app.database.read(lambda tx: members_of(tx, caller.organization_id, search))
    return [to_user(row, role) for row, role in found]


async def add_member(app: App, caller: Caller, body: AddUser, once: Once | None = None) -> User:
    """Make a user, or let a known one in; admins only, and nobody grants more than they have."""
    require(caller, "admin")
    require(caller, body.role)
    now = app.now()

    async def work(tx: Tx) -> User:
        row = await user_by_email(tx, body.email)
        if row is None:
            row = UserRow(app.new_id("user"), body.name, body.email, now)
            await add_user(tx, row)
        elif any(org_id == caller.organization_id for org_id, _ in await memberships_of(tx, row.id)):
            raise Conflict("this user is a member already", code="already_member")
        await set_membership(tx, caller.organization_id, row.id, body.role, now)
        return to_user(row, body.role)

    return await write_once(app, once, work)


async def read_member(app: App, caller: Caller, user_id: UserId) -> User:
    """One of the organization's users."""

    async def work(tx: Tx) -> User:
        role = await _role_of(tx, caller, user_id)
        return to_user(await get_user(tx, user_id), role)

    return await app.database.read(work)


async def _role_of(tx: Tx, caller: Caller, user_id: UserId) -> UserRole:
    """What a member of the caller's organization is there. Raises NotFound."""
    role = dict(await memberships_of(tx, user_id)).get(caller.organization_id)
    if role is None:
        raise NotFound("user")
    return role


async def change_member(app: App, caller: Caller, user_id: UserId, body: UpdateUser) -> User:
    """Change what a member is.

    Admins only, nobody grants more than they have or changes who is above them.
    """
    now = app.now()

    async def work(tx: Tx) -> User:
        await lock_organization(tx, caller.organization_id)
        role = await _role_of(tx, caller, user_id)
        require(caller, "admin")
        require(caller, role)
        row = await get_user(tx, user_id)
        if body.role is UNSET or body.role == role:
            return to_user(row, role)
        require(caller, body.role)
        await _check_not_last(tx, caller.organization_id, user_id, role)
        await set_membership(tx, caller.organization_id, user_id, body.role, now)
        return to_user(row, body.role)

    return await app.database.write(work)


async def remove_member(app: App, caller: Caller, user_id: UserId) -> None:
    """Put a member out of the organization, or leave it.

    Admins only, except for leaving, and not who is above them.
    """
    now = app.now()

    async def work(tx: Tx) -> None:
        await lock_organization(tx, caller.organization_id)
        role = await _role_of(tx, caller, user_id)
        if user_id != caller.user_id:
            require(caller, "admin")
            require(caller, role)
        await _check_not_last(tx, caller.organization_id, user_id, role)
        await end_membership(tx, caller.organization_id, user_id, now)

    await app.database.write(work)


async def _check_not_last(tx: Tx, org_id: OrgId, user_id: UserId, role: UserRole) -> None:
    """Keep an owner in the organization, whose row the caller has locked.

    Of two owners who go at once, one comes second.
    """
    if role == "owner" and await owners_of(tx, org_id) == [user_id]:
        raise Conflict("an organization needs an owner, and this is the last one", code="last_owner")


async def member_caller(app: App, caller: Caller, user_id: UserId) -> Caller:
    """Act for a member of the organization (to make a token for it).

    Admins only, and not for someone above them.
    """
    require(caller, "admin")

    async def work(tx: Tx) -> Caller:
        role = await _role_of(tx, caller, user_id)
        require(caller, role)
        # Who makes a token knows it: it must not open what else the member belongs to.
        return Caller(caller.organization_id, user_id, role, bound=True)

    return await app.database.read(work)


async def read_profile(app: App, caller: Caller) -> Profile:
    """The caller's own account."""
    row = await app.database.read(lambda tx: get_user(tx, caller.user_id))
    return Profile(row.id, row.name, row.email)


async def change_profile(app: App, caller: Caller, body: UpdateProfile) -> Profile:
    """Rename the caller."""
    require_own_token(caller)

    async def work(tx: Tx) -> Profile:
        row = await get_user(tx, caller.user_id)
        if body.name is UNSET:
            return Profile(row.id, row.name, row.email)
        await rename_user(tx, row.id, body.name)
        return Profile(row.id, body.name, row.email)

    return await app.database.write(work)


async def delete_account(app: App, caller: Caller) -> DeletedAccount:
    """Remove the caller's account. The only owner of an organization has to hand it over first."""
    require_own_token(caller)

    async def work(tx: Tx) -> DeletedAccount:
        for org_id, _ in sorted(await memberships_of(tx, caller.user_id)):
            await lock_organization(tx, org_id)
        for org_id, role in await memberships_of(tx, caller.user_id):
            await _check_not_last(tx, org_id, caller.user_id, role)
        await delete_user(tx, caller.user_id)
        return DeletedAccount(True)

    return await app.database.write(work)


async def export_account(app: App, caller: Caller) -> ExportedUser:
    """Everything that is kept about the caller's account."""
    require_own_token(caller)

    async def work(tx: Tx) -> ExportedUser:
        row = await get_user(tx, caller.user_id)
        memberships = await memberships_of(tx, row.id)
        named = [(await get_organization(tx, org_id), role) for org_id, role in memberships]
        organizations = tuple(
            ExportedOrganization(each.id, each.name, role) for each, role in named if each is not None
        )
        tokens = tuple(to_token(each) for each in await tokens_of(tx, row.id))
        return ExportedUser(to_rfc3339(app.now()), to_user(row, caller.role), organizations, tokens)

    return await app.database.read(work)


async def switch_organization(app: App, caller: Caller, org_id: OrgId) -> SwitchedOrganization:
    """Say whether the caller may work in an organization.

    Requests choose it with `X-Org-Id`, nothing is remembered.
    """

    async def work(tx: Tx) -> SwitchedOrganization:
        return SwitchedOrganization((await _own(tx, caller, org_id))[0].id, True)

    return await app.database.read(work)


async def resolve_organization(app: App, caller: Caller, resource_id: str) -> ResolvedOrganization:
    """The organization that holds a resource, if it is one of the caller's. Raises NotFound."""

    async def work(tx: Tx) -> ResolvedOrganization:
        org_id = (
            resource_id if resource_id.startswith("org_") else await organization_holding(tx, resource_id)
        )
        if org_id is None:
            raise NotFound("resource")
        row, _ = await _own(tx, caller, org_id)
        return ResolvedOrganization(row.id, row.name)

    return await app.database.read(work)
