"""Kernels that a KernelManager starts through our provisioner: in sandboxes of their own, or shared ones joined."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import queue
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from jupyter_client.manager import AsyncKernelManager, KernelManager
from jupyter_client.provisioning.factory import KernelProvisionerFactory

from bridge.connection import load
from bridge.errors import BridgeError, NameTaken, NotOurs, PolicyRefused, UsageError
from bridge.ide.joining import Joined, Joining
from bridge.launchers.docker.host import find
from tests.conftest import HostKernel
from tests.e2e.conftest import Command
from tests.e2e.provisioned import POLICY, SOON, Started, containers, until, write_kernelspec
from tests.programs import piped

Start = Callable[..., Started]
Kernelspec = Callable[..., str]


class Engine:
    """The engine behind a socket of our own, which can be away."""

    def __init__(self, place: Path) -> None:
        self._place = place
        self.url = f"unix://{place}"
        self._place.symlink_to(find(None, os.environ).socket)

    @contextmanager
    def away(self) -> Iterator[Callable[[], None]]:
        """Have nothing behind it but what hangs up; yields what waits, bounded, until somebody has called."""
        real = self._place.readlink()
        self._place.unlink()
        with socket.socket(socket.AF_UNIX) as nobody:
            nobody.bind(str(self._place))
            nobody.listen()
            nobody.settimeout(SOON)
            hanging_up = threading.Event()
            calls: queue.Queue[None] = queue.Queue()

            def hang_up() -> None:
                while True:
                    caller, _ = nobody.accept()
                    caller.close()
                    if hanging_up.is_set():
                        return
                    calls.put(None)

            thread = threading.Thread(target=hang_up)
            thread.start()
            try:
                yield lambda: calls.get(timeout=SOON)
            finally:
                hanging_up.set()
                with socket.socket(socket.AF_UNIX) as last:
                    last.connect(str(self._place))
                thread.join()
                self._place.unlink()
                self._place.symlink_to(real)


@pytest.fixture
def engine(tmp_path: Path) -> Engine:
    return Engine(tmp_path / "engine.sock")


@pytest.fixture
def kernelspec(tmp_path: Path, runtime: Path, monkeypatch: pytest.MonkeyPatch) -> Kernelspec:
    """Write a kernelspec of a configuration and return its name."""
    place = tmp_path / "jupyter"
    policy = tmp_path / "policy.yaml"
    policy.write_text(POLICY)
    monkeypatch.setenv("JUPYTER_PATH", str(place))

    def write(**config: Any) -> str:
        return write_kernelspec(place, "tested", **{"policy": str(policy)} | config)

    return write


@pytest.fixture
def start(kernelspec: Kernelspec, command: Command) -> Iterator[Start]:
    """Start a kernel by a configuration; afterwards nothing of it may be left."""
    started: list[Started] = []

    def start(*, launch: dict[str, Any] | None = None, **config: Any) -> Started:
        started.append(Started(kernelspec(**config), **launch or {}))
        return started[-1]

    yield start
    for each in started:
        each.shut_down()
    left = containers()
    if left:  # this test's failure is not to be that of all after it
        command("gc", "--all")
    assert not left


def listed(command: Command) -> dict[str, str]:
    """Return the state of each kernel there is; the manager's own connection file does not make another one of it."""
    there = json.loads(command("ls", "--json").stdout)["kernels"]
    return {each["name"]: each["state"] for each in there}


# -- a sandbox of its own


def test_each_kernel_is_a_sandbox_of_its_own_and_gone_with_its_manager(start: Start, command: Command) -> None:
    one, other = start(), start()
    one.run("here = 1")
    assert one.run("import socket; print(socket.gethostname())") != os.uname().nodename
    assert "NameError" in other.run("here")
    both = listed(command)
    assert list(both.values()) == ["alive", "alive"]
    one.shut_down()
    left = listed(command)
    assert len(left) == 1
    assert left.items() < both.items()
    assert not one.manager.is_alive()


@pytest.mark.parametrize("network", ["isolated", "none"])
def test_a_restart_empties_the_kernel_and_keeps_its_address(start: Start, network: str, command: Command) -> None:
    kernel = start(sandbox={"network": network})
    kernel.run("gone = 1")
    before = kernel.manager.get_connection_info()
    for now in (False, True):
        kernel.restart(now=now)
        assert kernel.run("gone") == "NameError: name 'gone' is not defined"
        assert kernel.manager.get_connection_info() == before
        kernel.run("gone = 2")
    assert len(listed(command)) == 1


