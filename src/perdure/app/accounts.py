"""Organizations, their members, users' own accounts, and the setup of a new installation."""

from __future__ import annotations

import msgspec
from msgspec import UNSET

from perdure.app.context import App
from perdure.app.harnesses import add_built_in_harnesses, follow_built_in_harnesses
from perdure.app.idempotency import Once, write_once
from perdure.app.login import makers_of, to_token
from perdure.app.sessions import check_fallbacks, check_model, find_harness
from perdure.domain.accounts import (
    RANK,
    AddUser,
    Caller,
    CreateOrganization,
    DeletedAccount,
    ExportedOrganization,
    ExportedUser,
    Identity,
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
    require_above,
    require_own_token,
)
from perdure.domain.errors import Conflict, InvalidInput, NotFound
from perdure.domain.ids import OrgId, UserId, check_id
from perdure.domain.times import Micros, maybe_rfc3339, to_rfc3339
from perdure.domain.visible import check_labels
from perdure.store.accounts import (
    OrganizationRow,
    UserRow,
    add_organization,
    add_user,
    delete_user,
    end_membership,
    first_organization,
    former_member,
    get_organization,
    get_user,
    has_member,
    lock_organization,
    members_of,
    memberships_of,
    organization_holding,
    owners_of,
    rename_user,
    revoke_outranked,
    set_membership,
    tokens_of,
    update_organization,
)
from perdure.store.connections import remove_connections_of_user
from perdure.store.database import Changes, Tx
from perdure.store.invitations import delete_invitations_of
from perdure.store.locks import Lock, hold
from perdure.store.rows import to_json


async def bootstrap(app: App) -> Caller:
    """Create the first organization with an owner and the built-in harnesses, unless one exists.

    Also updates the built-in harnesses of all organizations to those of this version.

    Returns:
        The owner of the first organization, as a caller.
    """
    now = app.now()

    async def work(tx: Tx) -> Caller:
        await hold(tx, Lock.BOOTSTRAP)
        first = await first_organization(tx)
        if first is None:
            user = UserRow(app.new_id("user"), "Owner", "owner@localhost", now)
            await add_user(tx, user)
            org_id = await _add_organization(app, tx, "Default", user.id, now)
            return Caller(org_id, user.id, "owner")
        await follow_built_in_harnesses(tx, now)
        owners = await owners_of(tx, first.id)
        return Caller(first.id, owners[0] if owners else UserId(""), "owner")

    return await app.database.write(work)


async def _add_organization(app: App, tx: Tx, name: str, owner_id: UserId, now: Micros) -> OrgId:
    """Create an organization with its data key and the built-in harnesses; return its id."""
    org_id = app.new_id("org")
    await add_organization(tx, OrganizationRow(org_id, name, None, None, None, now, now))
    await set_membership(tx, org_id, owner_id, "owner", now)
    await app.vault.add_org(tx, org_id, now)
    await add_built_in_harnesses(app, tx, org_id, now)
    return org_id


def to_organization(row: OrganizationRow) -> Organization:
    """Convert a row to the resource that clients see."""
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
        row.fallback_ids(),
    )


async def all_organizations(app: App, caller: Caller) -> list[Organization]:
    """List the caller's organizations."""

    async def work(tx: Tx) -> list[Organization]:
        rows = [await get_organization(tx, org_id) for org_id, _ in await _memberships(tx, caller)]
        return [to_organization(row) for row in rows if row is not None]

    return await app.database.read(work)


async def create_organization(
    app: App, caller: Caller, body: CreateOrganization, once: Once | None = None
) -> Organization:
    """Create an organization that the caller owns."""
    require_own_token(caller)
    now = app.now()

    async def work(tx: Tx) -> Organization:
        org_id = await _add_organization(app, tx, body.name, caller.user_id, now)
        return to_organization(OrganizationRow(org_id, body.name, None, None, None, now, now))

    return await write_once(app, once, work)


async def _memberships(tx: Tx, caller: Caller) -> list[tuple[OrgId, UserRole]]:
    """Return the organizations that the caller's token gives access to, with the caller's role in each."""
    memberships = await memberships_of(tx, caller.user_id)
    if not caller.bound:
        return memberships
    return [(org_id, role) for org_id, role in memberships if org_id == caller.organization_id]


async def own_organization(tx: Tx, caller: Caller, org_id: str) -> tuple[OrganizationRow, UserRole]:
    """Return one of the caller's organizations and the caller's role in it. Raises NotFound."""
    org_id = check_id(org_id, "org", "org")
    roles = dict(await _memberships(tx, caller))
    row = await get_organization(tx, org_id) if org_id in roles else None
    if row is None:
        raise NotFound("organization")
    return row, roles[org_id]


async def read_organization(app: App, caller: Caller, org_id: OrgId) -> Organization:
    """Read one of the caller's organizations. Raises NotFound."""

    async def work(tx: Tx) -> Organization:
        return to_organization((await own_organization(tx, caller, org_id))[0])

    return await app.database.read(work)


