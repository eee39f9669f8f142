"""What every launcher must do, seen through its methods, the connection file and a real client."""

from __future__ import annotations

import asyncio
import json
import os
import resource
import socket
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from bridge.connection import load
from bridge.errors import ImageNotFound, LaunchError, NameTaken, NoSuchKernel, PolicyRefused, UsageError
from bridge.launchers import LogLine
from bridge.launchers.docker import DockerLauncher
from bridge.policy import SandboxSpec

pytestmark = pytest.mark.anyio

Spec = Callable[..., SandboxSpec]
SOON = 30.0
NETWORKS = pytest.mark.parametrize("network", ["isolated", "none", "open"])


# -- a sandbox that runs


async def test_a_started_kernel_answers_through_its_connection_file(shared: Any) -> None:
    sandbox, client = shared
    assert await client.run("print(6 * 7)") == "42"
    assert sandbox.state == "running"
    assert sandbox.connection_file.name == f"kernel-bridge-{sandbox.name}.json"
    assert sandbox.connection_file.stat().st_mode & 0o777 == 0o600
    assert load(sandbox.connection_file).kernel_name
    started = datetime.fromisoformat(sandbox.started_at)
    assert timedelta() <= datetime.now(UTC) - started < timedelta(minutes=10)


async def test_a_running_sandbox_is_found_by_everyone_of_the_same_owner(shared: Any, observer: Any) -> None:
    sandbox, _ = shared
    assert sandbox in await observer.launcher.sandboxes()


async def test_there_is_no_network_device_but_loopback_and_with_network_open_one_other(shared: Any) -> None:
    sandbox, client = shared
    devices = await client.run("print(open('/proc/net/dev').read())")
    assert [line.partition(":")[0].strip() for line in devices.splitlines()[2:]] == (
        ["lo", "eth0"] if sandbox.network == "open" else ["lo"]
    )


async def test_the_hosts_services_are_out_of_reach_on_every_address_but_with_network_open(shared: Any) -> None:
    sandbox, client = shared
    with socket.create_server(("0.0.0.0", 0)) as service:
        port = service.getsockname()[1]
        code = f"""
import socket
for host in ("127.0.0.1", "172.17.0.1", "host.docker.internal", "gateway.docker.internal", {socket.gethostname()!r}):
    try:
        socket.create_connection((host, {port}), timeout=2)
    except OSError as error:
        continue
    print("reached", host)
"""
        said = (await client.run(code)).splitlines()
        assert "reached 127.0.0.1" not in said
        assert ("reached 172.17.0.1" in said) is (sandbox.network == "open")
        assert bool(said) is (sandbox.network == "open")


async def test_the_kernel_is_not_root_and_has_no_way_to_become_it(shared: Any) -> None:
    _, client = shared
    code = """
import os
status = dict(line.rstrip().split(":\\t", 1) for line in open("/proc/self/status") if ":\\t" in line)
print(os.getuid() != 0, os.getgid() != 0, *(status[name] for name in ("CapEff", "CapBnd", "NoNewPrivs", "Seccomp")))
"""
    assert await client.run(code) == f"True True {'0' * 16} {'0' * 16} 1 2"


WRITABLE = """
import os
def can_be_written(place):
    try:
        os.close(os.open(os.path.join(place, "probe"), os.O_WRONLY | os.O_CREAT, 0o600))
    except OSError:
        return False
    os.unlink(os.path.join(place, "probe"))
    return True
# every directory there is, wherever it is mounted: what a process is shown of itself is no place to keep anything
found = [top for top, _, _ in os.walk("/") if not top.startswith(("/proc", "/sys")) and can_be_written(top)]
mounts = [line.split() for line in open("/proc/mounts")]
kinds = {}
for place in found:
    _, mount, kind, *_ = max((each for each in mounts if (place + "/").startswith(each[1].rstrip("/") + "/")),
                             key=lambda each: len(each[1]))
    about = os.statvfs(mount)
    kinds[mount] = (kind, about.f_blocks * about.f_frsize >> 10, about.f_files > 0)
print(*(f"{mount} {' '.join(map(str, kinds[mount]))}" for mount in sorted(kinds)), sep="\\n")
"""


