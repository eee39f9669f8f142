"""A sandbox that is over ends, with nobody but its supervisor to see to it; limits of seconds, real kernels.

Where something must not end it, its lifetime does: so each test sees an end, and which one it was.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

import pytest

from bridge.authors import OURS

Kernel = Any  # the fixtures' classes are in conftest.py, which is not to be imported
Lab = Any

SECONDS = 60.0
UNUSED, UNUSED_BY_AGENTS, OLD = 64, 65, 66
IDLE, LIFETIME = 8.0, 26.0  # a kernel on a loaded machine is there in half of the first


def status(kernel: Kernel) -> int:
    """How its container ended."""
    return int(kernel.container.wait(timeout=SECONDS)["StatusCode"])


def ended(kernel: Kernel) -> tuple[int, list[str], float]:
    """How its container ended, what was said, and how many seconds after the kernel's start it was over."""
    code, said = status(kernel), kernel.events.rest()
    since = datetime.fromisoformat(said[-1]["time"]) - datetime.fromisoformat(said[0]["time"])
    return code, [each["event"] for each in said], since.total_seconds()


def test_one_that_nobody_uses_says_so_and_ends_with_its_gateway(lab: Lab) -> None:
    kernel = lab.kernel(limits={"idle_timeout": 4.0})
    assert status(kernel) == UNUSED
    said = kernel.events.rest()
    assert [each["event"] for each in said] == ["started", "ending", "over"]
    assert {each["limit"] for each in said[1:]} == {"idle_timeout"}
    assert said[1]["seconds"] == 1
    assert "nobody is connected and nothing runs (idle_timeout)" in said[1]["text"]
    assert kernel.gateway.wait(timeout=SECONDS)["StatusCode"] == 0


def test_it_does_not_while_a_client_is_connected_that_does_nothing(lab: Lab) -> None:
    kernel = lab.kernel(limits={"idle_timeout": IDLE, "max_lifetime": LIFETIME})
    assert kernel.client.is_alive()
    code, said, _ = ended(kernel)
    assert (code, said) == (OLD, ["started", "ending", "over"])


def test_it_does_when_its_time_has_passed_since_the_client_left(lab: Lab) -> None:
    kernel = lab.kernel(limits={"idle_timeout": IDLE})
    kernel.run(f"import time; time.sleep({IDLE})")
    kernel.close()
    code, said, seconds = ended(kernel)
    assert (code, said) == (UNUSED, ["started", "ending", "over"])
    assert seconds > 2 * IDLE


def test_it_does_not_while_a_cell_runs_that_nobody_waits_for_and_its_lifetime_ends_that_too(lab: Lab) -> None:
    kernel = lab.kernel(limits={"idle_timeout": IDLE, "max_lifetime": LIFETIME})
    kernel.run("import subprocess; subprocess.Popen(['setsid', '-f', 'sleep', '1000'], start_new_session=True).wait()")
    kernel.begin("import time; time.sleep(1000)")
    kernel.client.get_iopub_msg(timeout=SECONDS)
    kernel.close()
    code, said, _ = ended(kernel)
    assert (code, said) == (OLD, ["started", "ending", "over"])
    kernel.container.reload()
    assert kernel.container.attrs["State"]["Pid"] == 0, "no process of it is left"


def test_agents_alone_have_less_time(lab: Lab) -> None:
    kernel = lab.kernel(limits={"idle_timeout": 1000.0, "idle_timeout_of_agents": IDLE, "max_lifetime": 4 * LIFETIME})
    kernel.session = f"{OURS}0123456789abcdef"
    kernel.run("print('an agent')")
    kernel.close()
    code, said, _ = ended(kernel)
    assert (code, said) == (UNUSED_BY_AGENTS, ["started", "ending", "over"])


def test_a_persons_visit_lifts_the_agents_limit_for_good_also_where_the_kernel_was_restarted(lab: Lab) -> None:
    limits = {"idle_timeout": 1000.0, "idle_timeout_of_agents": IDLE, "max_lifetime": LIFETIME}
    kernel = lab.kernel(limits=limits)
    kernel.client.kernel_info(reply=True, timeout=SECONDS)
    kernel.container.kill("HUP")
    kernel.close()
    code, said, _ = ended(kernel)
    assert (code, said) == (OLD, ["started", "ended", "started", "ending", "over"])


FORGED = """
import subprocess, sys
inside = '''
import socket, time
while True:
    end = socket.socket(socket.AF_UNIX)
    try:
        end.connect("/run/kernel-bridge/life")
        while True:
            end.sendall(b"2")
            time.sleep(0.05)
    except OSError:
        time.sleep(0.05)
'''
subprocess.Popen([sys.executable, "-c", inside], start_new_session=True)
"""
KEPT_BUSY = """
import subprocess, sys
inside = '''
import os, time
while True:
    with open("/run/kernel/cells", "r+b") as file:
        file.write(os.urandom(6))
    time.sleep(0.05)
'''
subprocess.Popen([sys.executable, "-c", inside], start_new_session=True)
"""
REPLACED = """
import os
os.unlink("/run/kernel/cells")
os.symlink("/dev/zero", "/run/kernel/cells")
os.unlink("/run/kernel-bridge/life")
os.mkfifo("/run/kernel-bridge/life")
"""


BUSY = """
import subprocess, sys
connecting = '''
import socket
while True:
    try:
        with socket.socket(socket.AF_UNIX) as end:
            end.settimeout(0)
            end.connect("/run/kernel-bridge/life")
    except OSError:
        pass
'''
leaving = '''
import os
while True:
    if os.fork() == 0:
        if os.fork() == 0:
            os._exit(0)
        os._exit(0)
    os.wait()
'''
for inside in (connecting, leaving):
    for _ in range(4):
        subprocess.Popen([sys.executable, "-I", "-S", "-c", inside], start_new_session=True)
"""


@pytest.mark.parametrize(
    ("code", "expected"),
    [(FORGED, UNUSED), (REPLACED, UNUSED), (KEPT_BUSY, OLD), (BUSY, UNUSED)],
    ids=["life", "places", "cells", "work"],
)
def test_code_inside_can_say_that_it_runs_but_not_that_somebody_is_connected_nor_that_it_is_younger(
    lab: Lab, code: str, expected: int
) -> None:
    kernel = lab.kernel(limits={"idle_timeout": IDLE, "max_lifetime": LIFETIME})
    kernel.run(code)
    kernel.close()
    assert status(kernel) == expected


def test_a_gateway_that_is_killed_takes_its_clients_along_and_another_one_tells_of_its_own(lab: Lab) -> None:
    kernel = lab.kernel(limits={"idle_timeout": IDLE, "max_lifetime": 2 * LIFETIME})
    kernel.run("pass")
    (volume,) = (each["Name"] for each in kernel.container.attrs["Mounts"] if each["Type"] == "volume")
    kernel.gateway.kill()
    kernel.gateway.wait(timeout=SECONDS)
    kernel.close()
    kernel.gateway, kernel.gateway_events = lab.gateway(volume)
    assert [kernel.gateway_events.next()["event"] for _ in range(2)] == ["listening", "ready"]
    kernel.run(f"import time; time.sleep({IDLE})")
    kernel.gateway.kill()  # and this time nobody brings one back
    code, said, seconds = ended(kernel)
    assert (code, said) == (UNUSED, ["started", "ending", "over"])
    assert seconds > 2 * IDLE
