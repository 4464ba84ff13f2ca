"""A small service that runs code for `PERDURE_CODE_INTERPRETER=http://...`: a start for your own.

It does not isolate anything by itself: start it in a container or a virtual machine that has no network and
nothing to steal. It needs only Python.

    python examples/code_service.py 8700
"""

import base64
import json
import os
import subprocess
import sys
import tempfile
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

answers: dict[str, bytes] = {}
"""The answers by their key: a request that is sent again does not run again. Bound it in your own service."""
running = threading.Lock()
"""One program at a time."""


def run(request: dict) -> dict:
    """Run a program on its files, and say what it did to them."""
    before = {file["path"]: base64.b64decode(file["content"]) for file in request["files"]}
    limits = request["limits"]
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        for path in request["folders"]:
            (root / path.lstrip("/")).mkdir(parents=True, exist_ok=True)
        for path, content in before.items():
            target = root / path.lstrip("/")
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(content)
        stopped = None
        try:
            done = subprocess.run(  # noqa: S603 (it is meant to run untrusted code)
                [sys.executable, "-c", request["code"]],
                cwd=root,
                env={"PYTHONDONTWRITEBYTECODE": "1"},
                stdin=subprocess.DEVNULL,
                capture_output=True,
                check=False,
                timeout=request["timeout_seconds"],
            )
            exit_code, stdout, stderr = done.returncode, done.stdout, done.stderr
        except subprocess.TimeoutExpired as error:
            stopped, exit_code, stdout, stderr = "time", 137, error.stdout or b"", error.stderr or b""
        after = {
            f"/{path.relative_to(root)}": path.read_bytes()
            for path in root.rglob("*")
            if path.is_file() and not path.is_symlink() and path.stat().st_size <= limits["file_bytes"]
        }
    most = limits["output_bytes"]
    return {
        "exit_code": exit_code if exit_code >= 0 else 128 - exit_code,
        "stdout": stdout[:most].decode(errors="replace"),
        "stderr": stderr[:most].decode(errors="replace"),
        "truncated": len(stdout) > most or len(stderr) > most,
        "stopped": stopped,
        "files": [
            {"path": path, "content": base64.b64encode(content).decode()}
            for path, content in after.items()
            if before.get(path) != content
        ],
        "removed": [path for path in before if path not in after],
    }


class Handler(BaseHTTPRequestHandler):
    """Answers `POST`; the token is in the environment variable TOKEN, if there is one."""

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        token = os.environ.get("TOKEN")
        if token and self.headers["Authorization"] != f"Bearer {token}":
            self.send_error(401)
            return
        key = self.headers["Idempotency-Key"]
        with running:
            if key not in answers:
                answers[key] = json.dumps(run(json.loads(body))).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(answers[key])))
        self.end_headers()
        self.wfile.write(answers[key])


if __name__ == "__main__":
    server = ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler)
    print(f"listening on http://127.0.0.1:{server.server_port}", flush=True)
    server.serve_forever()
