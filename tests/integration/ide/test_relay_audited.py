"""Whatever an IDE has a real kernel run through its relay is in the audit before it runs, or does not run."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.audited import lines
from tests.integration.ide.conftest import Client, Ide, Kernel, until
from tests.integration.ide.test_relay_messages import Debugger


@pytest.fixture
def file(tmp_path: Path) -> Path:
    directory = tmp_path / "audit"
    directory.mkdir(mode=0o700)
    return directory / "audit.jsonl"


@pytest.fixture
def client(
    start_kernel: Callable[..., Kernel],
    start_ide: Callable[..., Ide],
    file: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Client:
    """A client of a relay whose policy wants an audit."""
    policy = tmp_path / "policy.yaml"
    policy.write_text(f"version: 1\naudit: {{file: {file}}}\n")
    monkeypatch.setenv("KERNEL_BRIDGE_POLICY", str(policy))
    return start_ide(start_kernel()).client()


def told(file: Path, before: int) -> list[tuple[str | None, ...]]:
    """The lines since one, without what is the same in all of them."""
    return [(each.get("of", each["event"]), each.get("command"), each.get("outcome")) for each in lines(file)[before:]]


def stopped(client: Client) -> tuple[Debugger, str, int, int]:
    """Have a cell stand at a plain breakpoint: the debugger, the cell, its thread and its frame."""
    debugger = Debugger(client)
    debugger.attach()
    code = "here = 1\nhere = 2\n"
    debugger.breaks(code, 2)
    msg_id = client.start(code)
    thread = debugger.stopped()
    return debugger, msg_id, thread, debugger("stackTrace", threadId=thread)["stackFrames"][0]["id"]


def test_what_a_debugger_evaluates_is_told_before_it_runs_and_how_it_ended(client: Client, file: Path) -> None:
    debugger, cell, thread, frame = stopped(client)
    # looking, stepping and a breakpoint that only stops run no code of the IDE's
    assert told(file, 2) == [("execute", "attach", None), ("execute", None, "ok"), ("execute", None, None)]
    before = len(lines(file))
    code = f"open({str(file)!r}).read().count('\"evaluate\"')"
    assert debugger("evaluate", expression=code, frameId=frame, context="repl")["result"] == "1"
    assert told(file, before) == [("execute", "evaluate", None), ("execute", None, "ok")]
    begun = lines(file)[before]
    assert begun["code"] == {"sha256": hashlib.sha256(code.encode()).hexdigest(), "bytes": len(code)}
    assert (begun["request"], begun["kernel"]["kind"], begun["who"]["by"]) == ("debug_request", "host", "relay")
    debugger("continue", threadId=thread)
    assert client.reply(cell)["content"]["status"] == "ok"


def test_every_other_way_to_have_a_debugger_run_code_is_told(client: Client, file: Path) -> None:
    debugger, cell, thread, frame = stopped(client)
    before = len(lines(file))
    scopes = debugger("scopes", frameId=frame)["scopes"]
    debugger("setVariable", variablesReference=scopes[0]["variablesReference"], name="here", value="len('secret')")
    debugger("setExpression", expression="here", value="len('secret')", frameId=frame)
    for more in ({"condition": "print('x')"}, {"hitCondition": "1"}, {"logMessage": "{print('x')}"}):
        debugger("setBreakpoints", source={"path": "/x.py"}, breakpoints=[{"line": 1, **more}])
    debugger("setFunctionBreakpoints", breakpoints=[{"name": "f", "condition": "print('x')"}])
    debugger("setBreakpoints", source={"path": "/x.py"}, breakpoints=[{"line": 1}])
    debugger("richInspectVariables", variableName="here", frameId=frame)
    found = [each["command"] for each in lines(file)[before:] if each["event"] == "execute"]
    assert found == [
        *("setVariable", "setExpression", "setBreakpoints", "setBreakpoints", "setBreakpoints"),
        *("setFunctionBreakpoints", "richInspectVariables"),
    ]
    assert "secret" not in file.read_text()
    debugger("continue", threadId=thread)
    assert client.reply(cell)["content"]["status"] == "ok"


def test_what_cannot_be_told_a_debugger_does_not_run(client: Client, file: Path) -> None:
    debugger, cell, thread, frame = stopped(client)
    file.parent.rename(file.parent.with_name("gone"))
    content = {
        "seq": 99, "type": "request", "command": "evaluate",
        "arguments": {"expression": "globals().update(ran=1)", "frameId": frame, "context": "repl"},
    }  # fmt: skip
    refused = client.ask("control", "debug_request", content)["content"]
    assert (refused["success"], refused["ename"]) == (False, "NotAudited")
    assert "Nothing was executed" in refused["message"]
    file.parent.with_name("gone").rename(file.parent)
    debugger("continue", threadId=thread)
    assert client.reply(cell)["content"]["status"] == "ok"
    assert client.value("'ran' in globals()") == "False"


def test_a_request_that_is_not_known_is_taken_to_carry_code(client: Client, file: Path) -> None:
    before = len(lines(file))
    client.send("shell", "apply_request", {}, buffers=[b"pickled"])
    until(lambda: len(lines(file)) > before, "the line of the unknown request")
    begun = lines(file)[before]
    assert (begun["event"], begun["request"]) == ("execute", "apply_request")
    assert begun["code"]["sha256"] == hashlib.sha256(b"{}pickled").hexdigest()


def test_messages_that_carry_no_code_need_no_line(client: Client, file: Path) -> None:
    before = len(lines(file))
    client.ask("shell", "is_complete_request", {"code": "1"})
    client.ask("shell", "complete_request", {"code": "prin", "cursor_pos": 4})
    client.ask("shell", "comm_info_request")
    client.ask("control", "debug_request", {"seq": 1, "type": "request", "command": "debugInfo"})
    assert lines(file)[before:] == []


def test_a_debuggers_request_that_makes_no_sense_is_told(client: Client, file: Path) -> None:
    before = len(lines(file))
    commands: list[Any] = [None, 7, ["evaluate"], {"a": 1}, "nothing known"]
    for command in commands:
        client.send("control", "debug_request", {"seq": 1, "type": "request", "command": command, "arguments": [1]})

    def requests() -> list[Any]:
        return [each.get("request") for each in lines(file)[before:] if each["event"] == "execute"]

    until(lambda: len(requests()) == len(commands), "the lines of the requests")
    assert set(requests()) == {"debug_request"}


def test_how_it_ended_is_of_a_closed_set_and_an_errors_name_is_a_name(client: Client, file: Path) -> None:
    before = len(lines(file))
    forged = "get_ipython().kernel.do_execute = lambda *a, **b: {'status': 'secret', 'ename': 'the secret is 42'}"
    client.reply(client.start(forged))
    client.reply(client.start("1"))
    found = [(each["outcome"], each.get("error")) for each in lines(file)[before:] if each["event"] == "end"]
    assert found[-1] == ("error", None)
    assert "secret" not in file.read_text()
