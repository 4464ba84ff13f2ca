"""SQL that tries to leave its database, and SQL that exceeds its limits."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Any

import httpx
import pytest

from perdure.domain.errors import ToolError
from perdure.sandbox import sql as sql_engine
from perdure.sandbox.sql import Answer, describe, run_sql
from tests.adversarial.attack import refused, use, works
from tests.talk import Talk, new_talk

COUNT = "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c) "
MEGABYTE = "printf('%.*c', 999000, 'x')"


def run(*statements: str, reading: bool = False) -> Answer:
    """Run statements on one database; returns the last one's answer."""
    image = b""
    for statement in statements[:-1]:
        image = run_sql(image, statement, None, reading=False).image or image
    return run_sql(image, statements[-1], None, reading=reading)


# --- leaving the database
# ------------------------------------------------------------------------------------------------

ESCAPES = {
    "attach": "ATTACH '{place}' AS other",
    "attach memory": "ATTACH ':memory:' AS other",
    "attach by URI": "ATTACH 'file:{place}?mode=rwc' AS other",
    "attach what is ours": "ATTACH '{ours}' AS ours",
    "detach": "DETACH main",
    "vacuum into": "VACUUM INTO '{place}'",
    "vacuum": "VACUUM",
    "an extension": "SELECT load_extension('{place}')",
    "read a file": "SELECT readfile('/etc/passwd')",
    "write a file": "SELECT writefile('{place}', 'x')",
    "an editor": "SELECT edit('x', 'touch {place}')",
    "list files": "SELECT * FROM fsdir('/')",
    "a tokenizer's address": "SELECT fts3_tokenizer('simple')",
    "a tokenizer at an address": "SELECT fts3_tokenizer('mine', x'4141414141414141')",
    "a table of a file": "CREATE VIRTUAL TABLE t USING csv(filename='/etc/passwd')",
    "a table of an archive": "CREATE VIRTUAL TABLE t USING zipfile('{place}')",
    "another module": "CREATE VIRTUAL TABLE t USING dbstat(main)",
    "a module of FTS": "CREATE VIRTUAL TABLE t USING fts3tokenize(simple)",
    "where temporary files go": "PRAGMA temp_store_directory='{folder}'",
    "the schema's table": "PRAGMA writable_schema=ON",
    "another journal": "PRAGMA journal_mode=DELETE",
    "a journal by function": "SELECT * FROM pragma_journal_mode('DELETE')",
    "which databases": "SELECT * FROM pragma_database_list",
    "which functions": "SELECT * FROM pragma_function_list",
    "which options": "PRAGMA compile_options",
    "as many pages as wanted": "PRAGMA max_page_count=1000000000",
    "a heap without end": "PRAGMA hard_heap_limit=0",
    "trusting": "PRAGMA trusted_schema=ON",
    "the lock": "PRAGMA locking_mode=EXCLUSIVE",
    "more than one": "SELECT 1; ATTACH '{place}' AS other",
    "behind a comment": "SELECT 1 --\n; ATTACH '{place}' AS other",
    "an unknown function": "SELECT 'a' REGEXP 'b'",
}


@pytest.mark.parametrize("reading", [False, True])
@pytest.mark.parametrize("escape", ESCAPES.values(), ids=ESCAPES.keys())
def test_no_statement_leaves_its_database(tmp_path: Path, escape: str, reading: bool) -> None:
    ours = tmp_path / "perdure.db"
    sqlite3.connect(ours).close()
    before = sorted(tmp_path.iterdir())
    statement = escape.format(place=tmp_path / "out", folder=tmp_path, ours=ours)
    with pytest.raises(ToolError, match="SQL error"):
        run("CREATE TABLE t (a)", statement, reading=reading)
    assert sorted(tmp_path.iterdir()) == before


def test_a_view_or_a_trigger_has_only_its_callers_permissions() -> None:
    for made, used in (
        ("CREATE VIEW v AS SELECT load_extension('x')", "SELECT * FROM v"),
        (
            "CREATE TRIGGER r AFTER INSERT ON t BEGIN SELECT load_extension('x'); END",
            "INSERT INTO t VALUES (1)",
        ),
        ("CREATE INDEX i ON t (readfile('/etc/passwd'))", "INSERT INTO t VALUES (1)"),
    ):
        with pytest.raises(ToolError, match=r"unsafe use|not authorized|no such function"):
            run("CREATE TABLE t (a)", made, used)
    made = "CREATE TRIGGER r AFTER INSERT ON t BEGIN INSERT INTO u SELECT new.a; END"
    assert run(
        "CREATE TABLE t (a)", "CREATE TABLE u (a)", made, "INSERT INTO t VALUES (1)", "SELECT * FROM u"
    ).rows == ((1,),)
    with pytest.raises(ToolError, match="cannot change the database"):
        run("CREATE TABLE t (a)", "CREATE TABLE u (a)", made, "INSERT INTO t VALUES (1)", reading=True)


