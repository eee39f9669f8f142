"""What people do in a kernel goes on working in a sandbox as users get it, behind the filter and all the limits."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from typing import Any

import anyio
import pytest

from bridge.launchers.docker import build as building

SOON = 60.0
Lab = Any  # the fixtures' classes are in conftest.py, which is not to be imported

WORK = {
    "numpy and its threads": (
        """
import numpy as np
a = np.random.default_rng(0).random((300, 300))
print((a @ np.linalg.inv(a)).trace().round())
""",
        "300.0",
    ),
    "pandas, through a file and SQL": (
        """
import pandas as pd, sqlite3
pd.DataFrame({'a': [1, 2]}).to_csv('t.csv'); read = pd.read_csv('t.csv')
with sqlite3.connect('t.db') as base:
    read.to_sql('t', base)
    print(pd.read_sql('select sum(a) s from t', base).s[0])
""",
        "3",
    ),
    "matplotlib, into a file": (
        """
import matplotlib; matplotlib.use('agg')
from matplotlib import pyplot; pyplot.plot([1, 3, 2]); pyplot.savefig('p.png'); pyplot.close()
print(open('p.png', 'rb').read(4)[1:])
""",
        "b'PNG'",
    ),
    "processes by fork, by spawn and by a server": (
        """
import multiprocessing as mp
for way in ('fork', 'spawn', 'forkserver'):
    with mp.get_context(way).Pool(2) as pool: print(pool.map(abs, [-1, -2]))
""",
        "[1, 2]\n[1, 2]\n[1, 2]",
    ),
    "memory shared between processes, queues and locks": (
        """
import multiprocessing as mp; from multiprocessing import shared_memory
context = mp.get_context('fork'); queue = context.Queue(); lock = context.Lock()
block = shared_memory.SharedMemory(create=True, size=1 << 20)
def work():
    with lock: block.buf[0] = 7
    queue.put('put')
child = context.Process(target=work); child.start(); print(queue.get(timeout=30)); child.join(30)
print(block.buf[0]); block.close(); block.unlink()
""",
        "put\n7",
    ),
    "64 threads": (
        """
import threading
wall = threading.Barrier(65); threads = [threading.Thread(target=wall.wait) for _ in range(64)]
for each in threads: each.start()
wall.wait(30)
for each in threads: each.join(30)
print(sum(each.is_alive() for each in threads))
""",
        "0",
    ),
    "other programs, with pipes, a session and a terminal": (
        """
import os, pty, subprocess
print(subprocess.run('echo a | tr a b', shell=True, capture_output=True, text=True).stdout, end='')
done = subprocess.run(['id', '-u'], start_new_session=True, stdout=-1, text=True)
print(int(done.stdout) == os.getuid())
print(pty.spawn(['true']))
""",
        "b\nTrue\n0",
    ),
    "code that is made and run in memory": (
        """
import ctypes, mmap, platform
code = {'x86_64': 'b82a000000c3', 'aarch64': '40058052c0035fd6'}[platform.machine()]  # return 42
page = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE); page.write(bytes.fromhex(code))
at = ctypes.addressof(ctypes.c_char.from_buffer(page))
print(ctypes.CDLL(None).mprotect(ctypes.c_void_p(at), 4096, 5), ctypes.CFUNCTYPE(ctypes.c_int)(at)())
print(len(mmap.mmap(-1, 4096, prot=7)))
numbers = (ctypes.c_int * 3)(3, 1, 2)
kind = ctypes.CFUNCTYPE(ctypes.c_int, *[ctypes.POINTER(ctypes.c_int)] * 2)
ctypes.CDLL(None).qsort(numbers, 3, 4, kind(lambda a, b: a[0] - b[0])); print(*numbers)
""",
        "0 42\n4096\n1 2 3",
    ),
    "asyncio, with sockets and other programs": (
        """
import asyncio
async def answer(reader, writer): writer.write(await reader.readline()); writer.close()
async def main(host):
    server = await asyncio.start_server(answer, host, 0)
    reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname()[:2])
    writer.write(b'line\\n'); said = await reader.read(); writer.close(); server.close()
    child = await asyncio.create_subprocess_exec('echo', 'child', stdout=-1)
    return said, (await child.communicate())[0]
print(await main('127.0.0.1'))
""",
        "(b'line\\n', b'child\\n')",
    ),
    "sockets of every kind that Python's own library opens": (
        """
