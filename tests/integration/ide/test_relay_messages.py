"""What goes through a relay, both ways, held against the same asked of the kernel directly."""

from __future__ import annotations

import os
import signal
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

import pytest
import zmq
from jupyter_client.blocking.client import BlockingKernelClient

# the types of this folder's fixtures
Ide: TypeAlias = Any
Kernel: TypeAlias = Any
Client: TypeAlias = Any
Message: TypeAlias = dict[str, Any]

SOON = 15.0


def test_cells_run_in_the_shared_kernel_and_what_one_sets_the_other_reads(client: Client, agent: Client) -> None:
    reply, output = client.run("mine = 1\nprint('said')\nmine + 1")
    assert reply["status"] == "ok"
    assert client.printed(output) == "said\n"
    others = [each for each in output if each["msg_type"] != "stream"]
    assert [each["msg_type"] for each in others] == ["status", "execute_input", "execute_result", "status"]
    assert others[2]["content"]["data"]["text/plain"] == "2"
    assert agent.value("mine") == "1"
    agent.run("mine = 'theirs'")
    assert client.value("mine") == "'theirs'"


def test_a_failing_cell_tells_its_error_in_the_reply_and_in_the_output(client: Client) -> None:
    reply, output = client.run("1 / 0")
    assert (reply["status"], reply["ename"]) == ("error", "ZeroDivisionError")
    assert [each["content"]["ename"] for each in output if each["msg_type"] == "error"] == ["ZeroDivisionError"]


def test_what_another_client_runs_reaches_the_ide_as_it_is_published(client: Client, agent: Client) -> None:
    msg_id = agent.start("print('from the agent')")
    directly, relayed = agent.output(msg_id), client.output(msg_id)
    for each in (*directly, *relayed):
        del each["buffers"]
    assert relayed == directly
    assert client.printed(relayed) == "from the agent\n"


def test_the_kernel_reports_the_ides_own_ids_so_each_client_knows_its_own_cells(client: Client) -> None:
    msg_id = client.start("pass")
    reply = client.reply(msg_id)
    assert reply["parent_header"]["session"] == client.session.session
    assert {each["parent_header"]["session"] for each in client.output(msg_id)} == {client.session.session}


@pytest.mark.parametrize(
    ("channel", "msg_type", "content"),
    [
        ("shell", "complete_request", {"code": "some_thi", "cursor_pos": 8}),
        ("shell", "inspect_request", {"code": "some_thing", "cursor_pos": 10, "detail_level": 1}),
        ("shell", "history_request", {"hist_access_type": "range", "session": 0, "start": 1, "stop": 2, "raw": True,
                                      "output": False}),
        ("shell", "is_complete_request", {"code": "for each in x:"}),
        ("shell", "comm_info_request", {}),
        ("shell", "kernel_info_request", {}),
        ("control", "kernel_info_request", {}),
        ("control", "debug_request", {"seq": 1, "type": "request", "command": "debugInfo", "arguments": {}}),
        ("control", "list_subshell_request", {}),
    ],
)  # fmt: skip
def test_a_question_gets_the_kernels_own_answer(
    client: Client, agent: Client, channel: str, msg_type: str, content: Message
) -> None:
    agent.run("some_thing = 5")
    relayed = client.ask(channel, msg_type, content)
    directly = agent.ask(channel, msg_type, content)
    assert relayed["msg_type"] == msg_type.replace("request", "reply")
    for each in (relayed["content"], directly["content"]):
        assert each.get("status") != "error"
        each.pop("seq", None)  # the debugger counts
    assert relayed["content"] == directly["content"]
    assert (relayed["header"]["session"], relayed["metadata"].keys()) == (
        directly["header"]["session"],
        directly["metadata"].keys(),
    )


def test_what_the_kernel_uses_is_told_through_the_relay(client: Client, kernel: Kernel) -> None:
    reply = client.ask("control", "usage_request")
    assert reply["msg_type"] == "usage_reply"
    assert reply["content"]["pid"] == kernel.process.pid