WRITES = [
    "INSERT INTO t VALUES (2)", "INSERT INTO t VALUES (2) RETURNING a", "WITH x AS (SELECT 1) DELETE FROM t",
    "UPDATE t SET a = 2",
    "REPLACE INTO t VALUES (2)", "CREATE TABLE u (a)", "DROP TABLE t", "ALTER TABLE t RENAME TO u",
    "CREATE INDEX i ON t (a)",
    "ANALYZE", "PRAGMA user_version = 5", "CREATE VIRTUAL TABLE u USING fts5(a)", "CREATE VIEW v AS SELECT 1",
]  # fmt: skip


@pytest.mark.parametrize("statement", WRITES)
def test_a_query_writes_nothing(statement: str) -> None:
    with pytest.raises(ToolError, match="SQL error"):
        run("CREATE TABLE t (a)", "INSERT INTO t VALUES (1)", statement, reading=True)


def test_virtual_tables_within_the_database_work() -> None:
    words = "CREATE VIRTUAL TABLE t USING {}"
    for module in ("fts5(a)", "fts4(a)"):
        found = run(
            words.format(module),
            "INSERT INTO t VALUES ('one two')",
            "SELECT a FROM t WHERE t MATCH 'two'",
            reading=True,
        )
        assert found.rows == (("one two",),)
    assert run(
        words.format("rtree(id, a, b)"),
        "INSERT INTO t VALUES (1, 2, 3)",
        "SELECT id FROM t WHERE a > 1",
        reading=True,
    ).rows
    assert run("SELECT value FROM json_each('[1, 2]')", reading=True).rows == ((1,), (2,))


CORRUPTED = [
    ("CREATE VIRTUAL TABLE t USING fts4(a)", "INSERT INTO t VALUES ('abc')",
     "UPDATE t_segdir SET root = x'ffffffffffffff00ff'",
     "SELECT * FROM t WHERE t MATCH 'abc'"),
    ("CREATE VIRTUAL TABLE t USING fts5(a)", "INSERT INTO t VALUES ('abc')",
     "UPDATE t_data SET block = x'ffffffffffffff00ff'",
     "SELECT * FROM t WHERE t MATCH 'abc*'"),
    ("CREATE VIRTUAL TABLE t USING rtree(id, a, b)", "INSERT INTO t VALUES (1, 2, 3)",
     "UPDATE t_node SET data = x'0001ffff'",
     "SELECT * FROM t WHERE a > 1"),
]  # fmt: skip


@pytest.mark.parametrize("statements", CORRUPTED, ids=["fts4", "fts5", "rtree"])
def test_corrupt_data_of_a_virtual_table_is_harmless(statements: tuple[str, ...]) -> None:
    with pytest.raises(ToolError):
        run(*statements)


# --- exceeding limits
# ---------------------------------------------------------------------------------------------------

TOO_MUCH = {
    "a blob": "SELECT zeroblob(1000000000)",
    "random bytes": "SELECT randomblob(1000000000)",
    "hexadecimal": f"SELECT hex({MEGABYTE})",
    "replacing": f"SELECT replace({MEGABYTE}, 'x', 'xx')",
    "joining": f"SELECT {MEGABYTE} || {MEGABYTE}",
    "a table": f"CREATE TABLE t AS {COUNT} SELECT {MEGABYTE} AS a FROM c",
    "columns": "SELECT " + ",".join(["1"] * 600),
    "a table's columns": f"CREATE TABLE t ({','.join(f'c{number}' for number in range(600))})",
    "parentheses": "SELECT " + "(" * 5_000 + "1" + ")" * 5_000,
    "negations": "SELECT " + "NOT " * 30_000 + "1",
    "a sum": "SELECT 1" + "+1" * 40_000,
    "unions": " UNION ALL ".join(["SELECT 1"] * 5_000),
    "queries within": "SELECT " + "(SELECT " * 3_000 + "1" + ")" * 3_000,
    "JSON": "SELECT json('" + "[" * 45_000 + "]" * 45_000 + "')",
    "a search": "SELECT * FROM fts WHERE fts MATCH '" + "(" * 20_000 + "a" + ")" * 20_000 + "'",
}


@pytest.mark.parametrize("statement", TOO_MUCH.values(), ids=TOO_MUCH.keys())
def test_a_statement_over_a_limit_gets_a_clear_error(statement: str) -> None:
    with pytest.raises(ToolError, match="SQL error"):
        run("CREATE VIRTUAL TABLE fts USING fts5(a)", statement)


def test_deeply_nested_views_are_refused_before_they_are_expanded() -> None:
    views = [
        f"CREATE VIEW v{number} AS SELECT x.a FROM v{number - 1} x, v{number - 1} y"
        for number in range(1, 30)
    ]
    image = b""
    for statement in ("CREATE VIEW v0 AS SELECT 1 AS a", *views):
        image = run_sql(image, statement, None, reading=False).image or image
    refused = [each["name"] for each in describe(image) if "too many references" in each.get("error", "")]
    assert "v29" in refused
    assert "v1" not in refused
    with pytest.raises(ToolError, match="too many references"):
        run_sql(image, "SELECT * FROM v29", None, reading=True)