async def test_only_bounded_places_can_be_written(shared: Any) -> None:
    _, client = shared
    assert (await client.run(WRITABLE)).splitlines() == [
        "/dev/shm tmpfs 32768 True",
        "/home/kernel tmpfs 65536 True",
        "/run/kernel tmpfs 64 True",
        "/run/kernel-bridge tmpfs 64 True",
        "/tmp tmpfs 32768 True",
    ]


async def test_what_code_puts_beside_its_sockets_is_bounded_and_never_seen_outside(
    observer: Any, spec: Spec, connect: Any, tidy: None
) -> None:
    sandbox = await observer.launcher.start(spec("cluttered", network="none"))
    client = await connect(sandbox)
    outside = Path(load(sandbox.connection_file).ip).parent
    before = sorted(each.name for each in outside.iterdir())
    assert before == ["k-1", "k-2", "k-3", "k-4", "k-5"]
    clutter = """
import os
os.chdir("/run/kernel-bridge")
os.unlink("k-2"); os.symlink("/etc/passwd", "k-2")
made = 0
try:
    while True:
        os.mkdir("d"); os.chdir("d"); made += 1
except OSError as error:
    print(made < 40, error.strerror)
"""
    assert await client.run(clutter) == "True No space left on device"
    assert sorted(each.name for each in outside.iterdir()) == before
    await observer.launcher.stop("cluttered")
    assert not outside.exists()


async def test_the_user_the_language_and_the_thread_pools_are_set_for_a_uid_that_nobody_knows(shared: Any) -> None:
    _, client = shared
    code = """
import getpass, os
print(getpass.getuser(), os.path.expanduser("~"), os.getcwd(), os.environ["LANG"], os.environ["OMP_NUM_THREADS"])
"""
    assert await client.run(code) == "kernel /home/kernel /home/kernel C.UTF-8 2"


async def test_what_the_policy_lets_pass_is_in_the_kernels_environment(shared: Any) -> None:
    _, client = shared
    assert await client.run("import os; print(os.environ['GIVEN'])") == "yes"


async def test_nothing_outside_the_connection_file_holds_the_key(shared: Any, observer: Any) -> None:
    sandbox, client = shared
    key = load(sandbox.connection_file).key
    assert len(key) == 64
    said = observer.everything_said(sandbox.name)
    assert sandbox.name in said
    assert key not in said
    assert "GIVEN" not in said, "what is passed to the kernel may be a secret too"
    code = "import os; print(open('/proc/self/cmdline').read(), dict(os.environ), open('/proc/self/environ').read())"
    inside = await client.run(code)
    assert "ipykernel" in inside
    assert key not in inside


async def test_the_first_process_cannot_be_read_or_ended_from_inside(shared: Any) -> None:
    _, client = shared
    code = """
import os, signal
for name in ("environ", "mem", "maps"):
    try:
        open(f"/proc/1/{name}", "rb").read(1)
    except PermissionError:
        continue
    print("read", name)
for number in (signal.SIGKILL, signal.SIGTERM, signal.SIGHUP, signal.SIGINT, signal.SIGSTOP):
    try:
        os.kill(1, number)
    except PermissionError:
        continue
    print("sent", number)
print("alive")
"""
    assert await client.run(code) == "alive"
    assert await client.run("print(1)") == "1"