def test_a_restart_ends_what_nothing_else_does(start: Start) -> None:
    kernel = start()
    kernel.begin("import signal; signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])\nwhile True: pass")
    kernel.restart()
    assert kernel.run("print('anew')") == "anew"


def test_an_owned_kernel_ends_in_peace(start: Start, tmp_path: Path) -> None:
    """What is registered to run at a kernel's exit does, as in a kernel on the host."""
    project = tmp_path / "project"
    project.mkdir()
    project.chmod(0o777)
    policy = tmp_path / "rw.yaml"
    policy.write_text(f"{POLICY}  mounts: [{{source: {project}, mode: rw}}]\n")
    kernel = start(policy=str(policy), sandbox={"workspace": str(project), "workspace_mode": "rw"})
    kernel.run("import atexit; atexit.register(lambda: open('last', 'w').write('words'))")
    kernel.shut_down()
    assert (project / "last").read_text() == "words"


@pytest.mark.parametrize(
    "code",
    [
        "while True: pass",
        "import time; time.sleep(600)",
        "import asyncio; await asyncio.sleep(600)",
        "import subprocess; subprocess.run(['sleep', '600'])",
    ],
)
def test_an_interrupt_ends_the_cell_and_nothing_else(start: Start, code: str) -> None:
    kernel = start()
    kernel.run("kept = 1")
    sent = kernel.begin(code)
    kernel.manager.interrupt_kernel()
    assert kernel.reply(sent)["ename"] in ("KeyboardInterrupt", "CancelledError")
    assert kernel.run("print(kept)") == "1"
    with pytest.raises(UsageError, match="cannot be sent"):
        kernel.manager.signal_kernel(signal.SIGUSR1)


def test_a_kernel_that_dies_is_told_dead_and_its_manager_can_restart_it(start: Start, command: Command) -> None:
    kernel = start()
    kernel.client.execute("import os; os._exit(9)")
    until(lambda: not kernel.manager.is_alive(), "that it died is told")
    kernel.restart(now=True)
    assert kernel.run("print('anew')") == "anew"
    assert kernel.manager.is_alive()
    assert len(listed(command)) == 1


def test_a_sandbox_that_somebody_stops_is_told_dead_and_why(
    start: Start, command: Command, caplog: pytest.LogCaptureFixture
) -> None:
    kernel = start()
    (name,) = listed(command)
    with caplog.at_level(logging.WARNING):
        assert command("stop", name).returncode == 0
        until(lambda: not kernel.manager.is_alive(), "that it was stopped is told")
    assert f"The kernel {name} is gone: Sandbox {name}" in caplog.text
    assert "all its variables are lost." in caplog.text.lower()
    kernel.restart()  # which a person asks for: another one is started
    assert kernel.run("print('anew')") == "anew"


