"""PID 1 of a kernel's container, with a real kernel in the real image."""

from __future__ import annotations

import json
import textwrap
from datetime import UTC, datetime
from typing import Any

import pytest

Kernel = Any  # the fixtures' classes are in conftest.py, which is not to be imported
Lab = Any
START = {"event", "epoch", "pid", "time"}
PROBE = """
import os
def attempt(path):
    try:
        with open(path, "rb") as file:
            file.read(1)
    except OSError as error:
        return type(error).__name__
    return "read"
"""


def end_and_restart(kernel: Kernel, code: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Run a cell that ends the kernel; returns the two events that follow."""
    kernel.run("pass")
    assert kernel.events.next()["event"] == "started"
    kernel.begin(code)
    return kernel.events.next(), kernel.events.next()


def test_a_killed_kernel_starts_again_on_the_same_sockets_with_the_next_epoch(lab: Lab) -> None:
    kernel = lab.kernel()
    kernel.run("x = 1")
    ended, started = end_and_restart(kernel, "import os; os.kill(os.getpid(), 9)")
    assert (ended["event"], ended["epoch"], ended["cause"], ended["code"]) == ("ended", 1, "signal", 9)
    assert "SIGKILL" in ended["text"]
    assert set(started) == START
    assert (started["event"], started["epoch"]) == ("started", 2)
    # The same client, the same ports, the same key: it reconnects by itself, and the variables are gone.
    kernel.client.wait_for_ready(timeout=30)
    assert kernel.run("print('x' in globals())") == "False\n"


def test_a_kernel_that_exits_is_told_with_its_status_and_takes_its_stray_processes_along(lab: Lab) -> None:
    kernel = lab.kernel()
    kernel.run("import subprocess; subprocess.Popen(['setsid', '-f', 'sleep', '1000'], start_new_session=True).wait()")
    ended, started = end_and_restart(kernel, "import os; os._exit(3)")
    assert (ended["cause"], ended["code"]) == ("exit", 3)
    assert "3" in ended["text"]
    kernel.client.wait_for_ready(timeout=30)
    found = "import pathlib; print(sorted(f.read_text().strip() for f in pathlib.Path('/proc').glob('[0-9]*/comm')))"
    assert kernel.run(found) == "['python', 'python']\n"
    assert started["epoch"] == 2


def test_running_out_of_memory_is_told_as_that_with_the_limit(lab: Lab) -> None:
    kernel = lab.kernel(mem_limit="150m", memswap_limit="150m")
    ended, started = end_and_restart(kernel, "x = b'x' * (1 << 30)")
    assert (ended["cause"], ended["code"]) == ("oom", 9)
    assert "150 MiB" in ended["text"]
    assert started["epoch"] == 2


def test_signals_from_inside_do_nothing_and_a_hang_up_from_outside_restarts_the_kernel(lab: Lab) -> None:
    kernel = lab.kernel()
    kernel.run(
        "import os, signal\nfor number in sorted(signal.valid_signals()):\n    os.kill(1, number)\nmine = os.getpid()"
    )
    assert kernel.run("print(os.getppid(), os.getpid() == mine)") == "1 True\n"
    kernel.container.kill("HUP")
    events = [kernel.events.next() for _ in range(3)]
    assert [(event["event"], event["epoch"]) for event in events] == [("started", 1), ("ended", 1), ("started", 2)]
    assert events[1]["cause"] == "restart"


def test_the_interrupt_signal_from_outside_interrupts_the_running_cell(lab: Lab) -> None:
    kernel = lab.kernel()
    request = kernel.client.execute("print('go', flush=True); import time; time.sleep(100)", stop_on_error=False)
    while kernel.client.get_iopub_msg(timeout=30)["content"].get("text") != "go\n":
        pass
    kernel.container.kill("INT")
    while (reply := kernel.client.get_shell_msg(timeout=30))["parent_header"]["msg_id"] != request:
        pass
    assert reply["content"]["ename"] == "KeyboardInterrupt"


def test_a_stopped_kernel_has_not_ended(lab: Lab) -> None:
    kernel = lab.kernel()
    kernel.run(
        "import os, subprocess\n"
        "subprocess.Popen(['sh', '-c', f'sleep 0.2; kill -CONT {os.getpid()}'])\n"
        "os.kill(os.getpid(), 19)"
    )
    kernel.container.kill("TERM")
    assert kernel.container.wait(timeout=30)["StatusCode"] == 0
    assert [event["event"] for event in kernel.events.rest()] == ["started"]


def test_the_terminate_signal_from_outside_ends_the_container_and_its_gateway_with_it(lab: Lab) -> None:
    kernel = lab.kernel()
    kernel.run("import subprocess; subprocess.Popen(['sleep', '1000'])")
    kernel.container.kill("TERM")
    assert kernel.container.wait(timeout=30)["StatusCode"] == 0
    assert kernel.gateway.wait(timeout=30)["StatusCode"] == 0
    assert [event["event"] for event in kernel.gateway_events.rest()] == ["listening", "ready", "ended"]


@pytest.mark.parametrize("name", ["mem", "environ", "maps", "fd/0"])
def test_nothing_of_the_supervisor_can_be_read_from_inside(shared_kernel: Kernel, name: str) -> None:
    assert shared_kernel.run(PROBE + f"print(attempt('/proc/1/{name}'))") == "PermissionError\n"


def test_the_kernel_itself_stays_readable_so_that_debuggers_work(shared_kernel: Kernel) -> None:
    assert (
        shared_kernel.run(PROBE + "print(attempt('/proc/self/environ'), attempt('/proc/self/maps'))") == "read read\n"
    )


def test_the_key_is_in_no_process_list_no_log_and_not_in_what_the_engine_tells(shared_kernel: Kernel) -> None:
    found = """
    import pathlib
    key = "0123456789abcdef-" + "this-is-the-key"
    texts = [f.read_bytes() for name in ("cmdline", "environ") for f in pathlib.Path("/proc").glob(f"[02-9]*/{name}")]
    print(len(texts) > 0, any(key.encode() in text for text in texts), key in open("/proc/1/cmdline").read())
    print(key in open("/run/kernel/connection.json").read())
    """
    assert shared_kernel.run(textwrap.dedent(found)) == "True False False\nTrue\n"
    shared_kernel.container.reload()
    told = json.dumps(shared_kernel.container.attrs).encode() + shared_kernel.container.logs(stdout=True, stderr=True)
    assert b"this-is-the-key" not in told


@pytest.mark.parametrize("cell", ["exit", "quit()", "exit(1)", "get_ipython().ask_exit()"])
def test_exit_in_a_cell_does_not_end_the_kernel(shared_kernel: Kernel, cell: str) -> None:
    assert "do not end this kernel" in shared_kernel.run(cell)
    assert shared_kernel.run("print(1 + 1)") == "2\n"


def test_the_kernel_gets_its_own_environment_and_what_was_given(shared_kernel: Kernel) -> None:
    asked = (
        "import os, getpass\n"
        "print({name: os.environ.get(name) for name in ('HOME', 'USER', 'LOGNAME', 'LANG', 'GIVEN')})\n"
        "print(getpass.getuser(), os.getcwd(), os.readlink('/proc/self/fd/0'), oct(os.umask(0o077)))\n"
        "print(os.getpid() == os.getsid(0) == os.getpgid(0), 'Blk:\\t' + '0' * 16 in open('/proc/self/status').read())"
    )
    assert shared_kernel.run(asked).splitlines() == [
        "{'HOME': '/home/kernel', 'USER': 'kernel', 'LOGNAME': 'kernel', 'LANG': 'C.UTF-8', 'GIVEN': 'yes'}",
        "kernel /home/kernel /dev/null 0o77",
        "True True",
    ]


def test_when_memory_runs_out_the_kernel_is_taken_before_the_supervisor(shared_kernel: Kernel) -> None:
    scores = "print(*(open(f'/proc/{pid}/oom_score_adj').read().strip() for pid in ('1', 'self')))"
    first, own = map(int, shared_kernel.run(scores).split())
    assert own > first


def test_what_is_installed_for_the_user_while_the_kernel_runs_can_be_imported(shared_kernel: Kernel) -> None:
    code = (
        "import site, pathlib\n"
        "pathlib.Path(site.getusersitepackages(), 'mine.py').write_text('value = 5')\n"
        "import mine; print(mine.value)\n"
        "!python -m pip --version"
    )
    lines = shared_kernel.run(code).splitlines()
    assert lines[0] == "5"
    assert lines[1].startswith("pip ")
    assert "/opt/kernel/" in lines[1]


def test_the_kernel_says_nothing_about_encryption(shared_kernel: Kernel) -> None:
    shared_kernel.run("pass")
    assert b"ncrypt" not in shared_kernel.container.logs(stdout=False, stderr=True)


def test_every_library_was_compiled_when_the_image_was_built(shared_kernel: Kernel) -> None:
    missing = (
        "import sys, pathlib\n"
        "print([m.__name__ for m in list(sys.modules.values())"
        " if getattr(m, '__cached__', None) and m.__file__.endswith('.py') and not pathlib.Path(m.__cached__).exists()"
        " and not m.__file__.startswith('/home/')])"
    )
    assert shared_kernel.run(missing) == "[]\n"


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (b"", "ended before a whole line"),
        (b'{"connection": {"key": "half-of-the-ke', "ended before a whole line"),
        (b"secret-nonsense\n", "not one line of JSON"),
        (b'{"connection": {"transport": "ipc", "ip": "/run/kernel-bridge/k"}}\n', "no key"),
    ],
)
def test_nonsense_on_standard_input_ends_the_container_without_repeating_it(lab: Lab, line: bytes, said: str) -> None:
    container = lab.supervisor(line, then_close=True)
    events = lab.events(container)
    assert container.wait(timeout=30)["StatusCode"] == 2
    (event,) = events.rest()
    assert event["event"] == "failed"
    assert said in event["text"]
    assert "half-of-the-ke" not in event["text"]
    assert "secret" not in event["text"]


def test_a_kernel_that_ends_again_and_again_is_slowed_down_until_somebody_asks_for_it(lab: Lab) -> None:
    kernel = lab.kernel(connection={"ip": "/nowhere/k"})
    events = [kernel.events.next() for _ in range(10)]
    assert [(event["event"], event["epoch"]) for event in events[-2:]] == [("started", 5), ("ended", 5)]
    kernel.container.reload()
    asked = datetime.now(UTC)
    kernel.container.kill("HUP")
    started = kernel.events.next()
    assert (started["event"], started["epoch"]) == ("started", 6)
    assert datetime.fromisoformat(started["time"]) > asked


def test_a_supervisor_that_is_not_the_first_process_refuses_to_run(lab: Lab) -> None:
    container = lab.container(["sh", "-c", "/opt/kernel/bin/python -I -S /opt/kernel-bridge/supervisor.py; exit $?"])
    container.start()
    assert container.wait(timeout=30)["StatusCode"] == 2
    assert b"first process" in container.logs()
