"""The shell, through the model loop: files, state, limits, and that no command runs twice."""

from __future__ import annotations

import json
from uuid import uuid4

import httpx
import pytest

from tests.server import Server, post
from tests.talk import Json, Talk, call, new_talk, script, text_in, when


async def use(talk: Talk, name: str, **arguments: object) -> Json:
    """The result of one tool call."""
    events = await talk.turn({"tool_calls": [call(name, **arguments)]}, {"text": "Done."})
    return next(event["data"] for event in events if event["type"] == "tool.completed")


async def bash(talk: Talk, command: str, **arguments: object) -> Json:
    """The result of a command."""
    data = await use(talk, "bash", command=command, **arguments)
    assert data["success"], data
    answer: Json = json.loads(data["result"][0]["text"])
    return answer


async def content(talk: Talk, path: str) -> str:
    data = await use(talk, "read_file", path=path)
    assert data["success"], data
    return str(json.loads(data["result"][0]["text"])["content"])


async def test_a_command_says_what_it_printed_and_how_it_ended(api: httpx.AsyncClient) -> None:
    talk = await new_talk(api)
    assert await bash(talk, "echo hi") == {"exit_code": 0, "stdout": "hi\n"}
    answer = await bash(talk, "echo out; echo oops >&2; exit 3")
    assert (answer["exit_code"], answer["stdout"], answer["stderr"]) == (3, "out\n", "oops\n")


async def test_the_shell_and_the_file_tools_work_on_the_same_files(api: httpx.AsyncClient) -> None:
    talk = await new_talk(api)
    await use(talk, "write_file", path="/data/words.txt", content="pear\napple\n")
    assert (await bash(talk, "sort data/words.txt"))["stdout"] == "apple\npear\n"
    await bash(
        talk,
        "mkdir -p out/deep; sort data/words.txt > out/deep/sorted.txt; sed -i s/pear/plum/ data/words.txt",
    )
    assert "apple\npear" in await content(talk, "/out/deep/sorted.txt")
    assert "plum" in await content(talk, "/data/words.txt")
    await bash(talk, "rm -r out; mv data/words.txt data/fruit.txt")
    assert (await use(talk, "read_file", path="/out/deep/sorted.txt"))["success"] is False
    assert (await use(talk, "read_file", path="/data/words.txt"))["success"] is False
    assert "plum" in await content(talk, "/data/fruit.txt")


async def test_every_file_that_a_command_changed_has_an_event_and_no_other_has(
    api: httpx.AsyncClient,
) -> None:
    talk = await new_talk(api)
    await use(talk, "write_file", path="/kept.txt", content="kept")
    await use(talk, "write_file", path="/changed.txt", content="old")
    await bash(talk, "cat kept.txt; echo new > changed.txt; echo hello > made.txt; printf kept > kept.txt")
    await bash(talk, "rm made.txt")
    written = [event["data"] for event in await talk.events(types="file.written")][2:]
    assert sorted(
        (each["path"], each["operation"], each["created"], each["size_bytes"]) for each in written
    ) == [
        ("/changed.txt", "write", False, 4),
        ("/made.txt", "delete", False, 0),
        ("/made.txt", "write", True, 6),
    ]


async def test_folder_variables_and_functions_last_over_calls_and_a_kill(
    http: httpx.AsyncClient, any_server: Server
) -> None:
    talk = await new_talk(http)
    await bash(
        talk,
        "mkdir -p sub; echo x > sub/file; cd sub; export A='q\"`$x'; B=$'two\\nlines'; arr=(1 '2 3'); "
        'greet() { echo "hi $1"; }',
    )
    await any_server.restart()
    answer = await bash(talk, 'pwd; ls; echo "$A" "$B" "${arr[1]}"; greet Ada')
    assert answer["stdout"] == '/workspace/sub\nfile\nq"`$x two\nlines 2 3\nhi Ada\n'
    assert "stderr" not in answer


async def test_no_count_of_commands_runs_out_over_a_sessions_life(api: httpx.AsyncClient) -> None:
    """bashkit stops an instance after 100,000 commands; a session's shell continues."""
    talk = await new_talk(api)
    for _ in range(3):
        answer = await bash(talk, "for ((i = 0; i < 40000; i++)); do :; done; n=$((n + 1)); echo $n")
    assert (answer["exit_code"], answer["stdout"]) == (0, "3\n")


