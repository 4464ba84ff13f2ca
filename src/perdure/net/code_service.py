"""A service that runs models' programs, at a URL that the operator has configured.

The guide on code describes the request and the answer. The URL is the operator's, so it may be in a private
network; nothing that a model or client wrote becomes a part of it.
"""

from __future__ import annotations

import asyncio
import io
from collections.abc import Callable
from http import HTTPStatus

import msgspec
from aiohttp import ClientConnectorError, ClientError, ClientSession, ClientTimeout, DummyCookieJar
from msgspec import Struct
from yarl import URL

from perdure.domain.code import CodeJob, CodeLimits, CodeResult
from perdure.domain.errors import InvalidInput, ToolError
from perdure.domain.trace_context import trace_headers
from perdure.net.web_client import read_body

SPARE = 20.0
"""Seconds beyond the program's own time for the service's start and both transfers."""

_ENVELOPE = 1 << 20
"""Bytes of an answer beyond its files and its output: paths, and JSON's own."""

UNKNOWN = "The code may or may not have run; no file was changed."


class SentFile(Struct, frozen=True):
    """A file; JSON has its content as base64."""

    path: str
    content: bytes


class CodeRequest(Struct, frozen=True):
    """The body of a request."""

    code: str
    timeout_seconds: int
    limits: CodeLimits
    files: list[SentFile]
    folders: tuple[str, ...]


class CodeAnswer(Struct, frozen=True):
    """The body of an answer. Everything but the exit code may be left out.

    Attributes:
        files: files that are new or have changed; the others stay.
        removed: paths of removed files.
    """

    exit_code: int
    stdout: str = ""
    stderr: str = ""
    stopped: str | None = None
    truncated: bool = False
    files: list[SentFile] = []
    removed: tuple[str, ...] = ()


class CodeService:
    """Sends each program to a URL.

    Raises:
        InvalidInput: the URL is malformed.
    """

    def __init__(self, limits: CodeLimits, url: str, token: str = "") -> None:
        try:
            self._url = URL(url)
            host = self._url.host
        except ValueError:
            host = None
        if not host:
            raise InvalidInput(
                "the URL in PERDURE_CODE_INTERPRETER needs a host, as http://127.0.0.1:8700 has one",
                code="invalid_setting",
            )
        self._limits, self._token = limits, token

    @property
    def limits(self) -> CodeLimits:
        return self._limits

    @property
    def has_network(self) -> bool:
        return False

    async def run(self, job: CodeJob, show: Callable[[str, str], None]) -> CodeResult:
        """Run a program; see `CodeBackEnd`. Its output is shown when it has ended."""
        body = await asyncio.to_thread(self._body, job)
        status, answer = await self._post(job, body)
        del body
        if status != HTTPStatus.OK:
            raise ToolError(f"The service that runs code answered with status {status}. {UNKNOWN}")
        result = await asyncio.to_thread(self._result, answer)
        for stream, text in (("stdout", result.stdout), ("stderr", result.stderr)):
            if text:
                show(stream, text)
        return result

    def _body(self, job: CodeJob) -> bytes:
        files = [SentFile(path, content) for path, content in job.files.items()]
        return msgspec.json.encode(CodeRequest(job.code, job.seconds, self._limits, files, job.folders))

    async def _post(self, job: CodeJob, body: bytes) -> tuple[int, bytes]:
        seconds = job.seconds + SPARE
        headers = {"Content-Type": "application/json", "Idempotency-Key": job.key, **trace_headers()}
        if self._token:
            headers["Authorization"] = f"Bearer {self._token}"
        most = self._limits.total_bytes * 4 // 3 + self._limits.output_bytes * 6 + _ENVELOPE
        try:
            async with (
                asyncio.timeout(seconds),
                ClientSession(
                    cookie_jar=DummyCookieJar(), auto_decompress=False, timeout=ClientTimeout(total=seconds)
                ) as session,
                # A redirect would send the files, and the token, elsewhere.
                session.post(
                    self._url, data=io.BytesIO(body), headers=headers, allow_redirects=False
                ) as answer,
            ):
                content, cut = await read_body(answer, most)
                if cut:
                    raise ToolError(f"The service that runs code answered with over {most} bytes. {UNKNOWN}")
                return answer.status, content
        except TimeoutError:
            raise ToolError(
                f"The service that runs code did not answer within {seconds:g} seconds. {UNKNOWN}"
            ) from None
        except ClientConnectorError:
            raise ToolError("The service that runs code cannot be reached. The code was not run.") from None
        except (ClientError, OSError):
            raise ToolError(f"The service that runs code gave no answer. {UNKNOWN}") from None

    def _result(self, content: bytes) -> CodeResult:
        """Check an answer. Raises ToolError."""
        try:
            answer = msgspec.json.decode(content, type=CodeAnswer)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise ToolError(
                f"The service that runs code gave an invalid answer: {error}. {UNKNOWN}"
            ) from None
        most = self._limits.output_bytes
        stdout = answer.stdout[:most]
        stderr = answer.stderr[: max(0, most - len(stdout))]
        kept = answer.files[: self._limits.entries]
        return CodeResult(
            exit_code=answer.exit_code,
            stdout=stdout,
            stderr=stderr,
            stopped=answer.stopped if answer.stopped in ("time", "memory", "files") else None,
            truncated=answer.truncated or len(stdout + stderr) < len(answer.stdout + answer.stderr),
            written={file.path: file.content for file in kept},
            removed=answer.removed[: self._limits.entries],
            complete=len(kept) == len(answer.files),
        )
