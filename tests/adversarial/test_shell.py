"""Commands that try to reach the host, the network or other files, or to exhaust resources."""

from __future__ import annotations

import os
import time

import httpx
import pytest

from tests.adversarial.attack import use, works
from tests.talk import Json, Talk, new_talk

QUICK = 8.0
"""Seconds that a command with a limit of one second may take in total on a busy machine."""


async def bash(talk: Talk, command: str, seconds: int = 10) -> Json:
    answer: Json = await works(talk, "bash", command=command, timeout=seconds)
    return answer


async def listed(talk: Talk) -> dict[str, int]:
    """List the session's files with their sizes."""
    found = (await talk.http.get(talk.path("/fs?recursive=true"))).json()["data"]
    return {entry["path"]: entry["size_bytes"] for entry in found if not entry["is_directory"]}


# --- the host
# --------------------------------------------------------------------------------------------------------

NOT_OURS = [
    "/etc/passwd", "/etc/shadow", "/etc/hosts", "/etc/resolv.conf", "/proc/self/environ",
    "/proc/self/cmdline", "/proc/1/environ",
    "/proc/self/maps", "/proc/self/fd/0", "/proc/self/root/etc/passwd", "/proc/self/cwd", "/proc/net/tcp",
    "/proc/meminfo", "/sys/class",
    "/dev/mem", "/dev/sda", "/dev/tcp/127.0.0.1/80", "/home", "/root", "/var/run/docker.sock", "/run/secrets",
    "/workspace/../etc/passwd", "//etc/passwd", "/../etc/passwd", "file:///etc/passwd",
]  # fmt: skip


async def test_no_file_of_the_host_is_visible(one: httpx.AsyncClient) -> None:
    talk = await new_talk(one)
    answer = await bash(talk, "; ".join(f"cat {path} 2>/dev/null" for path in NOT_OURS))
    with open("/etc/passwd") as file:  # noqa: PTH123
        ours = [
            line for line in file.read().splitlines() if line and not line.startswith(("root:", "nobody:"))
        ]  # files of the same name exist in the shell
    assert not [line for line in ours if line in answer["stdout"]]
    for trace in ("PATH=", "python", "Name:", "nameserver", str(os.getpid())):
        assert trace not in answer["stdout"], answer["stdout"]


async def test_the_shell_runs_no_host_program_and_sees_no_host_process(one: httpx.AsyncClient) -> None:
    talk = await new_talk(one)
    programs = (
        "python3",
        "perl",
        "gcc",
        "ssh",
        "git",
        "sudo",
        "docker",
        "sqlite3",
        "/bin/sh",
        "/usr/bin/env",
        "/proc/self/exe",
    )
    answer = await bash(
        talk,
        "; ".join(f"{program} --version" for program in programs)
        + f"; kill -0 {os.getpid()}; ps aux; kill -9 1",
    )
    assert "ersion" not in answer["stdout"]
    assert str(os.getpid()) not in answer["stdout"].split()


async def test_the_shells_environment_contains_nothing_of_the_servers(one: httpx.AsyncClient) -> None:
    answer = await bash(await new_talk(one), "env; set; export -p; declare -p; echo $PPID $$ ~ ~root")
    for trace in (
        "PERDURE",
        "VIRTUAL_ENV",
        "SSL_CERT",
        "/tmp/pytest",
        "PYTEST",
        "API_KEY",
        "LANG=",
        "TMPDIR",
    ):
        assert trace not in answer["stdout"]


@pytest.mark.parametrize(
    "reach",
    [
        "curl -sS http://127.0.0.1:{port}/health", "wget -qO- http://127.0.0.1:{port}/health",
        "curl -sS http://localhost:{port}/health",
        "curl -sS http://[::1]:{port}/health", "curl -sS http://2130706433:{port}/health",
        "curl -sS file:///etc/passwd",
        "exec 3<>/dev/tcp/127.0.0.1/{port}; echo GET /health >&3; cat <&3",
        "echo x > /dev/udp/127.0.0.1/{port}",
        "nc 127.0.0.1 {port} < /dev/null", "telnet 127.0.0.1 {port}",
        "curl -sS -x http://127.0.0.1:{port} http://example.com/",
        "curl -sS --unix-socket /var/run/docker.sock http://x/", "dig example.com", "nslookup example.com",
        "ping -c 1 127.0.0.1",
        "curl -sS gopher://127.0.0.1:{port}/_GET%20/health", "http GET http://127.0.0.1:{port}/health",
    ],
)  # fmt: skip
async def test_nothing_is_reached_without_permission(one: httpx.AsyncClient, reach: str) -> None:
    talk = await new_talk(one)
    answer = await bash(talk, reach.format(port=one.base_url.port))
    assert '"status":"ok"' not in str(answer)
    assert "ok" not in answer["stdout"]
    assert "root:" not in answer["stdout"]