async def test_a_fork_has_its_own_shell_that_starts_from_the_originals_state(
    api: httpx.AsyncClient,
) -> None:
    talk = await new_talk(api)
    await bash(talk, "X=one; echo 1 > f")
    fork = Talk(api, (await post(api, talk.path("/fork"), {}))["id"])
    await bash(talk, "X=two; echo 2 > f")
    assert (await bash(fork, "echo $X; cat f"))["stdout"] == "one\n1\n"
    assert (await bash(talk, "echo $X; cat f"))["stdout"] == "two\n2\n"


async def test_sessions_do_not_see_each_other(api: httpx.AsyncClient) -> None:
    one, other = await new_talk(api), await new_talk(api)
    await bash(one, "SECRET=1; echo x > /workspace/mine")
    assert (await bash(other, "echo [$SECRET]; ls /workspace"))["stdout"] == "[]\n"


async def test_output_streams_while_the_command_runs(api: httpx.AsyncClient) -> None:
    talk = await new_talk(api)
    async with talk.follow() as stream:
        await talk.say(
            script(
                {"tool_calls": [call("bash", command="echo first; sleep 0.5; echo second >&2")]},
                {"text": "Done."},
            )
        )
        frames = await stream.until("tool.completed")
    pieces = [frame.data["data"] for frame in frames if frame.kind == "tool.output.delta"]
    assert [(piece["delta"], piece["stream"]) for piece in pieces] == [
        ("first\n", "stdout"),
        ("second\n", "stderr"),
    ]


async def test_secrets_are_redacted_in_live_output_and_results(api: httpx.AsyncClient) -> None:
    talk = await new_talk(api)
    assert (await use(talk, "secret_store", operation="set", key="TOKEN", value="hunter2-hunter2"))["success"]
    async with talk.follow() as stream:
        await stream.until("session.idled")
        command = "printf hunter2; sleep 0.3; printf -- '-hun'; echo ter2"
        await talk.say(script({"tool_calls": [call("bash", command=command)]}, {"text": "Done."}))
        frames = await stream.until("tool.completed")
    assert (
        "".join(frame.data["data"]["delta"] for frame in frames if frame.kind == "tool.output.delta")
        == "[secret TOKEN]\n"
    )
    assert "[secret TOKEN]" in frames[-1].data["data"]["result"][0]["text"]


async def test_an_empty_folder_exists_in_the_next_command_too(api: httpx.AsyncClient) -> None:
    talk = await new_talk(api)
    await bash(talk, "mkdir -p empty/deep; cd empty/deep")
    assert (await bash(talk, "pwd; rmdir /workspace/empty/deep"))["stdout"] == "/workspace/empty/deep\n"
    assert (await bash(talk, "cd /workspace; find ."))["stdout"].split() == [".", "./empty"]


@pytest.mark.parametrize(
    ("command", "problem"),
    [
        ("while true; do :; done", "limit"),
        ("f() { f; }; f", "depth"),
        ("x=a; for i in {1..40}; do x=$x$x; done; echo ${#x}", "memory"),
        ("sleep 60", "timeout"),
        ("sleep 60 & echo started; wait", "timeout"),
    ],
)
async def test_an_endless_command_is_stopped_and_the_shell_works_afterwards(
    api: httpx.AsyncClient, command: str, problem: str
) -> None:
    talk = await new_talk(api)
    await bash(talk, "KEPT=yes")
    answer = await bash(talk, f"echo before > file; {command}", timeout=1)
    assert answer["exit_code"] != 0
    assert problem in answer["stderr"]
    assert (await bash(talk, "echo $KEPT; cat file"))["stdout"] == "yes\nbefore\n"


async def test_a_syntax_error_changes_nothing(api: httpx.AsyncClient) -> None:
    talk = await new_talk(api)
    for command, problem in (("echo {1..10000000}", "brace"), ("if then (", "syntax error")):
        answer = await bash(talk, f"echo before > file; {command}")
        assert answer["exit_code"] != 0
        assert problem in answer["stderr"]
    assert (await bash(talk, "ls"))["stdout"] == ""


