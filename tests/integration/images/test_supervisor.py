"""PID 1 of a kernel's container, with a real kernel in the real image."""

from __future__ import annotations

import errno
import json
import platform
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
    tried = """
import os, signal
mine, passed = os.getpid(), []
for number in sorted(signal.valid_signals()):
    try:
        os.kill(1, number)
        passed.append(number)
    except PermissionError:
        pass
print(passed)
"""
    assert kernel.run(tried) == "[]\n"
    assert kernel.run("print(os.getppid(), os.getpid() == mine)") == "1 True\n"
    kernel.container.kill("HUP")
    events = [kernel.events.next() for _ in range(3)]
    assert [(event["event"], event["epoch"]) for event in events] == [("started", 1), ("ended", 1), ("started", 2)]
    assert events[1]["cause"] == "restart"


def test_a_signal_from_what_the_engine_runs_inside_is_not_obeyed_though_no_filter_holds_it(lab: Lab) -> None:
    kernel = lab.kernel()
    kernel.run("x = 1")
    for name in ("HUP", "TERM"):
        assert kernel.container.exec_run(["sh", "-c", f"kill -{name} 1"]).exit_code == 0
    assert kernel.run("print(x)") == "1\n"
    kernel.container.kill("HUP")
    assert [kernel.events.next()["event"] for _ in range(3)] == ["started", "ended", "started"]
    kernel.client.wait_for_ready(timeout=30)
    assert kernel.run("print('x' in globals())") == "False\n"


def test_a_hang_up_from_outside_leaves_nothing_of_the_old_kernel(lab: Lab) -> None:
    kernel = lab.kernel()
    kernel.run("import subprocess; subprocess.Popen(['setsid', '-f', 'sleep', '1000'], start_new_session=True).wait()")
    kernel.container.kill("HUP")
    assert [kernel.events.next()["event"] for _ in range(3)] == ["started", "ended", "started"]
    kernel.client.wait_for_ready(timeout=30)
    found = "import pathlib; print(sorted(f.read_text().strip() for f in pathlib.Path('/proc').glob('[0-9]*/comm')))"
    assert kernel.run(found) == "['python', 'python']\n"


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


SYSCALLS = """
import ctypes, os, resource, signal
libc = ctypes.CDLL(None, use_errno=True)
def attempt(call, *arguments):
    "What the operating system says to a call by its number, or to one of Python's own."
    try:
        if callable(call):
            call(*arguments)
        elif libc.syscall(ctypes.c_long(call), *map(ctypes.c_long, arguments)) < 0:
            raise OSError(ctypes.get_errno(), "")
    except OSError as error:
        return type(error).__name__ if error.errno == 1 else error.errno
    return "done"
"""


def test_the_first_process_cannot_be_slowed_down_limited_or_signalled_from_inside(shared_kernel: Kernel) -> None:
    number = {
        "x86_64": {
            "ioprio_set": 251,
            "setpriority": 141,
            "tkill": 200,
            "tgkill": 234,
            "sigqueue": 129,
            "tgsigqueue": 297,
        },
        "aarch64": {
            "ioprio_set": 30,
            "setpriority": 140,
            "tkill": 130,
            "tgkill": 131,
            "sigqueue": 138,
            "tgsigqueue": 240,
        },
    }[platform.machine()]
    tried = f"""
info = ctypes.create_string_buffer(128)
ctypes.memmove(info, (ctypes.c_int * 3)(signal.SIGTERM, 0, -1), 12)
info = ctypes.addressof(info)
print(*(attempt(*each) for each in (
    (resource.prlimit, 1, resource.RLIMIT_CPU, (1, 1)),
    (resource.prlimit, 1, resource.RLIMIT_AS, (1 << 20, 1 << 20)),
    (os.sched_setaffinity, 1, os.sched_getaffinity(0)),
    (os.sched_setscheduler, 1, os.SCHED_IDLE, os.sched_param(0)),
    (os.sched_setparam, 1, os.sched_param(0)),
    (os.setpriority, os.PRIO_PROCESS, 1, 19),
    (os.setpriority, os.PRIO_PGRP, 1, 19),
    (os.setpriority, os.PRIO_USER, 0, 19),
    ({number["ioprio_set"]}, 1, 1, 3 << 13),
    ({number["ioprio_set"]}, 2, 1, 3 << 13),
    ({number["ioprio_set"]}, 3, os.getuid(), 3 << 13),
    (os.kill, 1, signal.SIGHUP),
    ({number["tkill"]}, 1, signal.SIGTERM),
    ({number["tgkill"]}, 1, 1, signal.SIGTERM),
    ({number["sigqueue"]}, 1, signal.SIGTERM, info),
    ({number["tgsigqueue"]}, 1, 1, signal.SIGTERM, info),
    (signal.pidfd_send_signal, os.pidfd_open(1), signal.SIGHUP),
)))
import fcntl
print(attempt(fcntl.fcntl, 0, 10, signal.SIGHUP))
"""
    first, second = shared_kernel.run(SYSCALLS + tried).splitlines()
    assert first.split() == ["PermissionError"] * 16 + [str(errno.ENOSYS)]
    assert second == "PermissionError"