def test_a_restart_while_a_gone_sandbox_is_still_being_closed_starts_one_that_ends_with_its_manager(
    start: Start, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    kernel = start()
    (name,) = listed(command)
    closing, restarting = threading.Event(), threading.Event()
    leave, restarted = Joining.leave, Joining.restarted

    async def slow_leave(joining: Joining, **how: bool) -> None:
        """Leave only when the restart has begun, or could have."""
        closing.set()
        await asyncio.to_thread(restarting.wait, 2)
        await leave(joining, **how)

    async def told(joining: Joining, before: Joined) -> Joined:
        restarting.set()
        return await restarted(joining, before)

    monkeypatch.setattr(Joining, "leave", slow_leave)
    monkeypatch.setattr(Joining, "restarted", told)
    assert command("stop", name).returncode == 0
    assert closing.wait(SOON)
    kernel.restart()
    assert kernel.run("print('anew')") == "anew"
    kernel.shut_down()
    assert not containers()


def test_a_gateway_that_is_lost_comes_back_and_nobody_is_told_dead(start: Start) -> None:
    kernel = start()
    kernel.run("kept = 1")
    gateway = next(each for each in containers() if "gateway" in each)
    subprocess.run(["docker", "rm", "--force", gateway], check=True, capture_output=True, timeout=SOON)
    until(lambda: gateway in containers(), "the gateway is back")
    kernel.client.wait_for_ready(timeout=SOON)  # its own connections are there again
    assert kernel.run("print(kept)") == "1"
    assert kernel.manager.is_alive()


def test_an_engine_that_is_away_for_a_while_ends_nothing(
    start: Start, engine: Engine, command: Command, caplog: pytest.LogCaptureFixture
) -> None:
    kernel = start(engine=engine.url)
    kernel.run("kept = 1")
    gateway = next(each for each in containers() if "gateway" in each)
    with engine.away() as asked:
        subprocess.run(["docker", "rm", "--force", gateway], check=True, capture_output=True, timeout=SOON)
        for _ in range(3):  # it is asked again and again
            asked()
            assert kernel.manager.is_alive()
    until(lambda: gateway in containers(), "the gateway is back")
    kernel.client.wait_for_ready(timeout=SOON)  # its own connections are there again
    assert kernel.run("print(kept)") == "1"
    assert kernel.manager.is_alive()
    assert not caplog.records


def test_a_sandbox_that_could_not_be_stopped_stays_owned_until_it_is(
    start: Start, engine: Engine, command: Command, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    kernel = start(engine=engine.url, kernel="mine", owner=True)
    with engine.away():
        kernel.shut_down()
    assert "Sandbox mine could not be stopped" in caplog.text
    # a listing on a busy machine may be quicker than the kernel
    until(lambda: listed(command) == {"mine": "alive"}, "the sandbox is still there")
    monkeypatch.setattr("bridge.ide.owning.PATIENCE", 0.0)
    with pytest.raises(NameTaken, match="Another IDE owns"):
        start(kernel="mine", owner=True)
    kernel.shut_down()
    assert listed(command) == {}


def test_the_notebooks_directory_is_there_only_where_the_configuration_says_so(start: Start, tmp_path: Path) -> None:
    project = tmp_path / "project"
    (project / "notebooks").mkdir(parents=True)
    (project / "data.csv").write_text("1,2\n")
    policy = tmp_path / "mounts.yaml"
    policy.write_text(f"{POLICY}  mounts: [{{source: {project}, mode: ro}}]\n")
    notebook = {"cwd": str(project / "notebooks")}

    without = start(policy=str(policy), launch=notebook)
    assert without.run(f"import os; print(os.path.exists({str(project)!r}))") == "False"
    whole = start(policy=str(policy), launch=notebook, sandbox={"workspace": str(project)})
    assert whole.run("import os; print(os.getcwd(), open('../data.csv').read())") == f"{notebook['cwd']} 1,2"
    whole.restart()
    assert whole.run("import os; print(os.getcwd())") == notebook["cwd"]
    relative = start(policy=str(policy), launch=notebook, sandbox={"workspace": "."})
    assert relative.run("import os; print(os.getcwd(), os.path.exists('../data.csv'))") == f"{notebook['cwd']} False"


def test_nothing_of_the_managers_environment_gets_in_but_what_was_named(start: Start, tmp_path: Path) -> None:
    policy = tmp_path / "environment.yaml"
    policy.write_text(f"{POLICY}  environment: [GIVEN]\n")
    environment = os.environ | {"A_SECRET": "s3cret", "GIVEN": "yes"}
    kernel = start(policy=str(policy), launch={"env": environment}, sandbox={"environment": ["GIVEN"]})
    assert kernel.run("import os; print(os.environ.get('A_SECRET'), os.environ['GIVEN'])") == "None yes"


@pytest.mark.parametrize(
    ("config", "error", "says"),
    [
        ({"sandbox": {"image": "python:3.13"}}, PolicyRefused, "is not among the policy's"),
        ({"sandbox": {"image": "kernel-bridge/python:no-such"}}, BridgeError, "kernel-bridge image build"),
        ({"sandbox": {"imagge": "x"}}, UsageError, "'imagge', which is not known"),
        ({"ownr": True}, UsageError, "'ownr', which is not known"),
        ({"policy": "/no/such/policy.yaml"}, BridgeError, "/no/such/policy.yaml"),
        ({"engine": "unix:///no/such.sock"}, BridgeError, "/no/such.sock"),
        ({"kernel": "nobody"}, BridgeError, "'nobody'"),
    ],
)
def test_what_cannot_be_started_says_why_and_leaves_nothing(
    kernelspec: Kernelspec, config: dict[str, Any], error: type[BridgeError], says: str
) -> None:
    manager = KernelManager(kernel_name=kernelspec(**config))
    with pytest.raises(error, match=says):
        manager.start_kernel()
    assert not manager.has_kernel
    assert not manager.is_alive()
    assert not containers()


@pytest.mark.anyio
async def test_a_start_that_is_cancelled_leaves_nothing(kernelspec: Kernelspec) -> None:
    manager = AsyncKernelManager(kernel_name=kernelspec())
    starting = asyncio.ensure_future(manager.start_kernel())
    async with asyncio.timeout(SOON):
        while not await asyncio.to_thread(containers):
            assert not starting.done()
    starting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await starting
    assert not await asyncio.to_thread(containers)


@pytest.mark.anyio
async def test_a_start_keeps_no_loop_waiting(kernelspec: Kernelspec) -> None:
    """A server's one loop goes on serving while a sandbox is started and stopped in it."""
    manager = AsyncKernelManager(kernel_name=kernelspec())
    loop, ticks = asyncio.get_running_loop(), 0

    async def tick() -> None:
        nonlocal ticks
        while True:
            await asyncio.sleep(0.01)
            ticks += 1

    def ticks_when(true: Callable[[], object], what: str) -> int:
        """Runs in a thread: what happens at the engine does not wait for the loop."""
        until(true, what)
        return ticks

    ticking = asyncio.ensure_future(tick())
    async with asyncio.timeout(SOON):
        begun = loop.run_in_executor(None, ticks_when, containers, "the engine has something of it")
        await manager.start_kernel()
        seen, started = await begun, ticks
        assert await manager.is_alive()
        before, there = ticks, containers()
        begun = loop.run_in_executor(None, ticks_when, lambda: containers() != there, "some of it is gone")
        await manager.shutdown_kernel()
        gone = await begun
    ticking.cancel()
    assert 0 < seen < started
    assert before < gone


@pytest.mark.parametrize(
    "ending",
    ["", "raise KeyboardInterrupt", "import threading; threading.Thread(target=print).start(); raise SystemExit(3)"],
)
def test_a_program_that_ends_without_a_word_leaves_no_sandbox(kernelspec: Kernelspec, ending: str) -> None:
    program = f"""
from jupyter_client.manager import start_new_kernel
manager, client = start_new_kernel(kernel_name={kernelspec()!r})
print("started", flush=True)
{ending}
"""
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=SOON, check=False)
    assert ended.stdout.startswith("started"), ended.stderr
    assert "kernel-bridge" not in ended.stderr
    assert not containers()


def test_a_program_that_is_killed_leaves_no_sandbox_for_long(kernelspec: Kernelspec, command: Command) -> None:
    program = f"""
from jupyter_client.manager import start_new_kernel
manager, client = start_new_kernel(kernel_name={kernelspec()!r})
print("started", flush=True)
input()
"""
    with piped([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as running:
        assert running.stdout
        assert running.stdout.readline() == "started\n"
        assert list(listed(command).values()) == ["alive"]
        running.kill()
    until(lambda: not containers(), "the sandbox is gone")


def test_another_process_goes_on_with_a_kernel_by_what_was_persisted(kernelspec: Kernelspec) -> None:
    name = kernelspec()
    program = f"""
import asyncio, json, os
from jupyter_client.manager import AsyncKernelManager
async def main():
    manager = AsyncKernelManager(kernel_name={name!r})
    await manager.start_kernel()
    print(json.dumps(await manager.provisioner.get_provisioner_info()), flush=True)
    os._exit(0)
asyncio.run(main())
"""
    first = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=SOON, check=True)
    assert '"key"' not in first.stdout

    async def go_on() -> None:
        manager = AsyncKernelManager(kernel_name=name)
        spec = manager.kernel_spec
        provisioner = KernelProvisionerFactory.instance().create_provisioner_instance("", spec, parent=manager)
        manager.provisioner = provisioner
        await provisioner.load_provisioner_info(json.loads(first.stdout))
        assert await manager.is_alive()
        await manager.shutdown_kernel()

    asyncio.run(go_on())
    assert not containers()


# -- a shared kernel


@pytest.fixture
def theirs(request: pytest.FixtureRequest, command: Command, runtime: Path) -> Iterator[str]:
    """A sandbox that others share, with a variable of theirs; over Unix sockets where its network is none."""
    network = getattr(request, "param", "isolated")
    started = command("up", "theirs", "--network", network, "--memory", "512MiB")
    assert started.returncode == 0, started.stderr
    assert command("run", "theirs", "-c", "theirs = 41").returncode == 0
    yield "theirs"
    command("stop", "theirs")


@pytest.mark.parametrize("theirs", ["isolated", "none"], indirect=True)
def test_a_shared_kernel_is_joined_and_left_as_it_is(
    start: Start, theirs: str, command: Command, runtime: Path
) -> None:
    file = runtime / f"kernel-bridge-{theirs}.json"
    before = load(file)
    for now in (False, True):
        kernel = start(kernel=theirs)
        assert kernel.run("print(theirs + 1)") == "42"
        kernel.client.stop_channels()
        kernel.manager.shutdown_kernel(now=now)
        assert not kernel.manager.is_alive()
        kernel.manager.request_shutdown()
        kernel.manager.shutdown_kernel(now=now)  # twice, as some programs do it
        assert load(file) == before
        assert command("run", theirs, "-c", "print(theirs)").stdout == "41\n"


def test_what_others_run_is_not_interrupted_when_the_ide_leaves_or_restarts(
    start: Start, theirs: str, command: Command
) -> None:
    agent, person = start(kernel=theirs), start(kernel=theirs)
    sent = agent.begin("import time\nfor _ in range(40): time.sleep(0.1)\nwhole = True")
    person.client.stop_channels()
    person.manager.restart_kernel()
    person.manager.shutdown_kernel()
    assert agent.reply(sent)["status"] == "ok"
    assert agent.run("print(whole, theirs)").endswith("True 41")


def test_the_interrupt_button_interrupts_in_a_shared_kernel(start: Start, theirs: str) -> None:
    kernel = start(kernel=theirs)
    sent = kernel.begin("import asyncio; await asyncio.sleep(600)")
    kernel.manager.interrupt_kernel()
    assert kernel.reply(sent)["status"] == "error"
    with pytest.raises(NotOurs, match="is shared"):
        kernel.manager.signal_kernel(signal.SIGKILL)
    assert kernel.run("print(theirs)") == "41"


def test_a_restart_of_a_shared_kernel_says_in_the_next_cell_that_the_variables_live_on(
    start: Start, theirs: str, command: Command, caplog: pytest.LogCaptureFixture
) -> None:
    kernel = start(kernel=theirs)
    kernel.run("names = set(globals())")
    with caplog.at_level(logging.WARNING):
        kernel.restart()
        kernel.restart()
    assert "left it as it is" in caplog.text
    # an agent's cell is not where the person looks
    assert "restart" not in command("run", theirs, "-c", "pass").stderr
    told = kernel.run("print(theirs)")
    assert told == (
        "kernel-bridge: theirs is a shared kernel: a restart from here left it as it is, with all its variables. "
        "To restart it for real, for everybody: kernel-bridge restart theirs\n41"
    )
    new = "{each for each in set(globals()) - names if not each.startswith('_i')}"
    assert kernel.run(f"print({new})") == "{'names'}"


def test_a_shared_kernel_that_is_restarted_for_real_is_told_dead_and_joined_again(
    start: Start, theirs: str, command: Command
) -> None:
    kernel = start(kernel=theirs)
    assert command("restart", theirs).returncode == 0
    until(lambda: not kernel.manager.is_alive(), "that its process ended is told")
    kernel.restart(now=True)
    assert kernel.run("theirs") == "NameError: name 'theirs' is not defined"
    assert kernel.manager.is_alive()


def test_a_shared_kernel_that_is_stopped_is_told_dead_and_cannot_be_restarted(
    start: Start, theirs: str, command: Command
) -> None:
    kernel = start(kernel=theirs)
    assert command("stop", theirs).returncode == 0
    until(lambda: not kernel.manager.is_alive(), "that it is gone is told")
    with pytest.raises(BridgeError, match="theirs"):
        kernel.manager.restart_kernel(now=True)
    assert not kernel.manager.is_alive()


def test_exit_leaves_a_shared_sandbox_and_its_variables(start: Start, theirs: str, command: Command) -> None:
    kernel = start(kernel=theirs)
    kernel.reply(kernel.client.execute("exit"))
    assert kernel.run("print(theirs)") == "41"
    kernel.shut_down()
    assert command("run", theirs, "-c", "print(theirs)").stdout == "41\n"


@pytest.mark.parametrize(("owner", "says"), [(False, "without --provisioner"), (True, "without --owner")])
def test_a_host_kernel_is_not_taken_and_left_as_it_is(
    kernelspec: Kernelspec,
    host_kernel: HostKernel,
    command: Command,
    owner: bool,  # noqa: FBT001
    says: str,
) -> None:
    manager = KernelManager(kernel_name=kernelspec(kernel="kernel-test", owner=owner))
    with pytest.raises(NotOurs, match=says):
        manager.start_kernel()
    assert not manager.has_kernel
    assert command("run", "kernel-test", "-c", "print(42)").stdout == "42\n"


# -- a sandbox of a name, owned


def test_an_owned_sandbox_is_started_where_it_is_missing_and_ends_with_its_ide(start: Start, command: Command) -> None:
    kernel = start(kernel="mine", owner=True)
    assert listed(command) == {"mine": "alive"}
    assert command("run", "mine", "-c", "agents = 1").returncode == 0
    assert kernel.run("print(agents)") == "1"
    kernel.restart()
    assert kernel.run("agents") == "NameError: name 'agents' is not defined"
    kernel.shut_down()
    assert listed(command) == {}


def test_an_owned_sandbox_that_is_there_already_is_joined(start: Start, theirs: str, command: Command) -> None:
    kernel = start(kernel=theirs, owner=True)
    assert kernel.run("print(theirs)") == "41"
    kernel.shut_down()
    assert listed(command) == {}


def test_a_sandbox_has_one_owner(
    start: Start, command: Command, kernelspec: Kernelspec, monkeypatch: pytest.MonkeyPatch
) -> None:
    kernel = start(kernel="mine", owner=True)
    kernel.run("kept = 1")
    monkeypatch.setattr("bridge.ide.owning.PATIENCE", 0.0)
    other = KernelManager(kernel_name=kernelspec(kernel="mine", owner=True))
    with pytest.raises(NameTaken, match="Another IDE owns sandbox mine"):
        other.start_kernel()
    assert not other.has_kernel
    assert kernel.run("print(kept)") == "1"
    assert listed(command) == {"mine": "alive"}
    kernel.shut_down()
    assert start(kernel="mine", owner=True).run("kept").startswith("NameError")


def test_the_next_owner_waits_until_the_sandbox_of_a_killed_one_is_gone(start: Start, kernelspec: Kernelspec) -> None:
    program = f"""
import os, signal
from jupyter_client.manager import start_new_kernel
manager, client = start_new_kernel(kernel_name={kernelspec(kernel="mine", owner=True)!r})
client.execute_interactive("theirs = 1")
os.kill(os.getpid(), signal.SIGKILL)
"""
    killed = subprocess.run([sys.executable, "-c", program], capture_output=True, timeout=SOON, check=False)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    kernel = start(kernel="mine", owner=True)
    assert kernel.run("theirs") == "NameError: name 'theirs' is not defined"


# -- as it is installed


def test_what_was_installed_starts_as_the_shell_had_it_where_the_shells_variables_are_not(
    command: Command, runtime: Path, engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy = tmp_path / "policy.yaml"
    policy.write_text(f"{POLICY}  environment: [GIVEN]\n")
    policy.chmod(0o600)
    others = ("KERNEL_BRIDGE_OWNER", "XDG_STATE_HOME", "XDG_CONFIG_HOME", "XDG_RUNTIME_DIR", "JUPYTER_RUNTIME_DIR")
    shell = {
        "HOME": str(tmp_path),
        "KERNEL_BRIDGE_POLICY": str(policy),
        "DOCKER_HOST": engine.url,
        "GIVEN": "s3cret",
        **dict.fromkeys(others, ""),
    }
    done = command("ide", "install", "--provisioner", "--env", "GIVEN", **shell)
    assert done.returncode == 0, done.stderr
    spec = json.loads((Path(done.stdout.strip()) / "kernel.json").read_text())
    assert "s3cret" not in json.dumps(spec["metadata"])
    assert spec["metadata"]["kernel_provisioner"]["config"] == {
        "owner": True,
        "policy": str(policy),
        "engine": engine.url,
        "sandbox": {"environment": ["GIVEN"]},
    }
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path / ".local" / "share" / "jupyter"))
    kernel = Started("kernel-bridge")
    # which no other policy lets through
    assert kernel.run("import os; print(os.environ['GIVEN'])") == "s3cret"
    kernel.shut_down()
    assert not containers()