# --- links, archives, very many files
# --------------------------------------------------------------------------------------


async def test_links_lead_nowhere_and_are_not_kept(each: httpx.AsyncClient) -> None:
    talk = await new_talk(each)
    await bash(talk, "echo mine > file")
    answer = await bash(
        talk,
        "ln -s /etc/passwd out; ln -s ../../../../etc up; ln -s / top; ln -s . loop; ln -s b a; ln -s a b; "
        "ln file hard; ln -s file soft; cat out up/passwd top/etc/passwd a loop/loop/loop/file soft 2>&1; "
        "ls -R . | head -100; find -L . | head -100; cp -rL loop copy; "
        "echo changed > soft; echo new > top/tmp/x; echo new > loop/made",
    )
    assert "root:" not in answer["stdout"]
    files = await listed(talk)
    assert {"/out", "/up", "/top", "/loop", "/a", "/b", "/soft"} & set(files) == set()
    assert files["/made"] == 4
    told = {note.split()[0] for note in answer["notes"] if "is a link" in note}
    assert told >= {f"/workspace/{name}" for name in ("out", "up", "top", "loop", "a", "b", "soft")}
    assert not told & {f"/workspace{path}" for path in files}
    assert (await bash(talk, "cat file made"))["stdout"] in ("changed\nnew\n", "mine\nnew\n")


async def test_an_archive_unpacks_into_the_workspace_or_not_at_all(one: httpx.AsyncClient) -> None:
    talk = await new_talk(one)
    await bash(
        talk,
        "mkdir -p deep/er; cd deep/er; echo x > f; tar cf up.tar ../../deep/er/f f; "
        "tar cPf abs.tar /workspace/deep/er/f; rm f; "
        "tar xf up.tar; tar xPf abs.tar; tar xf abs.tar; cd /; tar xf /workspace/deep/er/up.tar; ls /deep /f",
    )
    assert all(path.startswith("/deep/er/") or path in ("/deep/er", "/f") for path in await listed(talk))


BOMBS = {
    "gzip": "head -c 9000000 /dev/zero | gzip > z; for i in 1 2 3 4 5 6 7 8; do cat z z > y; mv y z; done; "
    "zcat z | wc -c; "
    "gunzip -c z > out; wc -c out",
    "tar": "head -c 9000000 /dev/zero > z; tar czf z.tgz z; "
    "for i in {1..20}; do mkdir d$i; tar xzf z.tgz -C d$i; done",
    "zip": "head -c 9000000 /dev/zero > z; zip z.zip z; "
    "for i in {1..20}; do mkdir d$i; unzip -q z.zip -d d$i; done",
    "copies": "head -c 9000000 /dev/zero > z; for i in {1..50}; do cp z z$i; done",
    "appending": "echo x > f; for i in {1..40}; do cat f f > g; mv g f; done; wc -c f",
    "truncating": "truncate -s 100G f; ls -l f",
    "copying blocks": "dd if=/dev/zero of=f bs=1M count=100000",
    "a pattern of names": "touch f{1..100000}",
    "many files": "for i in {1..30000}; do : > f$i; done",
    "many folders": "for i in {1..1000}; do mkdir -p a$i/b/c/d; done",
    "a deep folder": f"mkdir -p {'d/' * 3_000}",
    "a long name": f"touch {'n' * 5_000}",
}


@pytest.mark.parametrize("bomb", BOMBS.values(), ids=BOMBS.keys())
async def test_an_archive_that_unpacks_to_too_much_is_stopped(one: httpx.AsyncClient, bomb: str) -> None:
    talk = await new_talk(one)
    await bash(talk, "echo kept > kept")
    began = time.monotonic()
    await use(talk, "bash", command=bomb, timeout=3)
    assert time.monotonic() - began < 25
    files = await listed(talk)
    assert files["/kept"] == 5
    assert sum(files.values()) <= 100_000_000
    assert len(files) <= 20_000
    # And the files can be deleted.
    assert (await use(talk, "bash", command="cat kept; find . -type f -not -name kept -delete", timeout=30))[
        "success"
    ]


# --- time and memory
# --------------------------------------------------------------------------------------------------------