def test_a_request_of_a_type_that_nobody_knows_reaches_the_kernel_with_its_buffers(
    start_rogue_kernel: Callable[..., Any], world: Path, start_ide: Callable[..., Ide]
) -> None:
    rogue = start_rogue_kernel()
    client = start_ide(rogue).client()
    buffers = [b"\x00\xff<IDS|MSG>", b"", b"x" * 100_000]
    reply = client.ask("shell", "future_request", {"mirror": [1, None]}, buffers=buffers)
    assert (reply["msg_type"], reply["content"]) == ("future_reply", {"mirror": [1, None]})
    assert [bytes(each) for each in reply["buffers"]] == buffers


def test_an_unknown_request_leaves_the_next_one_to_be_answered(client: Client) -> None:
    client.send("shell", "some_future_request", {"a": 1}, buffers=[b"\x00\x01"])
    assert client.run("1")[0]["status"] == "ok"


def test_messages_that_jupyters_own_client_signs_and_reads_pass(ide: Ide) -> None:
    client = BlockingKernelClient()
    client.load_connection_info(ide.info.to_json())
    client.start_channels()
    client.wait_for_ready(timeout=SOON)
    seen: list[Message] = []
    reply = client.execute_interactive("print('by the book')", timeout=SOON, output_hook=seen.append)
    client.stop_channels()
    assert reply["content"]["status"] == "ok"
    assert [each["content"]["text"] for each in seen if each["msg_type"] == "stream"] == ["by the book\n"]


# -- comms


ECHO = """
from ipykernel.comm import Comm
import comm
def _opened(channel, message):
    @channel.on_msg
    def _(message):
        channel.send({"got": message["content"]["data"]}, buffers=[bytes(each)[::-1] for each in message["buffers"]])
    channel.send({"opened": message["content"]["data"]}, buffers=message["buffers"])
comm.get_comm_manager().register_target("echo", _opened)
"""


def test_comms_opened_by_the_ide_carry_binary_buffers_both_ways(client: Client) -> None:
    client.run(ECHO)
    comm = uuid.uuid4().hex
    binary = [b"\x00<IDS|MSG>\xff", b"", os.urandom(300_000)]
    opened = client.send(
        "shell", "comm_open", {"comm_id": comm, "target_name": "echo", "data": {"n": 1}}, buffers=binary
    )
    first = client.of("comm_msg", opened)
    assert first["content"] == {"comm_id": comm, "data": {"opened": {"n": 1}}}
    assert [bytes(each) for each in first["buffers"]] == binary
    sent = client.send("shell", "comm_msg", {"comm_id": comm, "data": {"n": 2}}, buffers=binary)
    second = client.of("comm_msg", sent)
    assert second["content"] == {"comm_id": comm, "data": {"got": {"n": 2}}}
    assert [bytes(each) for each in second["buffers"]] == [each[::-1] for each in binary]
    assert comm in client.ask("shell", "comm_info_request")["content"]["comms"]
    client.send("shell", "comm_close", {"comm_id": comm, "data": {}})
    assert comm not in client.ask("shell", "comm_info_request")["content"]["comms"]


def test_comms_opened_by_the_kernel_reach_the_ide_and_its_words_reach_them(client: Client) -> None:
    _, output = client.run(
        "import comm\ngot = []\n"
        "made = comm.create_comm('widget', data={'a': 1}, metadata={'m': 2}, buffers=[b'\\x01\\x02'])\n"
        "made.on_msg(lambda message: got.append((message['content']['data'], bytes(message['buffers'][0]))))"
    )
    opened = next(each for each in output if each["msg_type"] == "comm_open")
    assert (opened["content"]["target_name"], opened["content"]["data"]) == ("widget", {"a": 1})
    assert (opened["metadata"], [bytes(each) for each in opened["buffers"]]) == ({"m": 2}, [b"\x01\x02"])
    client.send("shell", "comm_msg", {"comm_id": opened["content"]["comm_id"], "data": {"up": 1}}, buffers=[b"\xfe"])
    assert client.value("got") == "[({'up': 1}, b'\\xfe')]"
    _, output = client.run("made.close()")
    assert [each["content"]["comm_id"] for each in output if each["msg_type"] == "comm_close"] == [
        opened["content"]["comm_id"]
    ]


# -- subshells, the debugger


