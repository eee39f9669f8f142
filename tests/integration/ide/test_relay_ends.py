"""What ends with what: an IDE's shutdown and restart, a kernel that dies under it, an IDE that is killed."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

import pytest

from tests.programs import piped

# the types of this folder's fixtures
Ide: TypeAlias = Any
Kernel: TypeAlias = Any
Client: TypeAlias = Any
Message: TypeAlias = dict[str, Any]

SOON = 15.0
RESTARTED = "left it as it is, with all its variables"


# -- shutdown and restart


@pytest.mark.parametrize("now", [False, True])
def test_a_shutdown_ends_the_relay_and_leaves_the_kernel_with_its_variables(
    kernel: Kernel, agent: Client, start_ide: Callable[..., Ide], *, now: bool
) -> None:
    ide = start_ide(kernel)
    ide.client().run("stays = 'here'")
    ide.manager.shutdown_kernel(now=now)
    assert not ide.manager.is_alive()
    assert agent.value("stays") == "'here'"
    assert kernel.file.exists()
    assert ide.stderr() == ""


def test_a_shutdown_by_message_is_answered_and_broadcast_and_the_relay_ends_in_order(
    kernel: Kernel, agent: Client, start_ide: Callable[..., Ide]
) -> None:
    ide = start_ide(kernel)
    client = ide.client()
    msg_id = client.send("control", "shutdown_request", {"restart": False})
    assert client.reply(msg_id, "control")["content"] == {"status": "ok", "restart": False}
    assert client.of("shutdown_reply", msg_id)["content"] == {"status": "ok", "restart": False}
    assert ide.ended() == 0
    assert agent.run("'alive'")[0]["status"] == "ok"


@pytest.mark.parametrize("now", [False, True])
def test_a_restart_leaves_the_variables_and_says_so_once_where_a_person_sees_it(
    kernel: Kernel, agent: Client, start_ide: Callable[..., Ide], *, now: bool
) -> None:
    ide = start_ide(kernel)
    ide.client().run("kept = 5")
    ide.manager.restart_kernel(now=now)
    client = ide.client()
    client.run("pass", silent=True)
    assert client.printed(client.run("pass", store_history=False)[1], "stderr") == ""
    assert agent.run("'not in the cells of others'")[0]["status"] == "ok"
    _, output = client.run("kept")
    said = client.printed(output, "stderr")
    assert RESTARTED in said
    assert kernel.name in said
    assert "restart it where it was started" in said
    assert [each["content"]["data"]["text/plain"] for each in output if each["msg_type"] == "execute_result"] == ["5"]
    assert client.printed(client.run("kept")[1], "stderr") == ""


def test_an_ide_that_starts_the_kernel_again_after_a_shutdown_is_told_of_no_restart(
    kernel: Kernel, start_ide: Callable[..., Ide]
) -> None:
    ide = start_ide(kernel)
    ide.client()
    ide.manager.shutdown_kernel()
    client = start_ide(kernel).client()
    assert client.printed(client.run("pass")[1], "stderr") == ""


@pytest.mark.parametrize("code", ["exit", "quit", "exit()", " quit()\n", "exit;", "%exit", "exit(0)", "quit ()"])
def test_leaving_by_typing_it_leaves_the_kernel_alive_and_ends_a_console(agent: Client, ide: Ide, code: str) -> None:
    client = ide.client()
    client.run("'whatever the first cell is told'")
    reply, output = client.run(code)
    assert reply["status"] == "ok"
    assert reply["payload"] == [{"source": "ask_exit", "keepkernel": True}]
    assert [each["msg_type"] for each in output] == ["status", "execute_input", "stream", "status"]
    assert "was not ended" in client.printed(output, "stderr")
    assert agent.run("'alive'")[0]["status"] == "ok"
    client.close()


def test_leaving_waits_its_turn_behind_what_runs(agent: Client, ide: Ide) -> None:
    client = ide.client()
    running = client.start("import threading; go = threading.Event(); go.wait(60)")
    client.began(running)
    leaving = client.start("exit")
    subshell = client.ask("control", "create_subshell_request")["content"]["subshell_id"]
    code = {"code": "go.set()", "silent": True}
    client.send("shell", "execute_request", code, header={"subshell_id": subshell})
    replies = [client.find("shell", lambda each: each["parent_header"]["msg_id"] in (running, leaving)) for _ in "ab"]
    assert [each["parent_header"]["msg_id"] for each in replies] == [running, leaving]
    assert replies[1]["content"]["execution_count"] == replies[0]["content"]["execution_count"] + 1
    client.close()


@pytest.mark.parametrize("code", ["y = 1\nexit()", "if True:\n    quit(1)", "print(1); exit()"])
def test_code_that_would_end_the_kernel_after_other_things_is_refused(agent: Client, ide: Ide, code: str) -> None:
    client = ide.client()
    reply, output = client.run(code)
    assert (reply["status"], reply["ename"]) == ("error", "NotEnded")
    assert "nothing of it was executed" in reply["evalue"]
    assert client.printed(output) == ""
    assert agent.run("'alive'")[0]["status"] == "ok"
    client.close()


@pytest.mark.parametrize("code", ["exited = 1", "quitter = 'exit()'", "exit_code = 0", "'exit'", "def f(): exit()"])
def test_code_that_only_mentions_leaving_runs(agent: Client, ide: Ide, code: str) -> None:
    client = ide.client()
    reply, _ = client.run(code)
    assert (reply["status"], reply["payload"]) == ("ok", [])


# -- a kernel that dies, or comes back


def test_a_kernel_that_is_killed_under_a_running_cell_ends_it_and_the_relay_with_one_sentence(
    start_kernel: Callable[..., Kernel], start_ide: Callable[..., Ide]
) -> None:
    kernel = start_kernel()
    ide = start_ide(kernel)
    client = ide.client()
    msg_id = client.start("import os; os.kill(os.getpid(), 9)")
    queued = client.start("'never'")
    reply, output = client.reply(msg_id)["content"], client.output(msg_id)
    assert (reply["status"], reply["ename"]) == ("error", "KernelDied")
    assert [each["content"]["ename"] for each in output if each["msg_type"] == "error"] == ["KernelDied"]
    assert client.reply(queued)["content"]["ename"] == "KernelDied"
    assert ide.ended() == 4
    assert not ide.manager.is_alive()
    assert ide.stderr().count("\n") == 1
    assert "its variables are lost" in ide.stderr()


def test_what_a_kernel_said_before_it_ended_is_told_before_its_end(
    start_rogue_kernel: Callable[..., Any], world: Path, start_ide: Callable[..., Ide]
) -> None:
    client = start_ide(start_rogue_kernel()).client()
    output = client.output(client.start("last_words"))
    assert client.printed(output).replace(".", " ").split() == [str(number) for number in range(40)]
    assert [each["msg_type"] for each in output[-2:]] == ["error", "status"]


def test_what_is_asked_while_a_dead_kernel_is_looked_for_is_answered_too(
    start_kernel: Callable[..., Kernel], start_ide: Callable[..., Ide]
) -> None:
    kernel = start_kernel()
    ide = start_ide(kernel)
    client = ide.client()
    running = client.start("import time; time.sleep(100)")
    client.began(running)
    kernel.kill()
    # the relay has noticed: it does not give the interrupt to anybody
    late = client.start("'too late'")
    assert client.reply(running)["content"]["ename"] == "KernelDied"
    assert client.reply(late)["content"]["ename"] == "KernelDied"
    assert client.output(late)[-1]["content"] == {"execution_state": "idle"}


def test_a_kernel_that_is_started_again_answers_the_old_requests_with_an_error_and_the_new_ones_itself(
    start_kernel: Callable[..., Kernel], start_ide: Callable[..., Ide]
) -> None:
    kernel = start_kernel()
    ide = start_ide(kernel)
    client = ide.client()
    client.run("lost = 1")
    running = client.start("import time; time.sleep(100)")
    client.began(running)
    kernel.kill()
    between = client.start("'lost' in globals()")
    kernel.start()
    reply, output = client.reply(running)["content"], client.output(running)
    assert (reply["status"], reply["ename"]) == ("error", "KernelRestarted")
    assert [each["content"]["ename"] for each in output if each["msg_type"] == "error"] == ["KernelRestarted"]
    client.find("iopub", lambda each: each["content"].get("execution_state") == "restarting")
    reply, output = client.reply(between)["content"], client.output(between)
    assert reply["status"] == "ok"
    assert "variables are lost" in client.printed(output, "stderr")
    assert [each["content"]["data"]["text/plain"] for each in output if each["msg_type"] == "execute_result"] == [
        "False"
    ]
    assert client.printed(client.run("pass")[1], "stderr") == ""
    ide.manager.interrupt_kernel()
    assert ide.manager.is_alive()


def test_an_answer_to_a_question_of_the_old_kernel_is_none_to_the_new_one(
    start_kernel: Callable[..., Kernel], start_ide: Callable[..., Ide]
) -> None:
    kernel = start_kernel()
    client = start_ide(kernel).client()
    asked = client.start("input()")
    question = client.get("stdin")
    kernel.kill()
    client.send("stdin", "input_reply", {"value": "to the old one"}, parent=question)
    kernel.start()
    assert client.reply(asked)["content"]["ename"] == "KernelRestarted"
    again = client.start("input()")
    client.send("stdin", "input_reply", {"value": "to the new one"}, parent=client.get("stdin"))
    assert client.reply(again)["content"]["status"] == "ok"
    results = [each for each in client.output(again) if each["msg_type"] == "execute_result"]
    assert results[0]["content"]["data"]["text/plain"] == "'to the new one'"


# -- an IDE that ends

IDE = """
import sys
from jupyter_client.manager import KernelManager
manager = KernelManager(kernel_name=sys.argv[1])
manager.start_kernel()
client = manager.client()
client.start_channels()
client.wait_for_ready(timeout=30)
busy = "import time\\nfor _ in range(3600): time.sleep(1)"
client.execute(busy if sys.argv[2] == "busy" else "input()", stop_on_error=False)
if sys.argv[2] == "busy":
    client.get_iopub_msg(timeout=30)
