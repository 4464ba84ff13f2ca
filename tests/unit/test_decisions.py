"""Who may decide on a call: what several layers say together, and whether a change loosens it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from perdure.capabilities.policy import Policy, loosens
from perdure.capabilities.registry import Registry
from perdure.domain.accounts import Caller, UserRole
from perdure.domain.decisions import ANYBODY, Approvers
from perdure.domain.ids import OrgId, UserId
from perdure.domain.network import NetworkRules
from perdure.tools.tool_approval import TOOL_APPROVAL

USERS = tuple(UserId(f"user_{digit * 32}") for digit in "abc")
ROLES: tuple[UserRole, ...] = ("member", "admin", "owner")
CALLERS = [Caller(OrgId("org"), user, role) for user in USERS for role in ROLES]

approvers = st.builds(
    Approvers,
    st.booleans(),
    st.sampled_from([None, *ROLES]),
    st.none() | st.lists(st.sampled_from(USERS), unique=True).map(tuple),
)


def included(those: Approvers) -> set[tuple[int, UserId]]:
    """Whom they include, by caller and the session's owner."""
    return {
        (index, owner)
        for index, caller in enumerate(CALLERS)
        for owner in USERS
        if those.include(caller, owner)
    }


@given(approvers, approvers)
def test_both_are_exactly_those_whom_each_includes(one: Approvers, other: Approvers) -> None:
    assert included(one.both(other)) == included(one) & included(other)
    assert one.both(other).within(one)
    assert one.both(other).within(other)


@given(approvers, approvers)
def test_what_is_within_includes_nobody_else(one: Approvers, other: Approvers) -> None:
    if one.within(other):
        assert included(one) <= included(other)


def test_layers_only_tighten_who_may_approve() -> None:
    role, users = {"approvers": {"role": "admin"}}, {"approvers": {"users": [USERS[0], USERS[1]]}}
    merged = TOOL_APPROVAL.merge(role, users)
    assert merged["approvers"] == {"role": "admin", "users": [USERS[0], USERS[1]]}
    assert TOOL_APPROVAL.approvers(TOOL_APPROVAL.merge(merged, {"approvers": "any_member"})) == Approvers(
        role="admin", users=USERS[:2]
    )
    assert TOOL_APPROVAL.merge(None, {"mode": "off"}) is None
    assert TOOL_APPROVAL.approvers(None) == ANYBODY
    strict = TOOL_APPROVAL.merge({"mode": "protective"}, {"approvers": "owner"})
    assert strict == {"mode": "protective", "approvers": {"owner": True}}


def test_to_let_more_people_approve_loosens_a_policy() -> None:
    none = Registry(())
    owner = Policy((), frozenset(), NetworkRules(), Approvers(owner=True))
    anybody = Policy((), frozenset(), NetworkRules(), ANYBODY)
    assert loosens(owner, anybody, none)
    assert not loosens(anybody, owner, none)


@pytest.mark.parametrize(
    ("those", "words"),
    [
        (ANYBODY, "any member"),
        (
            Approvers(owner=True, role="admin"),
            "the session's owner, who is also a member with the role admin",
        ),
        (Approvers(users=()), "nobody"),
    ],
)
def test_an_error_says_who_may_decide(those: Approvers, words: str) -> None:
    assert words in str(those)