def test_nothing_that_needs_the_right_to_trace_a_process_works_on_the_first(shared_kernel: Kernel) -> None:
    numbers = {"x86_64": (101, 310, 311, 312, 438, 279), "aarch64": (117, 270, 271, 272, 438, 239)}[platform.machine()]
    trace, read, write, compare, take, move = numbers
    tried = f"""
buffer = ctypes.create_string_buffer(16)
vector = (ctypes.c_void_p * 2)(ctypes.addressof(buffer), 16)
at = ctypes.addressof(vector)
for call in (
    ({trace}, 16, 1, 0, 0),
    ({trace}, 0x4206, 1, 0, 0),
    ({read}, 1, at, 1, at, 1, 0),
    ({write}, 1, at, 1, at, 1, 0),
    ({compare}, 1, os.getpid(), 2, 0, 0),
    ({take}, os.pidfd_open(1), 0, 0),
    ({move}, 1, 0, 0, 0, 0, 0),
):
    print(attempt(*call))
"""
    assert shared_kernel.run(SYSCALLS + tried).split() == ["PermissionError"] * 7


@pytest.mark.skipif(platform.machine() != "x86_64", reason="only there two more sets of numbers can be called")
def test_the_numbers_of_32_bit_programs_are_no_way_around(shared_kernel: Kernel) -> None:
    # mov eax, 37 (kill); mov ebx, 1; mov ecx, 0; int 0x80; ret - with rbx kept, as a called function must
    tried = """
import mmap
code = bytes.fromhex("53b825000000bb01000000b900000000cd805bc3")
page = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
page.write(code)
print(ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(page)))())
print(attempt(0x40000000 | 62, 1, 0))
"""
    assert shared_kernel.run(SYSCALLS + tried).split() == [str(-errno.ENOSYS), str(errno.ENOSYS)]


def test_what_programs_do_to_themselves_and_to_each_other_is_not_refused(shared_kernel: Kernel) -> None:
    tried = """
import faulthandler, multiprocessing, os, psutil, resource, signal, subprocess, sys, threading, time
limit = resource.RLIMIT_NOFILE
resource.setrlimit(limit, resource.getrlimit(limit))
resource.prlimit(os.getpid(), limit, resource.getrlimit(limit))
child = subprocess.Popen(["sleep", "1000"], preexec_fn=lambda: os.nice(1))
own, other = psutil.Process(), psutil.Process(child.pid)
for each in (own, other):
    each.nice(each.nice())
    each.cpu_affinity(each.cpu_affinity())
    each.rlimit(limit, each.rlimit(limit))
    each.ionice(psutil.IOPRIO_CLASS_BE, 4)
    os.sched_setscheduler(each.pid, os.SCHED_BATCH, os.sched_param(0))
os.setpriority(os.PRIO_PROCESS, 0, 0)
os.setpriority(os.PRIO_PGRP, 0, 1)
thread = threading.Thread(target=lambda: signal.sigtimedwait({signal.SIGUSR1}, 20))
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})
thread.start()
signal.pthread_kill(thread.ident, signal.SIGUSR1)
thread.join()
signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGUSR1})
other.suspend(); other.resume()
child.terminate()
print(child.wait(20))
with multiprocessing.get_context("fork").Pool(2) as pool:
    print(pool.map(abs, [-1, -2]))
with multiprocessing.get_context("spawn").Pool(2) as pool:
    print(pool.map(abs, [-3, -4]))
print(psutil.pid_exists(1), len(psutil.pids()) > 1)
"""
    assert shared_kernel.run(tried).splitlines() == ["-15", "[1, 2]", "[3, 4]", "True True"]