import psutil, socket
for family in (socket.AF_INET, socket.AF_INET6, socket.AF_UNIX):
    for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM): socket.socket(family, kind).close()
for each in socket.socketpair(): each.close()
print('lo' in psutil.net_if_addrs(), [name for _, name in socket.if_nameindex()][:1])
""",
        "True ['lo']",
    ),
    "a virtual environment": (
        """
import subprocess, sys
subprocess.run([sys.executable, '-m', 'venv', '--without-pip', 'v'], check=True)
inside = ['v/bin/python', '-c', 'import sys; print(sys.prefix)']
print(subprocess.run(inside, stdout=-1, text=True).stdout, end='')
""",
        "/home/kernel/v",
    ),
    "pip install --user": (
        """
import subprocess, sys, zipfile
with zipfile.ZipFile('mine-1-py3-none-any.whl', 'w') as wheel:
    wheel.writestr('mine.py', 'value = 5')
    wheel.writestr('mine-1.dist-info/METADATA', 'Metadata-Version: 2.1\\nName: mine\\nVersion: 1\\n')
    about = 'Wheel-Version: 1.0\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n'
    wheel.writestr('mine-1.dist-info/WHEEL', about)
    wheel.writestr('mine-1.dist-info/RECORD', '')
pip = [sys.executable, '-m', 'pip', 'install', '-q', '--user', '--no-index', 'mine-1-py3-none-any.whl']
subprocess.run(pip, check=True); import mine; print(mine.value)
""",
        "5",
    ),
    "one process that traces another": (
        """
import ctypes, os, subprocess, sys
code = 'import ctypes, os; ctypes.CDLL(None).ptrace(0, 0, 0, 0); os.kill(os.getpid(), 19)'
child = subprocess.Popen([sys.executable, '-c', code]); _, status = os.waitpid(child.pid, os.WUNTRACED)
print(os.WIFSTOPPED(status), ctypes.CDLL(None).ptrace(7, child.pid, 0, 0), child.wait(30))
""",
        "True 0 0",
    ),
}


@pytest.fixture(scope="module")
def sandbox(lab: Lab, image: str) -> Iterator[Any]:
    """A sandbox of the image with numpy, pandas and matplotlib."""
    tag = f"kernel-bridge/scipy:probed-{uuid.uuid4().hex[:8]}"
    with ExitStack() as held:
        anyio.run(partial(building.build, "scipy", building.How(print), tag=tag, base=image))
        held.callback(lab.engine.images.remove, tag, noprune=True)
        limits = {"memory": "1GiB", "cpus": 2, "pids": 256, "home": "128MiB", "tmp": "64MiB", "shm": "64MiB"}
        started = lab.started("everyday", image=tag, limits=limits)
        held.callback(started.end)
        yield started


@pytest.mark.parametrize("work", WORK)
def test_everyday_work_is_not_refused(work: str, sandbox: Any) -> None:
    code, expected = WORK[work]
    assert sandbox.run(code) == expected


def ask_debugger(client: Any, command: str, **arguments: Any) -> Any:
    """Send a request of the debug adapter protocol over the control channel; returns the body of the reply."""
    request = {"seq": 1, "type": "request", "command": command, "arguments": arguments}
    asked = client.session.msg("debug_request", request)
    client.control_channel.send(asked)
    while (reply := client.get_control_msg(timeout=SOON))["parent_header"]["msg_id"] != asked["header"]["msg_id"]:
        pass
    return reply["content"].get("body")


def test_the_debugger_stops_a_cell_at_a_breakpoint_and_lets_it_go_on(sandbox: Any) -> None:
    client, code = sandbox.client, "here = 1\nhere = 2\n"
    ask = partial(ask_debugger, client)
    ask("initialize", clientID="test", adapterID="", pathFormat="path", linesStartAt1=True, columnsStartAt1=True)
    ask("attach")
    source = ask("dumpCell", code=code)["sourcePath"]
    ask("setBreakpoints", source={"path": source}, breakpoints=[{"line": 2}], sourceModified=False)
    ask("configurationDone")
    client.execute(code)
    while (event := client.get_iopub_msg(timeout=SOON))["content"].get("event") != "stopped":
        pass
    thread = event["content"]["body"]["threadId"]
    assert ask("stackTrace", threadId=thread)["stackFrames"][0]["line"] == 2
    ask("continue", threadId=thread)
    ask("disconnect", restart=False, terminateDebuggee=False)
    assert sandbox.run("print(here)") == "2"