ENDLESS = {
    "processes": ":(){ :|:& };:",
    "a loop": "while :; do :; done",
    "a pipe": "yes | cat | cat > /dev/null",
    "output": "yes",
    "a device": "cat /dev/zero",
    "random numbers": "cat /dev/urandom | wc -c",
    "awk": "awk 'BEGIN { while (1); }'",
    "awk's memory": "awk 'BEGIN { x = \"a\"; while (1) x = x x }'",
    "awk's recursion": "awk 'function f(n) { return f(n + 1) } BEGIN { f(1) }'",
    "sed": "echo a | sed ':a;s/^/x/;ba'",
    "jq": "jq -n 'def f: f; f'",
    "jq's memory": "jq -n '[range(1e12)] | length'",
    "a calculator": "bc <<< '9^9^9^9'",
    "numbers": "seq 1 1000000000000 | tail -1",
    "a wide number": "printf '%1000000000d' 1 | wc -c",
    "doubling": "x=a; while :; do x=$x$x; done",
    "a huge index": "a[9223372036854775807]=1; a[999999999]=1; echo ${a[@]:0:10}",
    "braces": "echo {1..100}{1..100}{1..100}{1..100}",
    "functions": "f() { f | f & }; f",
    "substitutions": "f() { echo $(f); }; f",
    "aliases": "shopt -s expand_aliases; alias a='a a'; a",
    "traps": "f() { false; }; trap f ERR; set -E; false",
    "a file that reads itself": "echo 'source ./s' > s; source ./s",
    "a name for a name": "declare -n a=b b=a; echo $a; a=1",
    "sleepers": "for i in {1..2000}; do sleep 100 & done; wait",
    "a pattern": "shopt -s extglob; x=$(printf 'a%.0s' {1..3000}); [[ $x == +(+(a)|aa)b ]]; "
    "echo ${x/%+(+(a)|aa)b/}",
    "a regular expression": "x=$(printf 'a%.0s' {1..3000}); [[ $x =~ (a+)+$b ]]; grep -P '(a*)*\\1b' <<< $x; "
    "sed 's/\\(a*\\)*\\1b//' <<< $x",
}


@pytest.mark.parametrize("command", ENDLESS.values(), ids=ENDLESS.keys())
async def test_an_endless_command_is_stopped_and_the_shell_still_works(
    one: httpx.AsyncClient, command: str
) -> None:
    talk = await new_talk(one)
    began = time.monotonic()
    data = await use(talk, "bash", command=command, timeout=1)
    assert time.monotonic() - began < QUICK
    assert len(str(data)) < 200_000
    assert (await bash(talk, "echo well"))["stdout"] == "well\n"


# --- the shell's state
# -----------------------------------------------------------------------------------------------------------

POISON = {
    "a line that looks like the shell's own": (
        "X=$'a\\ndeclare -- PWD=\"/\"\\nshopt -u x'",
        "printf '%s' \"$X\" | wc -l",
        "2\n",
    ),
    "commands in values": (
        "X='`touch pwned`$(touch pwned)'; a=('$(touch pwned)')",
        "ls; echo ${#a[@]}",
        "1\n",
    ),
    "commands in keys": (
        "declare -A m; m['$(touch pwned)']=1; m['\"]; touch pwned; x[\"']=2",
        "ls; echo ${#m[@]}",
        "2\n",
    ),
    "a hook": ("PROMPT_COMMAND='touch pwned'; BASH_ENV=x; PS4='$(touch pwned)'", "ls; echo on", "on\n"),
    "another cd": ("cd() { touch pwned; }", "ls; builtin pwd", "/workspace\n"),
    "another builtin": ("K=kept; builtin() { echo touch pwned; }", "ls; echo [$K]", "[]\n"),
    "another declare": ("declare() { echo touch pwned; }; K=kept", "ls; echo [$K]", "[kept]\n"),
    "output sent away": ("exec > /dev/null; K=lost", "ls; echo [$K]", "[]\n"),
    "a folder that is gone": ("mkdir d; cd d; rmdir ../d", "ls; pwd", "/workspace\n"),
    "a folder elsewhere": ("mkdir /tmp/x; cd /tmp/x", "ls; pwd", "/workspace\n"),
    "constants": ("readonly PATH IFS K=kept", "ls; echo [$K]", "[kept]\n"),
    "a program before its name": (
        "printf 'touch pwned' > ls; chmod +x ls; PATH=.:$PATH",
        "rm ls; ls; echo on",
        "on\n",
    ),
}


@pytest.mark.parametrize(("before", "command", "printed"), POISON.values(), ids=POISON.keys())
async def test_the_stored_shell_state_sets_values_and_runs_no_command(
    one: httpx.AsyncClient, before: str, command: str, printed: str
) -> None:
    talk = await new_talk(one)
    await use(talk, "bash", command=before)
    assert (await bash(talk, command))["stdout"] == printed
    assert (await bash(talk, "echo still here"))["stdout"] == "still here\n"