def test_an_answer_is_limited_in_rows_and_in_bytes() -> None:
    assert len(run(f"{COUNT} SELECT x FROM c", reading=True).rows) == sql_engine.MAX_ROWS
    large = run(f"{COUNT} SELECT {MEGABYTE} FROM c", reading=True)
    assert large.truncated
    assert sum(len(row[0]) for row in large.rows) <= sql_engine.MAX_ANSWER


SLOW = {
    "counting": f"{COUNT} SELECT count(*) FROM c",
    "a trigger": "INSERT INTO t VALUES (1)",
    "a product": f"WITH d AS ({COUNT} SELECT x FROM c LIMIT 100000) SELECT count(*) FROM d a, d b, d e",
}


@pytest.mark.parametrize("statement", SLOW.values(), ids=SLOW.keys())
def test_a_statement_that_takes_too_long_is_stopped(monkeypatch: pytest.MonkeyPatch, statement: str) -> None:
    monkeypatch.setattr(sql_engine, "TIME_LIMIT", 0.2)
    trigger = f"CREATE TRIGGER r AFTER INSERT ON t BEGIN INSERT INTO u {COUNT} SELECT x FROM c; END"
    with pytest.raises(ToolError, match=r"took longer than 0\.2 seconds"):
        run("CREATE TABLE t (a)", "CREATE TABLE u (a)", trigger, statement)


@pytest.mark.parametrize(
    "statement",
    [
        "SELECT char(0xD800)", "SELECT '\ud800'", "SELECT 1 AS \"\x00\"", "",
        ";", "--", "SELECT", "\x00",
        "SELECT ?", "SELECT :name", "SELECT ?999999", "BEGIN; COMMIT", "COMMIT", "ROLLBACK", "RELEASE x",
    ],
)  # fmt: skip
def test_invalid_statements_and_texts_are_refused_or_return_nothing(statement: str) -> None:
    try:
        answer = run(statement)
    except ToolError:
        return
    assert answer.rows == () or "char(" in statement


# --- through the tools
# ------------------------------------------------------------------------------------------------------


async def database(http: httpx.AsyncClient, **fields: Any) -> Talk:
    return await new_talk(http, capabilities=[{"ref": "session_sql_database"}], **fields)


async def test_every_result_of_a_database_can_be_logged(each: httpx.AsyncClient) -> None:
    talk = await database(each)
    await works(talk, "sql_execute", sql="CREATE TABLE t (a)")
    sql = (
        "SELECT char(0) || 'a', 9e999, -9e999, 9223372036854775807, x'00ff', '\U0001f600',"
        " json('{\"a\": null}')"
    )
    answer = await works(talk, "sql_query", sql=sql)
    assert answer["rows"] == [
        ["\x00a", None, None, 9223372036854775807, "<2 bytes>", "\U0001f600", '{"a":null}']
    ]
    assert "int too large" in await refused(talk, "sql_query", sql="SELECT ?", params=[10**30])


@pytest.mark.parametrize(
    "name", ["../main", "main; DROP", "MAIN", "a" * 64, "", "é", "sqlite_master", "a\x00b", "/etc/passwd"]
)
async def test_a_databases_name_is_only_a_name(one: httpx.AsyncClient, name: str) -> None:
    talk = await database(one)
    data = await use(talk, "sql_execute", sql="CREATE TABLE t (a)", database=name)
    # Without a name it is `main`.
    assert data["success"] is (name in ("", "sqlite_master")), data
    answer = await one.post(talk.path("/databases"), json={"name": name})
    assert answer.status_code == 400 if name != "sqlite_master" else answer.status_code == 409


ODD_TEXTS = ("x'ff41'", "x'eda080'", "x'c3'", "x'f4908080'", "x'00ff00'", "x'' || x'80'")


async def test_text_that_is_not_utf8_is_shown_replaced_wherever_it_stands(each: httpx.AsyncClient) -> None:
    talk = await database(each)
    await works(talk, "sql_execute", sql="CREATE TABLE t (id INTEGER, x TEXT DEFAULT 'é')")
    rows = ", ".join(f"({at}, CAST({value} AS TEXT))" for at, value in enumerate(ODD_TEXTS))
    insert = f"INSERT INTO t VALUES {rows}, (99, 'good') RETURNING x"
    answers = [await works(talk, "sql_execute", sql=insert)]
    shown = ("x", "group_concat(x)", "json_group_array(x)", "upper(x)", "x AS 'a b'")
    answers += [await works(talk, "sql_query", sql=f"SELECT {each} FROM t") for each in shown]
    for answer in answers:
        assert "good" in str(answer["rows"]).lower()
        assert "\ufffd" in str(answer["rows"])
    await works(talk, "sql_execute", sql="CREATE VIEW v AS SELECT CAST(x'ff' AS TEXT) AS y")
    assert [table["name"] for table in (await works(talk, "sql_schema"))["tables"]] == ["t", "v"]
    schema = await each.get(talk.path("/databases/main/schema"))
    assert schema.status_code == 200, schema.text