def test_a_subshell_works_while_a_cell_runs(client: Client) -> None:
    subshell = client.ask("control", "create_subshell_request")["content"]["subshell_id"]
    assert subshell in client.ask("control", "list_subshell_request")["content"]["subshell_id"]
    client.run("import threading\ndone = threading.Event()")
    waits = client.start("done.wait(30)")
    client.began(waits)
    beside = client.send(
        "shell", "execute_request", {"code": "done.set()", "silent": False}, header={"subshell_id": subshell}
    )
    assert client.reply(beside)["content"]["status"] == "ok"
    assert client.reply(waits)["content"]["status"] == "ok"
    assert [each["content"]["data"] for each in client.output(waits) if each["msg_type"] == "execute_result"] == [
        {"text/plain": "True"}
    ]
    assert client.ask("control", "delete_subshell_request", {"subshell_id": subshell})["content"]["status"] == "ok"
    assert subshell not in client.ask("control", "list_subshell_request")["content"]["subshell_id"]


def test_subshells_that_an_ide_leaves_behind_are_deleted_and_nobody_elses(
    kernel: Kernel, agent: Client, start_ide: Callable[..., Ide]
) -> None:
    ide = start_ide(kernel)
    client = ide.client()
    left = client.ask("control", "create_subshell_request")["content"]["subshell_id"]
    others = agent.ask("control", "create_subshell_request")["content"]["subshell_id"]
    ide.manager.shutdown_kernel()
    there = agent.ask("control", "list_subshell_request")["content"]["subshell_id"]
    assert (left in there, others in there) == (False, True)
    agent.ask("control", "delete_subshell_request", {"subshell_id": others})


class Debugger:
    """The debug adapter protocol over a client's control channel."""

    def __init__(self, client: Client) -> None:
        self.client, self.number = client, 0

    def __call__(self, command: str, **arguments: Any) -> Any:
        self.number += 1
        content = {"seq": self.number, "type": "request", "command": command, "arguments": arguments}
        reply = self.client.ask("control", "debug_request", content)["content"]
        assert reply["success"], reply
        return reply.get("body")

    def attach(self) -> None:
        self("initialize", clientID="test", adapterID="", pathFormat="path", linesStartAt1=True, columnsStartAt1=True)
        self.number += 1
        content = {"seq": self.number, "type": "request", "command": "attach", "arguments": {}}
        self.client.ask("control", "debug_request", content)

    def breaks(self, code: str, line: int) -> None:
        source = self("dumpCell", code=code)["sourcePath"]
        self("setBreakpoints", source={"path": source}, breakpoints=[{"line": line}], sourceModified=False)
        self("configurationDone")

    def stopped(self) -> int:
        event = self.client.find(
            "iopub", lambda each: each["msg_type"] == "debug_event" and each["content"]["event"] == "stopped"
        )
        return int(event["content"]["body"]["threadId"])


def test_a_breakpoint_stops_a_cell_and_lets_it_go_on(client: Client) -> None:
    debugger = Debugger(client)
    debugger.attach()
    assert debugger("debugInfo")["isStarted"]
    code = "here = 1\nhere = 2\n"
    debugger.breaks(code, 2)
    msg_id = client.start(code)
    thread = debugger.stopped()
    frame = debugger("stackTrace", threadId=thread)["stackFrames"][0]
    assert frame["line"] == 2
    debugger("continue", threadId=thread)
    assert client.reply(msg_id)["content"]["status"] == "ok"
    debugger("disconnect", restart=False, terminateDebuggee=False)
    assert not debugger("debugInfo")["isStarted"]


def test_an_ide_that_is_killed_at_a_breakpoint_leaves_a_kernel_that_others_can_use(
    kernel: Kernel, agent: Client, start_ide: Callable[..., Ide]
) -> None:
    ide = start_ide(kernel)
    client = ide.client()
    debugger = Debugger(client)
    debugger.attach()
    code = "there = 1\nthere = 2\n"
    debugger.breaks(code, 2)
    client.start(code)
    debugger.stopped()
    os.kill(ide.pid, signal.SIGTERM)
    ide.ended()
    assert agent.value("there") == "2"


# -- several at once


