"""The operator's file of MCP servers: what it may say, and errors that name the file and the place."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from perdure.app.local_mcp import MAX_FILE, read_local_servers
from perdure.app.mcp_offers import local_endpoint
from perdure.domain.errors import InvalidInput
from perdure.domain.ids import is_id
from perdure.domain.local_mcp import LocalMcpServer
from perdure.domain.mcp_servers import McpRules, mode_of
from perdure.net.mcp.endpoints import McpEndpoint, McpStdioEndpoint

ENVIRONMENT = {"PATH": "/bin", "HOME": "/home/me", "PERDURE_MASTER_KEY": "secret", "KEY": "k3y"}


def read(tmp_path: Path, servers: Any) -> list[LocalMcpServer]:
    file = tmp_path / "servers.json"
    file.write_text(json.dumps({"mcpServers": servers}))
    return list(read_local_servers(file, ENVIRONMENT).values())


def test_a_command_gets_the_environment_that_the_file_names_and_little_else(tmp_path: Path) -> None:
    entry = {
        "command": "npx",
        "args": ["-y", "${KEY}"],
        "env": {"TOKEN": "${KEY}", "HOME": "/"},
        "cwd": "/tmp",
    }
    (server,) = read(tmp_path, {"My files": entry})
    assert (server.slug, server.args, server.cwd) == ("my_files", ("-y", "k3y"), "/tmp")
    assert server.env == {"PATH": "/bin", "HOME": "/", "TOKEN": "k3y"}
    assert isinstance(local_endpoint(server), McpStdioEndpoint)


def test_a_server_keeps_its_id_and_another_name_has_another(tmp_path: Path) -> None:
    one, two = read(tmp_path, {"one": {"command": "a"}, "two": {"command": "a"}})
    assert [each.id for each in read(tmp_path, {"one": {"url": "http://x.test/"}})] == [one.id]
    assert one.id != two.id
    assert is_id(one.id, "mcp")


def test_a_url_of_the_operator_may_be_in_a_private_network(tmp_path: Path) -> None:
    (server,) = read(
        tmp_path,
        {"in": {"type": "http", "url": "${SITE:-http://10.0.0.1/mcp}", "headers": {"X-Key": "${KEY}"}}},
    )
    endpoint = local_endpoint(server)
    assert isinstance(endpoint, McpEndpoint)
    assert (endpoint.url, endpoint.headers) == ("http://10.0.0.1/mcp", (("X-Key", "k3y"),))
    assert endpoint.rules.private is True


def test_rules_are_read_and_disabled_servers_left_out(tmp_path: Path) -> None:
    entry = {"command": "a", "approval": {"*": "ask"}, "tool_timeout_ms": 5}
    (server,) = read(tmp_path, {"on": entry, "off": {"command": "a", "disabled": True}})
    assert server.rules == McpRules(approval={"*": "ask"}, tool_timeout_ms=5)


@pytest.mark.parametrize(
    ("servers", "named"),
    [
        ({"it": {}}, "mcpServers.it: needs either `command` or `url`"),
        ({"it": {"command": "a", "url": "http://x.test/"}}, "mcpServers.it: needs either"),
        ({"it": {"command": ""}}, "mcpServers.it.command: is empty"),
        ({"it": {"command": "a", "argss": []}}, "mcpServers.it: .*argss"),
        ({"it": {"command": "a", "args": "b"}}, r"mcpServers.it: .*args"),
        ({"it": {"command": "a", "env": {"A=B": "c"}}}, "mcpServers.it.env: 'A=B'"),
        ({"it": {"command": "a", "env": {"A": "${NOT_SET}"}}}, "mcpServers.it.env.A: the variable NOT_SET"),
        ({"it": {"url": "ftp://x.test/"}}, "mcpServers.it.url: must begin with http"),
        ({"it": {"url": "http://x.test/", "headers": {"Host": "y"}}}, "mcpServers.it.headers: .*Host"),
        ({"it": {"type": "http", "command": "a"}}, "mcpServers.it.type: 'http' does not fit"),
        ({"it": {"command": "a", "approval": {"x": "maybe"}}}, "mcpServers.it: .*approval"),
        ({"": {"command": "a"}}, "a name has 1 to 100 characters"),
        ({"a b": {"command": "a"}, "A-B": {"command": "a"}}, "mcpServers.A-B: its tools .* 'a b'"),
        ({f"s{number}": {"command": "a"} for number in range(101)}, "has 101 servers; the maximum is 100"),
        ([], "is not JSON of the form"),
    ],
)
def test_an_invalid_entry_is_refused_and_named(tmp_path: Path, servers: Any, named: str) -> None:
    with pytest.raises(InvalidInput, match=rf"(?s)PERDURE_MCP_SERVERS.*servers\.json.*{named}") as error:
        read(tmp_path, servers)
    assert error.value.code == "invalid_setting"


@pytest.mark.parametrize("content", [b"{", b"\xff", b"[" * 100_000, b'{"servers": {}}'])
def test_a_file_that_is_not_such_json_is_refused(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "servers.json"
    file.write_bytes(content)
    with pytest.raises(InvalidInput, match="is not JSON of the form"):
        read_local_servers(file, ENVIRONMENT)


def test_a_file_that_is_missing_or_too_large_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"none\.json' cannot be read"):
        read_local_servers(tmp_path / "none.json", {})
    (tmp_path / "large.json").write_bytes(b" " * (MAX_FILE + 1))
    with pytest.raises(InvalidInput, match="is larger than"):
        read_local_servers(tmp_path / "large.json", {})


def test_the_mode_of_a_tool_follows_lists_settings_and_hints_in_this_order() -> None:
    rules = McpRules(
        allowed_tools=("a", "b", "c", "d"),
        denied_tools=("b",),
        approval={"a": "auto", "b": "auto", "c": "deny"},
    )
    assert mode_of(rules, "a", True) == "auto"
    assert [mode_of(rules, name, None) for name in "bce"] == ["deny"] * 3
    assert (mode_of(rules, "d", True), mode_of(rules, "d", False), mode_of(rules, "d", None)) == (
        "ask",
        "auto",
        "auto",
    )
    assert mode_of(McpRules(approval={"*": "ask"}), "any", False) == "ask"
