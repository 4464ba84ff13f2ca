"""Jobs for the sandbox's processes, encoded in pieces."""

from __future__ import annotations

import msgspec
import pytest

from perdure.sandbox.arguments import ArgumentsJob
from perdure.sandbox.child import Job
from perdure.sandbox.frames import PIECE, encoded
from perdure.sandbox.media import InspectJob
from perdure.sandbox.shell import ShellJob


@pytest.mark.parametrize("count", [0, 1, 15, 16, 300, 70_000])
async def test_a_job_in_pieces_is_the_job(count: int) -> None:
    files = {f"/docs/{number}": b"x" * (number % 300) for number in range(count)}
    job = ShellJob("ls", files, ("/docs",), None, None, 3.0)
    assert msgspec.msgpack.decode(b"".join(await encoded(job)), type=Job) == job


async def test_pieces_are_small_so_that_others_run_in_between() -> None:
    files = {f"/{number}": bytes(30_000) for number in range(400)}
    pieces = await encoded(ShellJob("ls", files, (), "x=1", None, 3.0))
    assert len(pieces) == 12
    assert max(map(len, pieces)) < PIECE + 40_000


async def test_a_long_content_is_not_copied() -> None:
    files = {"/a": b"1", "/long": bytes(3 * PIECE), "/b": b"2"}
    job = ShellJob("ls", files, (), "x=1", None, 3.0)
    pieces = await encoded(job)
    assert pieces[1] is files["/long"]
    assert msgspec.msgpack.decode(b"".join(pieces), type=Job) == job


@pytest.mark.parametrize(
    "job",
    [InspectJob("image", "image/png", b"\0\1" * 9, thumbnail=True), ArgumentsJob(b"{}", b"[]", "answer")],
)
async def test_other_jobs_are_the_same_too(job: Job) -> None:
    assert msgspec.msgpack.decode(b"".join(await encoded(job)), type=Job) == job
