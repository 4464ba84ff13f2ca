"""A scripted MCP server over standard input and output, for processes of their own.

Usage: python mcp_command.py HABIT...
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from typing import Any

HABITS = set(sys.argv[1:])


def say(value: Any) -> None:
    sys.stdout.write(json.dumps(value) + "\n")
    sys.stdout.flush()


def answer(message: dict[str, Any], **fields: Any) -> None:
    say({"jsonrpc": "2.0", "id": message["id"], "result": {"resultType": "complete", **fields}})


def act(message: dict[str, Any]) -> None:
    arguments = message["params"].get("arguments", {})
    match arguments.get("do"):
        case "die":
            os._exit(3)
        case "hang":
            return
        case "freeze":
            os.kill(os.getpid(), signal.SIGSTOP)
        case "answer late":
            time.sleep(0.6)
            answer(message, content=[{"type": "text", "text": "late"}])
        case "long line":
            sys.stdout.write("x" * 20_000_000)
            sys.stdout.flush()
            time.sleep(60)
        case "deep":
            sys.stdout.write("[" * 100_000 + "\n")
            answer(message, content=[{"type": "text", "text": "after it"}])
        case "chatter":
            print("this is a log line")
            print("{not json}")
            print()
            say({"jsonrpc": "2.0", "id": "other", "result": {}})
            say({"jsonrpc": "2.0", "method": "notifications/tools/list_changed"})
            answer(message, content=[{"type": "text", "text": "after chatter"}])
        case "errors":
            sys.stderr.write("noise of the command\n" * 100_000 + "x" * 5_000_000)
            sys.stderr.flush()
            answer(message, content=[{"type": "text", "text": "after errors"}])
        case "ask":
            params = {"message": "Who?", "requestedSchema": {"type": "object", "properties": {}}}
            say({"jsonrpc": "2.0", "id": "q", "method": "elicitation/create", "params": params})
            given = json.loads(sys.stdin.readline())
            while given.get("id") != "q":  # a cancellation
                if "method" in given:
                    return
                given = json.loads(sys.stdin.readline())
            answer(message, content=[{"type": "text", "text": json.dumps(given.get("result"))}])
        case "environment":
            answer(message, content=[{"type": "text", "text": json.dumps(dict(os.environ))}])
        case "pid":
            answer(message, content=[{"type": "text", "text": str(os.getpid())}])
        case "children":
            child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
            answer(message, content=[{"type": "text", "text": str(child.pid)}])
        case _:
            answer(message, content=[{"type": "text", "text": f"did {json.dumps(arguments)}"}])


def main() -> None:
    if "stubborn" in HABITS:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if "dies at once" in HABITS:
        sys.exit("cannot start: no license")
    for line in sys.stdin:
        message = json.loads(line)
        method = message.get("method")
        if "id" not in message:
            continue
        if method == "server/discover":
            if "silent" in HABITS:
                continue
            if "dies of questions" in HABITS:
                sys.exit(1)
            if "stateless" in HABITS:
                answer(message, supportedVersions=["2026-07-28"], capabilities={"tools": {}})
            else:
                error = {"code": -32601, "message": "Method not found"}
                say({"jsonrpc": "2.0", "id": message["id"], "error": error})
        elif method == "initialize":
            info = {"name": "command", "version": "1"}
            answer(message, protocolVersion="2025-06-18", capabilities={"tools": {}}, serverInfo=info)
        elif method == "tools/list":
            answer(message, tools=[{"name": "act", "inputSchema": {"type": "object"}}])
        elif method == "tools/call":
            act(message)
    while "stubborn" in HABITS:
        time.sleep(1)


main()