async def change_organization(
    app: App, caller: Caller, org_id: OrgId, body: UpdateOrganization
) -> Organization:
    """Change the fields of an organization that the body contains; admins only."""
    now = app.now()

    async def work(tx: Tx) -> Organization:
        row, role = await own_organization(tx, caller, org_id)
        require(Caller(org_id, caller.user_id, role), "admin")
        changes: Changes = {}
        if body.name is not UNSET:
            changes["name"] = body.name
        if body.default_model_id is not UNSET:
            if isinstance(body.default_model_id, str):
                await check_model(tx, org_id, body.default_model_id, "default_model_id")
            changes["default_model_id"] = body.default_model_id
        if body.fallback_models is not UNSET:
            await check_fallbacks(tx, org_id, body.fallback_models or ())
            changes["fallback_models"] = to_json(body.fallback_models or ())
        if body.default_harness_id is not UNSET and body.default_harness_name is not UNSET:
            raise InvalidInput(
                "set either `default_harness_id` or `default_harness_name`, not both",
                field="default_harness_id",
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
        return await _apply(tx, row, changes, now)

    return await app.database.write(work)


async def _apply(tx: Tx, row: OrganizationRow, changes: Changes, now: Micros) -> Organization:
    if changes:
        changes["updated_at"] = max(now, row.updated_at + 1)
        await update_organization(tx, row.id, changes)
    return to_organization(msgspec.structs.replace(row, **changes))


async def complete_onboarding(app: App, caller: Caller, org_id: OrgId) -> Organization:
    """Record that the organization has been set up. Idempotent; admins only."""
    now = app.now()

    async def work(tx: Tx) -> Organization:
        row, role = await own_organization(tx, caller, org_id)
        require(Caller(org_id, caller.user_id, role), "admin")
        done = row.onboarding_completed_at is not None
        return await _apply(tx, row, {} if done else {"onboarding_completed_at": now}, now)

    return await app.database.write(work)


def to_user(row: UserRow, role: UserRole) -> User:
    """Convert a row to the user that the organization's members see."""
    return User(row.id, row.name, row.email, (role,), to_rfc3339(row.created_at))


async def all_users(app: App, caller: Caller, search: str | None) -> list[User]:
    """List the organization's members, or those whose name or address contains `search`."""
    members = await app.database.read(lambda tx: members_of(tx, caller.organization_id, search))
    return [to_user(row, role) for row, role in members]


async def add_member(app: App, caller: Caller, body: AddUser, once: Once | None = None) -> User:
    """Add a member: a new user, or one whom this organization removed earlier.

    The e-mail address is not looked up elsewhere, so that nothing tells whether another organization knows
    it. Who has an account joins with it by accepting an invitation.

    Admins only. Callers cannot grant a role above their own.
    """
    require(caller, "admin")
    require(caller, body.role)
    check_labels(body, "email")
    now = app.now()

    async def work(tx: Tx) -> User:
        org_id = caller.organization_id
        await lock_organization(tx, org_id)
        if await has_member(tx, org_id, body.email):
            raise Conflict(f"{body.email} is already a member of the organization", code="already_member")
        row = await former_member(tx, org_id, body.email)
        if row is None:
            row = UserRow(app.new_id("user"), body.name, body.email, now, org_id)
            await add_user(tx, row)
        await set_membership(tx, caller.organization_id, row.id, body.role, now)
        return to_user(row, body.role)

    return await write_once(app, once, work)


async def read_member(app: App, caller: Caller, user_id: UserId) -> User:
    """Read one of the organization's members. Raises NotFound."""

    async def work(tx: Tx) -> User:
        role = await _role_of(tx, caller, user_id)
        return to_user(await get_user(tx, user_id), role)

    return await app.database.read(work)


async def _role_of(tx: Tx, caller: Caller, user_id: UserId) -> UserRole:
    """Return a member's role in the caller's organization. Raises NotFound."""
    role = dict(await memberships_of(tx, user_id)).get(caller.organization_id)
    if role is None:
        raise NotFound("user")
    return role


async def change_member(app: App, caller: Caller, user_id: UserId, body: UpdateUser) -> User:
    """Change a member's role. Tokens whose makers are below it, or no longer above others', are revoked.

    Admins only. Callers cannot grant a role above their own, or change members above them.
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
        await check_not_last(tx, caller.organization_id, user_id, role)
        await set_membership(tx, caller.organization_id, user_id, body.role, now)
        await revoke_outranked(tx, caller.organization_id, user_id, now)
        if RANK[body.role] < RANK[role]:
            await delete_invitations_of(tx, caller.organization_id, user_id)
        return to_user(row, body.role)

    return await app.database.write(work)


async def remove_member(app: App, caller: Caller, user_id: UserId) -> None:
    """Remove a member from the organization; callers who remove themselves leave it.

    Admins only, except for leaving. Callers cannot remove members above them. The member's tokens stop
    working, and so do those that it made for others, except for owners if the member leaves on its own.
    """
    now = app.now()

    async def work(tx: Tx) -> None:
        await lock_organization(tx, caller.organization_id)
        role = await _role_of(tx, caller, user_id)
        if user_id != caller.user_id:
            require(caller, "admin")
            require(caller, role)
        await check_not_last(tx, caller.organization_id, user_id, role)
        handover = user_id == caller.user_id
        await end_membership(tx, caller.organization_id, user_id, now, handover=handover)
        await delete_invitations_of(tx, caller.organization_id, user_id)
        await remove_connections_of_user(tx, caller.organization_id, user_id)

    await app.database.write(work)


async def check_not_last(tx: Tx, org_id: OrgId, user_id: UserId, role: UserRole) -> None:
    """Refuse to remove the organization's last owner, or the owner's role.

    The caller has locked the organization's row, which serializes concurrent departures.
    """
    if role == "owner" and await owners_of(tx, org_id) == [user_id]:
        raise Conflict(
            "an organization needs an owner, and this is its last one: make another member an owner first",
            code="last_owner",
        )


async def member_caller(app: App, caller: Caller, user_id: UserId) -> Caller:
    """Return a member of the organization as a caller, to create a token for it.

    Admins only, and only for members below them or for themselves: the one who creates a token can use it.
    """
    require(caller, "admin")

    async def work(tx: Tx) -> Caller:
        role = await _role_of(tx, caller, user_id)
        if user_id != caller.user_id:
            require_above(caller, role)
        # The admin who creates the token sees it, so it must not give access to the member's other
        # organizations.
        return Caller(caller.organization_id, user_id, role, bound=True, makers=makers_of(caller))

    return await app.database.read(work)


async def read_profile(app: App, caller: Caller) -> Profile:
    """Read the caller's own account."""
    row = await app.database.read(lambda tx: get_user(tx, caller.user_id))
    return Profile(row.id, row.name, row.email)


async def read_identity(app: App, caller: Caller) -> Identity:
    """Return the caller's account, organization and role."""
    profile = await read_profile(app, caller)
    organization = await app.database.read(lambda tx: get_organization(tx, caller.organization_id))
    if organization is None:
        raise NotFound("organization")
    return Identity(
        profile.id, profile.name, profile.email, organization.id, organization.name, caller.role, ("*",)
    )


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
    """Delete the caller's account.

    Raises:
        Conflict: the caller is the last owner of an organization.
    """
    require_own_token(caller)
    now = app.now()

    async def work(tx: Tx) -> DeletedAccount:
        for org_id, _ in sorted(await memberships_of(tx, caller.user_id)):
            await lock_organization(tx, org_id)
        memberships = await memberships_of(tx, caller.user_id)
        for org_id, role in memberships:
            await check_not_last(tx, org_id, caller.user_id, role)
        await delete_user(tx, caller.user_id)
        await remove_connections_of_user(tx, None, caller.user_id)
        for org_id, _ in memberships:
            await revoke_outranked(tx, org_id, caller.user_id, now, handover=True)
            await delete_invitations_of(tx, org_id, caller.user_id)
        return DeletedAccount(True)

    return await app.database.write(work)


async def export_account(app: App, caller: Caller) -> ExportedUser:
    """Export all that is stored about the caller's account."""
    require_own_token(caller)

    async def work(tx: Tx) -> ExportedUser:
        row = await get_user(tx, caller.user_id)
        memberships = await memberships_of(tx, row.id)
        rows = [(await get_organization(tx, org_id), role) for org_id, role in memberships]
        organizations = tuple(
            ExportedOrganization(organization.id, organization.name, role)
            for organization, role in rows
            if organization is not None
        )
        tokens = tuple(to_token(token) for token in await tokens_of(tx, row.id))
        return ExportedUser(to_rfc3339(app.now()), to_user(row, caller.role), organizations, tokens)

    return await app.database.read(work)


async def switch_organization(app: App, caller: Caller, org_id: OrgId) -> SwitchedOrganization:
    """Check that the caller is a member of an organization. Raises NotFound.

    Nothing is stored: each request chooses its organization with `X-Org-Id`.
    """

    async def work(tx: Tx) -> SwitchedOrganization:
        return SwitchedOrganization((await own_organization(tx, caller, org_id))[0].id, True)

    return await app.database.read(work)


async def resolve_organization(app: App, caller: Caller, resource_id: str) -> ResolvedOrganization:
    """Return the organization that a resource belongs to, if it is one of the caller's. Raises NotFound."""

    async def work(tx: Tx) -> ResolvedOrganization:
        org_id = (
            resource_id if resource_id.startswith("org_") else await organization_holding(tx, resource_id)
        )
        if org_id is None:
            raise NotFound("resource")
        row, _ = await own_organization(tx, caller, org_id)
        return ResolvedOrganization(row.id, row.name)

    return await app.database.read(work)
