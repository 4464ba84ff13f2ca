"""What the audit log shows of values, and how it reads statements."""

from __future__ import annotations

import pytest

from perdure.domain.audit_values import MAX_FIELD, changed_fields, is_secret, shown_fields, shown_name
from perdure.domain.messages import JsonObject
from perdure.store.audit_changes import _statement


def shown(fields: JsonObject, *, whole: bool = False) -> JsonObject:
    return shown_fields(fields, lambda value: "digest", whole=whole)


SECRET = "correct-horse-battery"


@pytest.mark.parametrize(
    "fields",
    [
        {"api_key": SECRET},
        {"config": {"apiKey": SECRET}},
        {"headers": {"X-Anything": SECRET}},
        {"servers": [{"headers": {"X-Anything": SECRET, "more": [SECRET]}}]},
        {"oauth": {"client_secret": SECRET}},
        {"password": SECRET},
        {"env": {"HOME": SECRET}},
        {"url": f"https://hooks.invalid/path?key={SECRET}"},
        {"url": f"https://hooks.invalid/path#{SECRET}"},
        {"url": f"https://ada:{SECRET}@hooks.invalid/path"},
        {"note": "use Bearer abcdefghijklmnop"},
        {"note": "use sk-abcdefghijklmnop"},
        {"token": {"a": {"b": SECRET}}},
    ],
)
@pytest.mark.parametrize("whole", [False, True])
def test_no_secret_is_shown(fields: JsonObject, whole: bool) -> None:
    found = str(shown(fields, whole=whole))
    assert SECRET not in found
    assert "abcdefghijklmnop" not in found


def test_numbers_are_shown_unless_their_name_says_that_they_are_secret() -> None:
    assert shown({"max_tokens": 5, "api_key_set": 1, "limit": 2.5, "enabled": True}) == {
        "max_tokens": 5,
        "api_key_set": 1,
        "limit": 2.5,
        "enabled": True,
    }
    assert shown({"password": 1234}) == {"password": "digest"}


def test_what_is_no_secret_is_shown_as_it_is() -> None:
    fields = {"name": "a", "capabilities": [{"ref": "current_time", "config": {"zone": "UTC"}}], "x": None}
    assert shown(fields) == fields
    assert not any(map(is_secret, ("name", "header_names", "auth_mode", "description", "monkey")))


def test_long_values_are_cut_and_large_ones_are_digests() -> None:
    found = shown({"system_prompt": "x" * 5000, "files": ["y" * 900] * 20})
    assert found["system_prompt"] == "x" * 1000 + "... (5000 characters, digest)"
    assert found["files"] == {"bytes": 18_061, "digest": "digest"}
    assert len(str(shown({"deep": {"a": ["y" * 900] * 20}}))) < MAX_FIELD
    assert shown({"system_prompt": "x" * 5000}, whole=True) == {"system_prompt": "x" * 5000}


def test_deep_values_end_in_digests() -> None:
    deep: JsonObject = {}
    for _ in range(400):
        deep = {"a": deep, "b": [SECRET]}
    assert len(str(shown({"deep": deep}))) < 2000


def test_only_fields_that_differ_are_compared_and_null_is_like_nothing() -> None:
    before, after = changed_fields({"a": 1, "b": None, "c": "x"}, {"a": True, "c": "x", "d": None})
    assert (before, after) == ({"a": 1}, {"a": True})
    assert changed_fields(None, {"a": 1}) == ({"a": None}, {"a": 1})
    assert changed_fields({"a": 1}, None) == ({"a": 1}, {"a": None})


def test_statements_are_read() -> None:
    found = _statement(
        "UPDATE agents SET a = ?, b = (SELECT 1 WHERE 1 = ?) WHERE id = ? AND x IN (?, ?)", "agents"
    )
    assert found is not None
    assert (found.kind, found.where, found.skipped) == ("update", "id = ? AND x IN (?, ?)", 2)
    found = _statement("UPDATE agents SET a = ' WHERE ' WHERE id = ? RETURNING id, name", "agents")
    assert found is not None
    assert (found.where, found.skipped) == ("id = ?", 0)
    found = _statement("DELETE FROM agents WHERE id = ?", "agents")
    assert found is not None
    assert (found.kind, found.where) == ("delete", "id = ?")
    found = _statement("DELETE FROM agents", "agents")
    assert found is not None
    assert found.where == ""
    found = _statement("INSERT INTO agents (id, org_id) VALUES (?, ?) ON CONFLICT DO NOTHING", "agents")
    assert found is not None
    assert (found.kind, found.columns) == ("insert", ("id", "org_id"))
    found = _statement("INSERT INTO agents (id, n) SELECT id, 2 FROM old WHERE id = ?", "agents")
    assert found is not None
    assert (found.kind, found.where) == ("select", "SELECT id, 2 FROM old WHERE id = ?")
    assert _statement("SELECT * FROM agents WHERE name = 'UPDATE'", "agents") is None
    assert _statement("UPDATE agents_old SET a = 1", "agents") is None


@pytest.mark.parametrize(
    "sql", ["WITH x AS (SELECT 1) UPDATE agents SET a = 1", "INSERT INTO agents DEFAULT VALUES"]
)
def test_a_statement_that_cannot_be_followed_is_an_error(sql: str) -> None:
    with pytest.raises(RuntimeError, match="cannot follow"):
        _statement(sql, "agents")


def test_a_name_that_is_a_url_has_neither_its_user_nor_its_query() -> None:
    assert shown_name("https://me:pw@h.invalid/a@b?token=x#y") == "https://...@h.invalid/a@b?..."
    assert shown_name("HTTPS://token@h.invalid") == "HTTPS://...@h.invalid"
    assert shown_name("https://h.invalid/a@b") == "https://h.invalid/a@b"
    assert shown_name("https://h.invalid\n?token=x") == "https://h.invalid\\n?..."
    assert shown_name("Bob @ work? sk-12345678abc") == "Bob @ work? [redacted]"