REACH_PID_ONE = """
import ctypes, os, resource
libc = ctypes.CDLL(None, use_errno=True)

def refused(name, *arguments):
    if getattr(libc, name)(*arguments) != -1:
        return f"{name} was allowed"
    return os.strerror(ctypes.get_errno())

few = (ctypes.c_ulong * 2)(1, 1)
for tried in (
    lambda: refused("prlimit", 1, resource.RLIMIT_CPU, few, None),
    lambda: refused("setpriority", os.PRIO_PROCESS, 1, 19),
    lambda: refused("setpriority", os.PRIO_PGRP, 1, 19),
    lambda: refused("setpriority", os.PRIO_USER, os.getuid(), 19),
    lambda: refused("sched_setaffinity", 1, 128, (ctypes.c_ulong * 16)(1)),
    lambda: refused("sched_setscheduler", 1, 5, ctypes.byref(ctypes.c_int(0))),
    lambda: refused("syscall", 0x40000000 + 302, 1, 0, few, None) if os.uname().machine == "x86_64" else "x32",
):
    print(tried())
resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
resource.prlimit(os.getpid(), resource.RLIMIT_CORE, (0, 0))
os.nice(0); os.setpriority(os.PRIO_PROCESS, 0, 1); os.sched_setaffinity(0, os.sched_getaffinity(0))
print(open("/proc/self/status").read().partition("Seccomp_filters:")[2].split()[0])
"""


async def test_the_first_process_cannot_be_crippled_from_inside(shared: Any) -> None:
    _, client = shared
    *tried, filters = (await client.run(REACH_PID_ONE)).splitlines()
    refused = "Operation not permitted"
    assert tried[:6] == [refused] * 6
    assert tried[6] in ("Function not implemented", "x32")
    # the engine's own, and ours on top of it
    assert int(filters) >= 2
    # what is started from a cell is behind it too
    child = "import subprocess, sys; print(subprocess.run([sys.executable, '-c', 'import resource; "
    child += "resource.prlimit(1, resource.RLIMIT_CPU, (1, 1))'], stderr=subprocess.PIPE).returncode)"
    assert await client.run(child) == "1"
    pool = "from multiprocessing import get_context\nwith get_context('fork').Pool(2) as p: print(p.map(abs, [-1, -2]))"
    assert await client.run(pool) == "[1, 2]"


# -- names, limits, missing things


@NETWORKS
async def test_stop_leaves_nothing_and_the_name_is_free_again(
    network: str, observer: Any, spec: Spec, tidy: None
) -> None:
    before = observer.left()
    sandbox = await observer.launcher.start(spec("again", network=network))
    info = load(sandbox.connection_file)
    assert await observer.launcher.stop("again") is True
    assert observer.left() == before
    assert not sandbox.connection_file.exists()
    if info.transport == "ipc":
        assert not Path(info.ip).parent.exists()
    assert await observer.launcher.stop("again") is False
    assert "again" not in [each.name for each in await observer.launcher.sandboxes()]
    second = await observer.launcher.start(spec("again", network=network))
    assert load(second.connection_file).key != info.key


async def test_a_name_that_is_taken_is_refused_and_its_holder_keeps_its_variables(
    observer: Any, spec: Spec, connect: Any, tidy: None
) -> None:
    sandbox = await observer.launcher.start(spec("taken"))
    client = await connect(sandbox)
    await client.run("x = 42")
    content, left = sandbox.connection_file.read_text(), observer.left()
    for network in ("isolated", "none"):
        with pytest.raises(NameTaken, match="taken"):
            await observer.launcher.start(spec("taken", network=network))
    assert sandbox.connection_file.read_text() == content
    assert observer.left() == left
    assert await client.run("print(x)") == "42"


async def test_a_sandbox_that_has_ended_does_not_hold_its_name(observer: Any, spec: Spec, tidy: None) -> None:
    first = await observer.launcher.start(spec("reused"))
    key = load(first.connection_file).key
    observer.kill("reused")
    second = await observer.launcher.start(spec("reused"))
    assert load(second.connection_file).key != key
    assert [each.state for each in await observer.launcher.sandboxes() if each.name == "reused"] == ["running"]


async def test_no_more_sandboxes_run_than_the_policy_allows(observer: Any, spec: Spec, tidy: None) -> None:
    await observer.launcher.start(spec("first", network="none"))
    left = observer.left()
    running = [each for each in await observer.launcher.sandboxes() if each.state != "ended"]
    with pytest.raises(PolicyRefused, match=r"max_running.*first"):
        await observer.launcher.start(spec("second", network="none", policy={"max_running": len(running)}))
    assert observer.left() == left


