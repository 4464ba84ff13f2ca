"""A session's SQL databases: what they can do, and that nothing leaves them."""

from __future__ import annotations

import json

import httpx
import pytest

from perdure.domain.errors import ToolError
from perdure.sandbox.sql import run_sql
from tests.talk import Json, Talk, call, new_talk


def values_in(events: list[Json]) -> list[Json]:
    return [
        json.loads(event["data"]["result"][0]["text"])
        for event in events
        if event["type"] == "tool.completed"
    ]


async def new_sql_talk(api: httpx.AsyncClient) -> Talk:
    return await new_talk(api, capabilities=[{"ref": "session_sql_database"}])


async def test_the_model_creates_fills_and_queries_a_table(api: httpx.AsyncClient) -> None:
    talk = await new_sql_talk(api)
    steps = [
        {"tool_calls": [call("sql_execute", sql="create table orders (id integer primary key, item text)")]},
        {
            "tool_calls": [
                call("sql_execute", sql="insert into orders (item) values (?), (?)", params=["tea", "it's"])
            ]
        },
        {"tool_calls": [call("sql_query", sql="select * from orders order by id"), call("sql_schema")]},
    ]
    made, filled, asked, schema = values_in(await talk.turn(*steps, {"text": "Done."}))
    assert made["rows_affected"] == 0
    assert (filled["rows_affected"], filled["last_row_id"]) == (2, 2)
    assert asked == {"columns": ["id", "item"], "rows": [[1, "tea"], [2, "it's"]], "row_count": 2}
    assert schema["tables"][0]["name"] == "orders"
    (info,) = (await api.get(talk.path("/databases"))).json()["data"]
    assert info["name"] == "main"
    assert info["page_count"] * 4096 == info["size_bytes"]
    described = (await api.get(talk.path("/databases/main/schema"))).json()
    assert [column["name"] for column in described["tables"][0]["columns"]] == ["id", "item"]


async def test_a_view_whose_table_was_dropped_hides_no_other_table(api: httpx.AsyncClient) -> None:
    talk = await new_sql_talk(api)
    statements = (
        "create table a (x)",
        "create view v as select * from a",
        "drop table a",
        "create table b (y)",
    )
    steps = [{"tool_calls": [call("sql_execute", sql=statement)]} for statement in statements]
    shown = values_in(await talk.turn(*steps, {"tool_calls": [call("sql_schema")]}, {"text": "Done."}))[-1]
    described = (await api.get(talk.path("/databases/main/schema"))).json()
    assert described["tables"] == shown["tables"]
    assert [(each["name"], [column["name"] for column in each["columns"]]) for each in shown["tables"]] == [
        ("b", ["y"]),
        ("v", []),
    ]
    assert "no such table" in shown["tables"][1]["error"]


async def test_an_unreadable_database_gets_a_clear_error(api: httpx.AsyncClient) -> None:
    talk = await new_sql_talk(api)
    doubled = [f"a{n} as (select x from a{n - 1} union all select x from a{n - 1})" for n in range(1, 100)]
    view = f"create view v as with a0 as (select 1 as x), {', '.join(doubled)} select x from a99"
    await talk.turn({"tool_calls": [call("sql_execute", sql=view)]}, {"text": "Done."})
    answer = await api.get(talk.path("/databases/main/schema"))
    assert (answer.status_code, answer.json()["code"]) == (409, "database_unreadable")


async def test_databases_are_made_found_and_dropped_over_http(api: httpx.AsyncClient) -> None:
    talk = await new_sql_talk(api)
    assert (await api.post(talk.path("/databases"), json={"name": "stock"})).status_code == 201
    assert (await api.post(talk.path("/databases"), json={"name": "stock"})).json()[
        "code"
    ] == "database_exists"
    assert (await api.post(talk.path("/databases"), json={"name": "No Good"})).status_code == 400
    assert (await api.get(talk.path("/databases/stock"))).json()["size_bytes"] == 0
    assert (await api.delete(talk.path("/databases/stock"))).status_code == 204
    assert (await api.get(talk.path("/databases/stock"))).status_code == 404


async def test_statements_of_one_answer_run_in_order_and_none_is_lost(api: httpx.AsyncClient) -> None:
    talk = await new_sql_talk(api)
    inserts = [call("sql_execute", sql=f"insert into t select {n}, count(*) from t") for n in range(12)]
    ask = call("sql_query", sql="select n, before from t order by before")
    found = values_in(
        await talk.turn(
            {"tool_calls": [call("sql_execute", sql="create table t (n, before)"), *inserts, ask]}
        )
    )
    assert found[-1]["rows"] == [[n, n] for n in range(12)]