async def test_endless_output_is_truncated(api: httpx.AsyncClient) -> None:
    talk = await new_talk(api)
    async with talk.follow() as stream:
        command = "head -c 900000 /dev/zero | tr '\\0' a > f; cat f f f f"
        await talk.say(script({"tool_calls": [call("bash", command=command)]}, {"text": "Done."}))
        frames = await stream.until("tool.completed")
    shown = sum(len(frame.data["data"]["delta"]) for frame in frames if frame.kind == "tool.output.delta")
    assert shown < 600_000
    assert len(frames[-1].data["data"]["result"][0]["text"]) < 100_000


async def test_shell_state_over_the_limit_is_dropped_with_a_note(api: httpx.AsyncClient) -> None:
    talk = await new_talk(api)
    await bash(talk, "A=small")
    answer = await bash(talk, "A=$(head -c 400000 /dev/zero | tr '\\0' a); echo ${#A}")
    assert "kept" in answer["notes"][0]
    assert (await bash(talk, "echo $A"))["stdout"] == "small\n"


async def test_there_is_no_host_and_no_network(api: httpx.AsyncClient) -> None:
    talk = await new_talk(api)
    answer = await bash(
        talk,
        f"curl -sS {api.base_url}/health; cat /proc/self/environ; ls /srv /var/lib; python3 -c 1; "
        "exec 3<>/dev/tcp/127.0.0.1/80; "
        "ln -s / up; cat up/../../../../etc/shadow; cat /etc/hostname; id -un",
    )
    assert answer["stdout"].split() == ["session", "agent"]
    assert "ok" not in answer["stdout"]
    assert "network access not configured" in answer["stderr"]


async def test_the_shell_reaches_only_hosts_that_the_session_allows_by_name(api: httpx.AsyncClient) -> None:
    access = {
        "allowed": ["allowed.invalid", "*.pattern.invalid", "blocked.invalid", "127.0.0.1"],
        "blocked": ["blocked.invalid"],
    }
    talk = await new_talk(api, network_access=access)
    hosts = ("allowed.invalid", "a.pattern.invalid", "blocked.invalid", "other.invalid", "127.0.0.1")
    answer = await bash(talk, "; ".join(f"curl -sS http://{host}/" for host in hosts))
    lines = [line for line in answer["stderr"].splitlines() if line]
    assert ["denied" in line for line in lines] == [False, True, True, True, True], lines


async def test_a_script_can_be_run_in_every_command_after_it_was_written(api: httpx.AsyncClient) -> None:
    talk = await new_talk(api)
    await bash(
        talk,
        "printf '#!/bin/bash\\necho ran $1\\n' > job.sh; echo 'echo plain' > plain.sh; "
        "chmod +x job.sh plain.sh",
    )
    assert (await bash(talk, "./job.sh twice"))["stdout"] == "ran twice\n"
    assert "Permission denied" in (await bash(talk, "./plain.sh"))["stderr"]


async def test_a_read_only_file_is_not_changed_and_a_note_says_so(api: httpx.AsyncClient) -> None:
    fixed = {"path": "/rules.txt", "content": "fixed", "is_readonly": True}
    talk = await new_talk(api, initial_files=[fixed])
    answer = await bash(talk, "echo mine > rules.txt; echo free > free.txt")
    assert answer["notes"] == ["/rules.txt was not written: /rules.txt is read-only"]
    assert "not removed" in (await bash(talk, "rm rules.txt"))["notes"][0]
    assert (await bash(talk, "cat rules.txt free.txt"))["stdout"] == "fixedfree\n"