FORGED = """
import ctypes, os, signal
libc = ctypes.CDLL(None, use_errno=True)
signal.pthread_sigmask(signal.SIG_BLOCK, {40})
while libc.sigqueue(os.getpid(), 40, None) == 0:
    pass  # until this uid has no room for another queued signal
libc.tgkill(1, 1, signal.SIGTERM)
print("tried")
"""


def test_a_signal_that_has_lost_its_sender_on_the_way_is_not_taken_for_one_from_outside(lab: Lab) -> None:
    kernel = lab.kernel()
    forged = f"import subprocess, sys\nprint(subprocess.run([sys.executable, '-c', {FORGED!r}], stdout=-1).stdout)"
    assert kernel.run(forged) == "b'tried\\n'\n"
    assert kernel.run("print(1)") == "1\n"


def test_a_kernel_that_makes_the_supervisor_its_tracer_does_not_end_it(lab: Lab) -> None:
    kernel = lab.kernel()
    kernel.run("pass")
    kernel.begin("import ctypes, os; ctypes.CDLL(None).ptrace(0, 0, 0, 0); os.kill(os.getpid(), 10)")
    kernel.container.exec_run(["sh", "-c", "until grep -q '^State:.*tracing stop' /proc/[2-9]*/status; do :; done"])
    kernel.container.kill("HUP")
    events = [kernel.events.next() for _ in range(3)]
    assert [(each["event"], each["epoch"]) for each in events] == [("started", 1), ("ended", 1), ("started", 2)]
    assert events[1]["cause"] == "restart"


CLUTTER = """
import os, pathlib
for place in map(pathlib.Path, ("/run/kernel", "/run/kernel-bridge")):
    os.chdir(place)
    for _ in range(20):
        os.mkdir("x" * 255)
        os.chdir("x" * 255)
    for name in ("connection.json", "k-1"):
        (place / name).unlink(missing_ok=True)
        (place / name / "deep").mkdir(parents=True)
        (place / name).chmod(0)
    try:
        for number in range(1000):
            (place / str(number)).touch()
    except OSError:
        place.chmod(0)
os._exit(0)
"""


def test_what_code_leaves_in_the_place_of_the_kernels_files_does_not_keep_the_next_from_starting(lab: Lab) -> None:
    kernel = lab.kernel()
    _, started = end_and_restart(kernel, CLUTTER)
    assert (started["event"], started["epoch"]) == ("started", 2)
    kernel.client.wait_for_ready(timeout=30)
    assert kernel.run("print(1)") == "1\n"


FULL = """
import os
for place in ("/tmp", "/home/kernel"):
    with open(f"{place}/filler", "wb", buffering=0) as out:
        try:
            while out.write(bytes(1 << 16)):
                pass
        except OSError:
            pass
os._exit(0)
"""


def test_a_kernel_that_starts_where_everything_is_full_runs_the_cells_that_make_room(lab: Lab) -> None:
    kernel = lab.kernel()
    end_and_restart(kernel, FULL)
    kernel.client.wait_for_ready(timeout=30)
    assert kernel.run("import os; os.unlink('/tmp/filler'); print(open('/tmp/new', 'w').write('x'))") == "1\n"


REPLACED = """
import os
os.chdir("/run/kernel-bridge")
os.unlink("life")
os.mkdir("life")
try:
    for number in range(1000):
        open(f"life/{number}", "x").close()
except OSError:
    pass
os._exit(0)
"""


def test_who_puts_something_in_the_place_of_the_sign_of_life_ends_neither_the_kernel_nor_a_gateway(lab: Lab) -> None:
    kernel = lab.kernel()
    _, started = end_and_restart(kernel, REPLACED)
    assert (started["event"], started["epoch"]) == ("started", 2)
    kernel.client.wait_for_ready(timeout=30)
    assert kernel.run("print(1)") == "1\n", "through the gateway that was there before"
    (volume,) = (each["Name"] for each in kernel.container.attrs["Mounts"] if each["Type"] == "volume")
    later, events = lab.gateway(volume)
    assert [events.next()["event"] for _ in range(2)] == ["listening", "ready"]
    kernel.container.kill("TERM")
    for gateway in (kernel.gateway, later):
        assert gateway.wait(timeout=30)["StatusCode"] == 0


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


def test_the_line_may_come_from_a_file_that_is_named_and_never_from_a_link(lab: Lab) -> None:
    for name, event in (("orders", "started"), ("link", "failed"), ("missing", "failed")):
        container = lab.supervisor_with_file(name)
        container.start()
        said = lab.events(container).next()
        assert said["event"] == event
        assert event == "started" or f"/tmp/{name} cannot be read" in said["text"]


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