async def test_foreign_keys_are_enforced_unless_the_agent_turns_them_off(api: httpx.AsyncClient) -> None:
    talk = await new_sql_talk(api)

    async def ask(tool: str, sql: str) -> str:
        done = [
            event
            for event in await talk.turn({"tool_calls": [call(tool, sql=sql)]})
            if event["type"] == "tool.completed"
        ]
        return str(done[0]["data"].get("error") or done[0]["data"]["result"][0]["text"])

    await ask("sql_execute", "create table person (id integer primary key)")
    await ask("sql_execute", "create table mail (person references person (id) on delete cascade)")
    assert "FOREIGN KEY constraint failed" in await ask("sql_execute", "insert into mail values (7)")
    await ask("sql_execute", "insert into person values (7)")
    await ask("sql_execute", "insert into mail values (7)")
    await ask("sql_execute", "delete from person")
    assert '"rows":[]' in await ask("sql_query", "select * from mail")
    await ask("sql_execute", "pragma foreign_keys = off")
    await ask("sql_execute", "insert into mail values (8)")
    assert '"rows":[["mail",1,"person",0]]' in await ask("sql_query", "pragma foreign_key_check")
    await ask("sql_execute", "pragma foreign_keys = on")
    assert "FOREIGN KEY constraint failed" in await ask("sql_execute", "insert into mail values (9)")


def test_a_full_database_reports_it_and_shrinks_when_rows_are_deleted() -> None:
    image = run_sql(b"", "create table t (a)", None, reading=False).image or b""
    fill = (
        "with recursive c (n) as (select 1 union all select n + 1 from c limit ?)"
        " insert into t select zeroblob(500000) from c"
    )
    with pytest.raises(ToolError, match="may hold at most 52428800 bytes: delete"):
        run_sql(image, fill, [110], reading=False)
    full = run_sql(image, fill, [90], reading=False).image or b""
    assert len(full) > 45_000_000
    assert len(run_sql(full, "delete from t", None, reading=False).image or full) < 100_000


@pytest.mark.parametrize(
    ("sql", "why"),
    [
        ("begin", "each statement is its own transaction"),
        ("savepoint here", "each statement is its own transaction"),
        ("commit", "each statement is its own transaction"),
        ("rollback", "each statement is its own transaction"),
        ("create temp table u (a)", "would be lost after this statement"),
        ("create temp view u as select 1", "would be lost after this statement"),
        ("vacuum", "not allowed here"),
    ],
)
def test_temporary_objects_and_transactions_get_a_clear_error(sql: str, why: str) -> None:
    with pytest.raises(ToolError, match=why):
        run_sql(b"", sql, None, reading=False)


@pytest.mark.parametrize(
    ("statements", "affected"),
    [
        (["create virtual table f using fts5 (a)", "insert into f values ('x'), ('y')"], 2),
        (["create table t (a)",
         "create trigger r after insert on t when new.a < 9 begin insert into t values (9); end",
          "insert into t values (1), (2)"], 2),
        (["create table t (a)",
         ("with recursive c (n) as (select 1 union all select n + 1 from c limit 3000) "
          "insert into t select n from c returning a")], 3_000),
        (["create table t (a)", "with n (a) as (values (1), (2)) insert into t select a from n"], 2),
        (["create table t (a)", "insert into t values (1)", "delete from t"], 1),
        (["create table t (a)", "insert into t values (1)", "alter table t add column b"], 0),
    ],
)  # fmt: skip
def test_only_rows_that_the_statement_itself_changed_are_counted(
    statements: list[str], affected: int
) -> None:
    image = b""
    for statement in statements:
        answer = run_sql(image, statement, None, reading=False)
        image = answer.image or image
    assert answer.affected == affected


@pytest.mark.parametrize(
    "sql",
    [
        "attach '/etc/passwd' as x",
        "vacuum into '/tmp/leak.db'",
        "select load_extension('x')",
        "pragma journal_mode=wal",
        "pragma temp_store_directory='/tmp'",
        "select * from pragma_database_list",
        "create virtual table v using csv(filename='/etc/passwd')",
        "select writefile('/tmp/x', 'y')",
        "select readfile('/etc/passwd')",
        "select 1; select 2",
        "select zeroblob(2000000000)",
        "select fts3_tokenizer('simple')",
        (
            "with recursive c(n, s) as (select 1, 'x' union all select n + 1, s || s from c limit 60)"
            " select length(s) from c"
        ),
        (
            "with recursive c(n) as (select 1 union all select n + 1 from c)"
            " insert into t select randomblob(1000) from c"
        ),
        "not even sql",
    ],
)
def test_escapes_and_unbounded_statements_are_refused(sql: str) -> None:
    image = run_sql(b"", "create table t (a)", None, reading=False).image
    assert image is not None
    with pytest.raises(ToolError):
        run_sql(image, sql, None, reading=False)


def test_a_statement_that_never_ends_is_stopped() -> None:
    with pytest.raises(ToolError, match="5 seconds"):
        run_sql(
            b"",
            "with recursive c(n) as (select 1 union all select n + 1 from c) select count(*) from c",
            None,
            reading=True,
        )


@pytest.mark.parametrize(
    "sql", ["insert into t values (1)", "drop table t", "create table u (a)", "pragma user_version = 5"]
)
def test_a_query_changes_nothing(sql: str) -> None:
    image = run_sql(b"", "create table t (a)", None, reading=False).image
    assert image is not None
    with pytest.raises(ToolError, match="not allowed"):
        run_sql(image, sql, None, reading=True)


def test_a_long_answer_is_truncated_and_says_so() -> None:
    answer = run_sql(
        b"",
        "with recursive c(n) as (select 1 union all select n + 1 from c limit 5000) select n from c",
        None,
        reading=True,
    )
    assert len(answer.rows) == 1000
    assert answer.truncated