else:
    client.get_stdin_msg(timeout=30)
print(manager.provisioner.pid, flush=True)
sys.stdin.read()
"""


@pytest.mark.parametrize("does", ["busy", "asks"])
def test_a_relay_ends_with_an_ide_that_is_killed_and_the_kernel_lives(
    kernel: Kernel, agent: Client, ide: Ide, does: str
) -> None:
    command = [sys.executable, "-c", IDE, ide.manager.kernel_name, does]
    with piped(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as killed:
        assert killed.stdout
        relay = int(killed.stdout.readline())
        descriptor = os.pidfd_open(relay)
        killed.kill()
    wait_for_end(descriptor)
    if does == "busy":
        agent.ask("control", "interrupt_request")
    assert agent.run("'alive'")[0]["status"] == "ok"


@pytest.mark.parametrize("signal_number", [signal.SIGTERM, signal.SIGHUP])
def test_a_relay_that_is_told_to_end_does_so_in_order(
    kernel: Kernel, agent: Client, start_ide: Callable[..., Ide], signal_number: int
) -> None:
    ide = start_ide(kernel)
    ide.client()
    os.kill(ide.pid, signal_number)
    assert ide.ended() == 0
    assert ide.stderr() == ""
    assert agent.run("'alive'")[0]["status"] == "ok"


def test_ports_that_are_taken_are_told_in_one_sentence(
    kernel: Kernel, start_ide: Callable[..., Ide], world: Path
) -> None:
    first = start_ide(kernel)
    first.client()
    command = [sys.executable, "-m", "bridge", "relay", "--kernel", kernel.name, first.manager.connection_file]
    second = subprocess.run(command, capture_output=True, timeout=SOON, check=False)
    assert second.returncode == 2
    assert b"ports cannot be listened on: Address already in use" in second.stderr
    assert second.stderr.count(b"\n") == 1


def wait_for_end(descriptor: int) -> None:
    """Wait until the process behind a descriptor has ended; bounded."""
    assert select.select([descriptor], [], [], SOON)[0], "the relay outlived its IDE"
    os.close(descriptor)