def test_two_ides_share_a_kernel_and_each_sees_the_others_work(
    ide: Ide, client: Client, kernel: Kernel, start_ide: Callable[..., Ide]
) -> None:
    other = start_ide(kernel).client()
    other.run("'whatever is to be told first has been told'")
    msg_id = other.start("print('in the second'); common = 7")
    seen, own = client.output(msg_id), other.output(msg_id)
    assert [each["msg_id"] for each in seen] == [each["msg_id"] for each in own]
    assert other.reply(msg_id)["content"]["status"] == "ok"
    assert client.value("common") == "7"


def test_two_clients_of_one_relay_get_their_own_replies_alone(ide: Ide, client: Client) -> None:
    other = ide.client()
    asked = [each.start(f"'{number}'") for number in range(10) for each in (client, other)]
    for msg_id, each in zip(asked, [client, other] * 10, strict=True):
        assert each.reply(msg_id)["content"]["status"] == "ok"
    assert not any(each.sockets["shell"].poll(0) or each.kept["shell"] for each in (client, other))


def test_an_ide_that_joins_while_a_cell_runs_is_answered_and_its_cell_waits_its_turn(
    kernel: Kernel, agent: Client, start_ide: Callable[..., Ide]
) -> None:
    agent.run("import threading\nturn = threading.Event()\nasync def soon(): pass")
    runs = agent.start("turn.wait(60)")
    agent.began(runs)
    ide = start_ide(kernel)
    client = ide.client()
    by_the_book = BlockingKernelClient()
    by_the_book.load_connection_info(ide.info.to_json())
    by_the_book.start_channels()
    by_the_book.wait_for_ready(timeout=SOON)
    by_the_book.stop_channels()
    queued = client.start("'after it'")
    subshell = agent.ask("control", "create_subshell_request")["content"]["subshell_id"]
    assert not client.sockets["shell"].poll(0)
    agent.send("shell", "execute_request", {"code": "turn.set()"}, header={"subshell_id": subshell})
    assert agent.reply(runs)["content"]["status"] == "ok"
    assert client.reply(queued)["content"]["status"] == "ok"
    agent.ask("control", "delete_subshell_request", {"subshell_id": subshell})


def test_the_first_cell_waits_for_an_ide_whose_iopub_is_just_connecting(
    kernel: Kernel, start_ide: Callable[..., Ide], agent: Client
) -> None:
    connecting = start_ide(kernel).client(asks=False, listens=False, late=["shell", "iopub"])
    connecting.ask("control", "kernel_info_request")  # the relay is there
    connecting.connect("shell")
    msg_id = connecting.start("print('seen')")
    for _ in range(2):  # relay and kernel are free, so the cell could have run before anybody listened
        connecting.ask("control", "kernel_info_request")
        agent.run("pass")
    connecting.connect("iopub")
    connecting.sockets["iopub"].setsockopt(zmq.SUBSCRIBE, b"")
    assert connecting.printed(connecting.output(msg_id)) == "seen\n"
    assert connecting.reply(msg_id)["content"]["status"] == "ok"


def test_a_client_that_listens_to_no_output_is_answered_all_the_same(
    kernel: Kernel, start_ide: Callable[..., Ide]
) -> None:
    deaf = start_ide(kernel).client(asks=False, listens=False, late=["iopub"])
    assert deaf.reply(deaf.start("1"))["content"]["status"] == "ok"


def test_every_subscriber_is_welcomed_to_its_topic(ide: Ide, client: Client) -> None:
    for topic in ("", "", "stream", "stream"):
        listener = ide.client(listens=False)
        listener.sockets["iopub"].subscribe(topic.encode())
        welcome = listener.get("iopub")
        assert (welcome["msg_type"], welcome["content"]) == ("iopub_welcome", {"subscription": topic})
        assert welcome["parent_header"] == {}
        listener.close()


def test_a_subscriber_to_a_topic_gets_that_alone(ide: Ide, client: Client) -> None:
    listener = ide.client(listens=False)
    listener.sockets["iopub"].subscribe(b"stream.stderr")
    assert listener.get("iopub")["msg_type"] == "iopub_welcome"
    for text in ("first", "second"):
        client.run(f"import sys; print('other'); print('{text}', file=sys.stderr)")
        assert listener.get("iopub")["content"]["text"].startswith(text)