async def test_concurrent_changes_of_others_survive_a_command(
    api: httpx.AsyncClient,
) -> None:
    talk = await new_talk(api)
    await bash(talk, "mkdir -p old/deep keep; echo one | tee log gone mine old/deep/a old/b keep/c")
    command = (
        "echo on; sleep 1; for f in log gone mine new; do echo me >> $f; done; echo same > same; "
        "rm -r old keep"
    )
    async with talk.follow() as stream:
        await talk.say(script({"tool_calls": [call("bash", command=command)]}, {"text": "Done."}))
        await stream.until("tool.output.delta")
        for path in ("log", "keep/c"):
            assert (await api.put(talk.path(f"/fs/{path}"), json={"content": "other\n"})).status_code == 200
        for path, content in (("new", "other\n"), ("same", "same\n"), ("old/deep/late", "late\n")):
            await post(api, talk.path(f"/fs/{path}"), {"content": content})
        assert (await api.delete(talk.path("/fs/gone"))).status_code == 200
        done = (await stream.until("tool.completed"))[-1].data["data"]
    notes = json.loads(done["result"][0]["text"])["notes"]
    assert sorted(notes) == [
        "/gone was not written: it was changed meanwhile",
        "/keep/c was not removed: it was changed meanwhile",
        "/log was not written: it was changed meanwhile",
        "/new was not written: it was changed meanwhile",
    ]
    assert (await bash(talk, "cat log new same mine; find . -type f | sort"))["stdout"].split() == [
        "other",
        "other",
        "same",
        "one",
        "me",
        "./keep/c",
        "./log",
        "./mine",
        "./new",
        "./old/deep/late",
        "./same",
    ]


async def test_in_an_archived_workspace_a_command_runs_and_changes_no_file(api: httpx.AsyncClient) -> None:
    space = await post(api, "/v1/workspaces", {"name": f"Put away {uuid4().hex}"})
    talk = await new_talk(api, workspace_id=space["id"])
    await bash(talk, "echo one > f")
    assert (await api.delete(f"/v1/workspaces/{space['id']}")).status_code == 204
    answer = await bash(talk, "cat f; echo two > f; X=1")
    assert answer["stdout"] == "one\n"
    archived = "this workspace is archived: its files are read-only until its `status` is `active` again"
    assert answer["notes"] == [f"no file was changed: {archived}"]
    assert (await bash(talk, "cat f; echo $X"))["stdout"] == "one\n1\n"


async def test_a_change_that_keeps_size_and_time_is_saved(
    api: httpx.AsyncClient,
) -> None:
    talk = await new_talk(api)
    await bash(talk, "echo aaa > f")
    await bash(talk, "touch -r f time; echo bbb > f; touch -r time f; rm time")
    assert await content(talk, "/f") == "bbb\n"


async def test_bytes_that_are_not_text_survive_the_shell(api: httpx.AsyncClient) -> None:
    talk = await new_talk(api)
    await use(talk, "write_file", path="/bytes", content="/wAA/g==", encoding="base64")
    await bash(talk, "cp bytes copy; mv bytes moved")
    for path in ("/copy", "/moved"):
        assert await content(talk, path) == "/wAA/g=="


async def test_a_command_interrupted_by_a_kill_is_reported_and_not_repeated(
    http: httpx.AsyncClient, any_server: Server
) -> None:
    talk = await new_talk(http)
    async with talk.follow() as stream:
        await talk.say(
            script(
                {
                    "tool_calls": [
                        call("bash", command="echo once >> log; echo started; sleep 60; echo late >> log")
                    ]
                },
                {"text": "I see."},
            )
        )
        await stream.until("tool.output.delta")
        await any_server.kill()
    await any_server.start()
    events = await talk.logged_until("session.idled")
    (done,) = [event["data"] for event in events if event["type"] == "tool.completed"]
    assert (done["success"], done["status"]) == (False, "interrupted")
    assert "interrupted" in done["error"]
    assert [event["type"] for event in events].count("tool.started") == 1
    assert text_in((await talk.messages())[-1]) == "I see."
    assert (await bash(talk, "ls"))["stdout"] == ""


async def test_a_cancelled_command_leaves_nothing_behind(api: httpx.AsyncClient) -> None:
    talk = await new_talk(api)
    async with talk.follow() as stream:
        await talk.say(
            script(
                {"tool_calls": [call("bash", command="echo x > f; X=1; echo on; sleep 60")]},
                {"text": "Done."},
            )
        )
        await stream.until("tool.output.delta")
        await talk.cancel()
        await stream.until("session.idled")
    assert (await bash(talk, "ls; echo [$X]"))["stdout"] == "[]\n"


async def test_a_deleted_sessions_shell_state_goes_with_it(
    http: httpx.AsyncClient, any_server: Server
) -> None:
    talk = await new_talk(http)
    await bash(talk, "X=1")
    assert (await http.delete(talk.path())).status_code in (200, 204)

    async def gone() -> bool:
        return (await http.get(talk.path())).status_code == 404

    await when(gone)