async def test_a_missing_image_says_what_to_type_and_leaves_nothing(observer: Any, spec: Spec) -> None:
    left = observer.left()
    with pytest.raises(ImageNotFound, match="kernel-bridge image build"):
        await observer.launcher.start(spec("lost", image="kernel-bridge/python:none-such"))
    assert observer.left() == left


@pytest.mark.parametrize("call", ["stop", "revive", "restart_kernel", "interrupt_kernel", "last_ending"])
async def test_a_name_that_could_be_more_than_a_name_never_gets_to_the_engine(call: str, observer: Any) -> None:
    for name in ("../volumes/x", "a b", "", "X", "a" * 33):
        with pytest.raises(UsageError, match="cannot be a sandbox's name"):
            await getattr(observer.launcher, call)(name)


@pytest.mark.parametrize("call", ["revive", "restart_kernel", "interrupt_kernel", "last_ending"])
async def test_a_sandbox_that_is_not_there_is_told_by_its_name(call: str, observer: Any) -> None:
    with pytest.raises(NoSuchKernel, match="nobody"):
        await getattr(observer.launcher, call)("nobody")


async def test_a_connection_file_that_cannot_be_written_ends_the_start_and_leaves_nothing(
    observer: Any, spec: Spec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    left = observer.left()
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("JUPYTER_RUNTIME_DIR", str(tmp_path / "file"))
    with pytest.raises(LaunchError, match="could not be written"):
        await observer.launcher.start(spec("nofile"))
    assert observer.left() == left


# -- the person's files


@pytest.fixture
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("workspace").resolve()
    (directory / "data.txt").write_text("from the host")
    directory.chmod(0o755)
    if os.geteuid() == 0:
        os.chown(directory, 4321, 4321)
    return directory


@NETWORKS
async def test_a_workspace_has_its_own_path_inside_and_is_read_only_unless_asked(
    *, network: str, observer: Any, spec: Spec, connect: Any, workspace: Path, tidy: None
) -> None:
    policy = {"mounts": [{"source": str(workspace), "mode": "rw"}]}
    sandbox = await observer.launcher.start(spec("files", network=network, workspace=workspace, policy=policy))
    assert sandbox.workspace == str(workspace)
    assert sandbox in await observer.launcher.sandboxes()
    client = await connect(sandbox)
    assert (
        await client.run("import os; print(os.getcwd()); print(open('data.txt').read())")
        == f"{workspace}\nfrom the host"
    )
    assert "Read-only file system" in await client.run("open('made.txt', 'w')")


def owner_of(path: Path) -> int:
    return path.stat().st_uid


async def test_what_is_written_into_a_writable_workspace_belongs_to_its_owner(
    observer: Any, spec: Spec, connect: Any, workspace: Path, tidy: None
) -> None:
    policy = {"mounts": [{"source": str(workspace), "mode": "rw"}]}
    sandbox = await observer.launcher.start(
        spec("files", workspace=workspace, workspace_mode="rw", policy=policy, network="none")
    )
    client = await connect(sandbox)
    assert await client.run("open('made.txt', 'w').write('x'); import os; print(os.getuid())") != "0"
    assert owner_of(workspace / "made.txt") == owner_of(workspace)


async def test_what_the_kernel_of_root_made_in_an_open_workspace_is_roots_in_the_end(
    observer: Any, spec: Spec, connect: Any, workspace: Path, tidy: None
) -> None:
    assert os.geteuid() == 0
    os.chown(workspace, 0, 0)
    os.chown(workspace / "data.txt", 4321, 4321)
    policy = {"mounts": [{"source": str(workspace), "mode": "rw"}]}
    asked = spec("rooted", workspace=workspace, workspace_mode="rw", policy=policy)
    with pytest.raises(LaunchError, match=r"may not be written.*never root"):
        await observer.launcher.start(asked)
    workspace.chmod(0o777)
    client = await connect(await observer.launcher.start(asked))
    await client.run("open('made.txt', 'w').write('x'); import os; os.mkdir('deep')")
    assert owner_of(workspace / "made.txt") not in (0, 4321)
    await observer.launcher.stop("rooted")
    assert (owner_of(workspace / "made.txt"), owner_of(workspace / "deep")) == (0, 0)
    assert owner_of(workspace / "data.txt") == 4321


@NETWORKS
async def test_a_compose_projects_keys_in_a_workspace_are_hidden_from_the_kernel(
    *, network: str, observer: Any, spec: Spec, connect: Any, workspace: Path, tidy: None
) -> None:
    keys = workspace / ".kernel-bridge"
    keys.mkdir(mode=0o700)
    (keys / "token").write_text("hush")
    if os.geteuid() == 0:
        for each in (keys, keys / "token"):
            os.chown(each, 4321, 4321)
    policy = {"mounts": [{"source": str(workspace), "mode": "rw"}]}
    asked = spec("hiding", network=network, workspace=workspace, workspace_mode="rw", policy=policy)
    client = await connect(await observer.launcher.start(asked))
    assert await client.run("import os; print(os.listdir('.kernel-bridge'))") == "[]"
    assert "hush" not in await client.run("print(open('.kernel-bridge/token').read())")
    await client.run("open('.kernel-bridge/forged', 'w')")
    await client.run("os.rename('.kernel-bridge', 'elsewhere')")
    assert [each.name for each in keys.iterdir()] == ["token"]
    assert await client.run("open('made.txt', 'w').close(); print(os.path.exists('made.txt'))") == "True"


def swap(directory: Path) -> None:
    directory.rename(directory.with_name("moved"))
    directory.symlink_to("/etc")


async def test_a_workspace_that_holds_the_engines_socket_never_gets_in(
    observer: Any, spec: Spec, tmp_path: Path, tidy: None
) -> None:
    project = tmp_path / "project"
    project.mkdir()
    # an engine that only the person's command line names; the policy cannot know of it
    (project / "engine.sock").symlink_to("/var/run/docker.sock")
    policy = {"mounts": [{"source": str(tmp_path), "mode": "ro"}]}
    launcher = DockerLauncher(f"unix://{project}/engine.sock")
    with pytest.raises(PolicyRefused, match="container engine's socket"):
        await launcher.start(spec("reaching", workspace=project, policy=policy))
    launcher.close()


async def test_a_workspace_that_is_swapped_after_the_check_never_gets_in(
    observer: Any, spec: Spec, workspace: Path, tidy: None
) -> None:
    policy = {"mounts": [{"source": str(workspace.parent), "mode": "ro"}]}
    decided = spec("swapped", workspace=workspace, policy=policy)
    left = observer.left()
    swap(workspace)
    with pytest.raises(LaunchError, match="replaced"):
        await observer.launcher.start(decided)
    assert observer.left() == left


# -- lives and deaths


@NETWORKS
async def test_a_restarted_kernel_has_the_same_connection_and_no_variables_and_says_so(
    network: str, observer: Any, spec: Spec, connect: Any, tidy: None
) -> None:
    sandbox = await observer.launcher.start(spec("restarted", network=network))
    client = await connect(sandbox)
    await client.run("x = 1")
    assert await observer.launcher.last_ending("restarted") is None
    before, content = datetime.now(UTC), sandbox.connection_file.read_text()
    await observer.launcher.restart_kernel("restarted")
    again = await connect(sandbox)
    # the old process may answer a last time, so it is asked until the new one does
    while "NameError" not in (said := await again.run("print(x)")):
        assert said in ("1", "")
    assert sandbox.connection_file.read_text() == content
    assert "restarted" in await observer.launcher.last_ending("restarted", before)
    assert await observer.launcher.last_ending("restarted", datetime.now(UTC) + timedelta(seconds=1)) is None


async def test_the_log_tells_the_kernels_lives_in_order_and_can_be_followed_to_the_end(
    observer: Any, spec: Spec, connect: Any, tidy: None
) -> None:
    sandbox = await observer.launcher.start(spec("logged"))
    await connect(sandbox)
    told = await observer.launcher.log("logged")
    assert [each.time for each in told] == sorted(each.time for each in told)
    assert "started" in next(each.text for each in told if each.source == "supervisor")
    seen: list[LogLine] = []
    async with asyncio.timeout(SOON):
        following = asyncio.create_task(observer.launcher.follow_log("logged", seen.append))
        while len(seen) < len(told):
            await asyncio.sleep(0.01)
        await observer.launcher.restart_kernel("logged")
        while not any("asked from outside" in each.text for each in seen):
            await asyncio.sleep(0.01)
        observer.kill("logged")
        await following
    assert len(set(seen)) == len(seen)


async def test_an_interrupt_ends_the_running_cell_and_keeps_the_variables(
    observer: Any, spec: Spec, connect: Any, tidy: None
) -> None:
    sandbox = await observer.launcher.start(spec("interrupted", network="none"))
    client = await connect(sandbox)
    await client.run("x = 42")
    await client.begin("import time; time.sleep(600)")
    await observer.launcher.interrupt_kernel("interrupted")
    assert (await client.reply())["ename"] == "KeyboardInterrupt"
    assert await client.run("print(x)") == "42"


@NETWORKS
async def test_a_killed_sandbox_is_told_as_ended_with_a_sentence_and_swept(
    network: str, observer: Any, spec: Spec, tidy: None
) -> None:
    left = observer.left()
    sandbox = await observer.launcher.start(spec("killed", network=network))
    info = load(sandbox.connection_file)
    observer.kill("killed")
    (found,) = [each for each in await observer.launcher.sandboxes() if each.name == "killed"]
    assert found.state == "ended"
    assert "SIGKILL" in (found.ending or "")
    for call in (observer.launcher.restart_kernel, observer.launcher.revive):
        with pytest.raises(NoSuchKernel):
            await call("killed")
    assert [each.name for each in await observer.launcher.sweep()] == ["killed"]
    assert observer.left() == left
    assert not sandbox.connection_file.exists()
    assert info.transport == "tcp" or not Path(info.ip).parent.exists()


async def test_what_was_removed_behind_our_back_leaves_no_connection_file_after_a_sweep(
    observer: Any, spec: Spec, shared: Any, tidy: None
) -> None:
    sandbox = await observer.launcher.start(spec("gone"))
    content = sandbox.connection_file.read_text()
    observer.remove_behind_its_back("gone")
    assert sandbox.connection_file.read_text() == content
    await observer.launcher.sweep()
    assert not sandbox.connection_file.exists()
    alive, client = shared
    assert alive.connection_file.exists()
    assert await client.run("print(1)") == "1", "what runs is never swept"


@NETWORKS
async def test_a_lost_gateway_comes_back_where_it_was_and_the_variables_are_there(
    *, network: str, observer: Any, spec: Spec, connect: Any, tidy: None
) -> None:
    sandbox = await observer.launcher.start(spec("revived", network=network))
    client = await connect(sandbox)
    await client.run("x = 42")
    content = sandbox.connection_file.read_text()
    observer.kill_gateway("revived")
    (found,) = [each for each in await observer.launcher.sandboxes() if each.name == "revived"]
    assert found.state == "unreachable"
    await observer.launcher.sweep()
    await observer.launcher.revive("revived")
    (found,) = [each for each in await observer.launcher.sandboxes() if each.name == "revived"]
    assert found == sandbox
    assert sandbox.connection_file.read_text() == content
    await client.ready()  # its channels come back one after the other, and what is sent before iopub is there is lost
    assert await client.run("print(x)") == "42", "the client that was there goes on"
    await observer.launcher.revive("revived")
    assert await client.run("print(x)") == "42", "a gateway that runs is left alone"


async def test_a_gateway_whose_port_somebody_else_has_taken_is_told_and_the_kernel_lives(
    observer: Any, spec: Spec, connect: Any, tidy: None
) -> None:
    sandbox = await observer.launcher.start(spec("blocked"))
    client = await connect(sandbox)
    await client.run("x = 42")
    observer.kill_gateway("blocked")
    with (
        socket.create_server(("127.0.0.1", load(sandbox.connection_file).iopub_port)),
        pytest.raises(LaunchError, match=r"could not come back on its ports.*still runs"),
    ):
        await observer.launcher.revive("blocked")
    await observer.launcher.revive("blocked")
    await client.ready()  # as above: what is sent before iopub is there again is lost
    assert await client.run("print(x)") == "42"


@NETWORKS
async def test_a_gateway_that_is_lost_together_with_the_connection_file_comes_back_with_a_new_one(
    *, network: str, observer: Any, spec: Spec, connect: Any, tidy: None
) -> None:
    sandbox = await observer.launcher.start(spec("bothlost", network=network))
    key = load(sandbox.connection_file).key
    await (await connect(sandbox)).run("x = 42")
    observer.kill_gateway("bothlost")
    sandbox.connection_file.unlink()
    await observer.launcher.revive("bothlost")
    assert load(sandbox.connection_file).key == key
    assert await (await connect(sandbox)).run("print(x)") == "42"


async def test_a_lost_connection_file_is_written_again_as_it_was(shared: Any, observer: Any) -> None:
    sandbox, client = shared
    content = json.loads(sandbox.connection_file.read_text())
    sandbox.connection_file.unlink()
    await observer.launcher.restore_connection_file(sandbox.name)
    assert json.loads(sandbox.connection_file.read_text()) == content
    assert sandbox.connection_file.stat().st_mode & 0o777 == 0o600
    assert await client.run("print(1)") == "1"


async def test_a_lost_connection_file_is_not_made_of_what_code_inside_has_put_in_its_place(
    observer: Any, spec: Spec, connect: Any, tidy: None
) -> None:
    sandbox = await observer.launcher.start(spec("forged", network="none"))
    client = await connect(sandbox)
    sandbox.connection_file.unlink()
    forged = '{"key": "short", "ip": "10.0.0.1", "transport": "tcp", "shell_port": 22}'
    await client.run(f"open('/run/kernel/connection.json', 'w').write({forged!r})")
    with pytest.raises(LaunchError, match="could not be read back"):
        await observer.launcher.restore_connection_file("forged")
    await client.run("import os; os.unlink('/run/kernel/connection.json'); os.mkfifo('/run/kernel/connection.json')")
    with pytest.raises(LaunchError, match="could not be read back"):
        await observer.launcher.restore_connection_file("forged")
    await client.run("os.unlink('/run/kernel/connection.json'); os.symlink('/dev/zero', '/run/kernel/connection.json')")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(LaunchError, match="could not be read back"):
        await observer.launcher.restore_connection_file("forged")
    # KiB; without a bound it was two gigabytes
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100 * 1024
    assert not sandbox.connection_file.exists()


CATCH = """
import ctypes, os, time
libc = ctypes.CDLL(None, use_errno=True)
mine = {int(each) for each in os.listdir("/proc") if each.isdigit()}
open("/tmp/ready", "w").close()
while True:
    for each in os.listdir("/proc"):
        if each.isdigit() and int(each) not in mine and libc.ptrace(0x4206, int(each), 0, 0) == 0:  # PTRACE_SEIZE
            open("/tmp/caught", "a").write(each)
            mine.add(int(each))
"""


async def test_what_the_bridge_runs_inside_cannot_be_taken_over_by_code_inside(
    observer: Any, spec: Spec, connect: Any, tidy: None
) -> None:
    sandbox = await observer.launcher.start(spec("caught", network="none"))
    client = await connect(sandbox)
    begin = f"""
import os, subprocess, sys, time
catcher = subprocess.Popen([sys.executable, "-c", {CATCH!r}])
while not os.path.exists("/tmp/ready"):
    time.sleep(0.01)
"""
    assert await client.run(begin) == ""
    for _ in range(10):
        await observer.launcher.restore_connection_file("caught")
    assert await client.run("print(os.path.exists('/tmp/caught'), catcher.poll())") == "False None"
