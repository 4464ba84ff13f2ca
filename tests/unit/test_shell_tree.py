"""The shell's file tree: what commands see of it, what it refuses, and that it counts what it holds."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from perdure.sandbox import tree as tree_module
from perdure.sandbox.shell import ShellDone, ShellJob, run_shell
from perdure.sandbox.tree import Folder, Tree, TreeError
from perdure.sandbox.tree_abi import mounted

FILES = {"/a": b"one\n", "/d/x": b"two\n", "/run": b"#!/bin/sh\necho ran\n"}


async def run(command: str, files: dict[str, bytes] = FILES, folders: tuple[str, ...] = ("/d",)) -> ShellDone:
    def nothing(*_: object) -> None: ...

    return await run_shell(ShellJob(command, files, folders, None, None, 60.0), nothing)


PRINTS = [
    ("ln -s a b; cat b; echo two > b; cat a; readlink b; test -L b; echo $?", "one\ntwo\na\n0"),
    ("ln -s d dl; ls dl; echo y > dl/y; ls d; rm dl; ls d", "x\nx\ny\nx\ny"),
    ("ln -s q p; ln -s p q; cat p || echo loop; touch p || echo loop", "loop\nloop"),
    ("ln -s a t; touch -d 2001-01-01 t; date -u -r a +%F", "2001-01-01"),
    ("mv d e; find . | sort", ".\n./a\n./e\n./e/x\n./run"),
    ("mv d d/sub || echo no; ls d", "no\nx"),
    ("mv a d; ls d; mv d/a d/x; cat d/x", "a\nx\none"),
    ("cp a d; cp -r d e; cat e/a e/x; ls", "one\ntwo\na\nd\ne\nrun"),
    ("rm d || echo no; rmdir d || echo no; rm -r d; ls", "no\nno\na\nrun"),
    ("rm -rf *; ls; echo again > f; cat f", "again"),
    ("rm -rf /workspace; cd /; ls -A /workspace; echo back > /workspace/f; cat /workspace/f", "back"),
    ("echo x > d || echo no; echo x > nope/y || echo no; echo x > a/y || echo no", "no\nno\nno"),
    ("mkdir d || echo no; mkdir a || echo no; mkdir -p d/e/f a/b || echo no; find d | sort",
     "no\nno\nno\nd\nd/e\nd/e/f\nd/x"),
    ("for i in 1 2 3; do echo $i >> new; done; cat new; cp new copy; wc -c < copy; : > new; wc -c < new",
     "1\n2\n3\n6\n0"),
    ("./run; chmod -x run; ls -l run | cut -c1-10; ls -ld d | cut -c1-10", "ran\n-rw-r--r--\ndrwxr-xr-x"),
    ("printf '\\x01\\xff' > b; od -An -tx1 b | tr -d ' '; cp b c; cmp b c && echo same", "01ff\nsame"),
    ("tar czf t.tgz d a; rm -r d a; tar xzf t.tgz; find . | sort", ".\n./a\n./d\n./d/x\n./run\n./t.tgz"),
    ("mkfifo q; test -p q && echo pipe; echo hi > q; cat q; mkfifo -m 600 q || echo no; ls -l q | cut -c1-10",
     "pipe\nhi\nno\nprw-r--r--"),
    ("mkfifo /tmp/q; test -p /tmp/q; mkfifo nope/q || echo no", "no"),
    ("touch -c none; ls none 2>&1 | wc -l; touch n d/m; wc -c < d/m; touch nope/x || echo no", "1\n0\nno"),
    ("touch -t 200102030405.06 a; date -u -r a '+%F %T'", "2001-02-03 04:05:06"),
    ("touch -d @99 a; touch -r a d/x /tmp/t; date -u -r d/x +%s; date -u -r /tmp/t +%s", "99\n99"),
    ("touch -d @-0.00000000000000001 a; cat a; ls a; touch -d @-1.5 a; date -u -r a +%F",
     "one\na\n1969-12-31"),
    ("touch -d 2001-01-01 a; touch run; find . -type f -newer a | sort | head -1; ls -t a run",
     "./d/x\nrun\na"),
    ("cat d/../a; cat .//d//x; echo w > /workspace/../workspace/w; cat w; ls /workspace/..| grep work",
     "one\ntwo\nw\nworkspace"),
    ("mv a /tmp/a; cat /tmp/a; mv /tmp/a b; cp /tmp/../workspace/b c; cat b c; ls",
     "one\none\none\nb\nc\nd\nrun"),
    ("echo 1 > 'a b'; echo 2 > ü; cat 'a b' ü; ls | wc -l", "1\n2\n5"),
]  # fmt: skip


@pytest.mark.parametrize(("command", "printed"), PRINTS, ids=[command[:40] for command, _ in PRINTS])
async def test_commands_find_files_folders_and_links_as_elsewhere(command: str, printed: str) -> None:
    done = await run(command)
    assert done.result.stdout.strip() == printed, done.result


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("touch", "missing file operand"),
        ("touch -d", "requires an argument"),
        ("touch -d 'no such day' a", "invalid date"),
        ("touch -t 12 a", "invalid date"),
        ("touch -r nope a", "failed to get attributes of 'nope'"),
        ("touch --nope a", "unrecognized option"),
        ("touch -z a", "invalid option"),
        ("touch a/b", "cannot touch 'a/b'"),
        ("mkfifo", "missing operand"),
        ("mkfifo -m 9 q", "invalid mode"),
        ("mkfifo a", "cannot create fifo 'a': File exists"),
    ],
)
async def test_what_cannot_be_touched_or_made_is_told(command: str, said: str) -> None:
    done = await run(command)
    assert done.result.exit_code != 0
    assert said in done.result.stderr


async def test_a_command_sees_every_file_of_a_full_workspace() -> None:
    files = {f"/{number % 100}/{number}": b"hay\n" for number in range(19_900)} | {"/7/7": b"needle\n"}
    folders = tuple(f"/{number}" for number in range(100))
    done = await run("find . -type f | wc -l; grep -rl needle .; rm 7/7; echo more >> 8/8", files, folders)
    assert done.result.stdout == "19900\n./7/7\n"
    assert done.differences.removed == ("/7/7",)
    assert done.differences.written == {"/8/8": b"hay\nmore\n"}


async def test_a_file_as_large_as_a_workspace_holds_is_seen_whole() -> None:
    done = await run("tail -c 3 big; wc -c < big", {"/big": b"a" * (10 << 20) + b"z"}, ())
    assert done.result.stdout == "aaz10485761\n"


async def test_pipes_and_links_are_no_changes_of_files() -> None:
    done = await run("mkfifo q; ln -s a l; cat a > /dev/null; touch a")
    assert (done.differences.written, done.differences.removed) == ({}, ())
    assert done.differences.links == ("/l",)


REFUSED: list[tuple[Callable[[Tree], object], str]] = [
    (lambda tree: tree.read("/nope"), "not_found"),
    (lambda tree: tree.read("/d"), "is_folder"),
    (lambda tree: tree.write("/", b""), "denied"),
    (lambda tree: tree.write("/d", b""), "is_folder"),
    (lambda tree: tree.append("/d", b""), "is_folder"),
    (lambda tree: tree.list("/a"), "no_folder"),
    (lambda tree: tree.write("/a/x", b""), "no_folder"),
    (lambda tree: tree.copy("/d", "/e"), "is_folder"),
    (lambda tree: tree.link("/a", "/d"), "exists"),
    (lambda tree: tree.read_link("/a"), "invalid"),
    (lambda tree: tree.remove("/d", recursive=False), "not_empty"),
    (lambda tree: tree.rename("/a", "/d"), "other"),
    (lambda tree: tree.rename("/d", "/d/e"), "invalid"),
    (lambda tree: tree.make_folder("/n/m", recursive=False), "not_found"),
]


@pytest.mark.parametrize("number", range(len(REFUSED)))
def test_what_a_tree_refuses_changes_nothing(number: int) -> None:
    work, problem = REFUSED[number]
    tree = Tree(FILES, ["/d"])
    with pytest.raises(TreeError) as caught:
        work(tree)
    assert caught.value.problem == problem
    assert contents(tree) == FILES


def contents(tree: Tree) -> dict[str, bytes]:
    return {path: tree.read(path) for path, node in tree.nodes() if not isinstance(node, Folder)}


def test_room_that_was_freed_can_be_used_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tree_module, "MAX_FILE", 6)
    monkeypatch.setattr(tree_module, "MAX_SIZE", 10)
    monkeypatch.setattr(tree_module, "MAX_ENTRIES", 6)
    for _ in range(3):
        tree = Tree({"/a": b"12"}, ["/d"])
        for _ in range(3):
            tree.write("/d/b", b"123456")
            tree.append("/a", b"34")
            with pytest.raises(TreeError, match="exceed"):
                tree.append("/a", b"5")
            with pytest.raises(TreeError, match="exceed"):
                tree.write("/c", b"1234567")
            tree.copy("/d/b", "/d/b")
            tree.rename("/d/b", "/d/c")
            tree.link("", "/l")
            tree.make_folder("/e/f", recursive=True)
            with pytest.raises(TreeError, match="too many files"):
                tree.make_pipe("/p", 0o644)
            tree.rename("/d/c", "/a")
            tree.write("/a", b"12")
            for path in ("/e", "/l"):
                tree.remove(path, recursive=True)


async def test_a_file_system_that_is_still_held_after_the_command_reaches_nothing() -> None:
    with mounted(Tree(FILES, ["/d"])) as files:
        assert files.read_file("/a") == b"one\n"
        assert await asyncio.to_thread(files.read_file, "/d/x") == b"two\n"
    with pytest.raises(RuntimeError, match="the command has ended"):
        files.read_file("/a")
