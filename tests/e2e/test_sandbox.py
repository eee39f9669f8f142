"""An agent and its user in one sealed kernel: real engine, real client, both protocol eras."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import docker
import pytest

from bridge.launchers.docker.owner import current_owner

pytestmark = pytest.mark.anyio

SOON = 30.0
OWNER_LABEL = "io.kernel-bridge.owner"


@pytest.fixture(scope="module")
def engine() -> Iterator[docker.DockerClient]:
    client = docker.from_env(timeout=30)
    yield client
    client.close()


def ours(engine: docker.DockerClient) -> dict[str, list[str]]:
    """Return everything of this test run's owner that the engine has."""
    filters: dict[str, Any] = {"label": f"{OWNER_LABEL}={current_owner(os.environ)}"}
    containers = engine.containers.list(all=True, ignore_removed=True, filters=filters)
    return {
        "containers": [str(each.name) for each in containers],
        "volumes": [each.name for each in engine.volumes.list(filters=filters)],
    }


@asynccontextmanager
async def sandbox(agent: Any, name: str, **arguments: Any) -> AsyncIterator[Path]:
    """Start a sandbox and return its connection file; it is stopped however the test ends."""
    told = await agent.call("start_sandbox", name=name, **arguments)
    try:
        yield Path(told.rsplit(": ", 1)[1])
    finally:
        await agent.client.call_tool("stop_sandbox", {"kernel": name})


def kernel_container(engine: docker.DockerClient, name: str, role: str = "kernel") -> Any:
    labels = [
        f"{OWNER_LABEL}={current_owner(os.environ)}",
        f"io.kernel-bridge.name={name}",
        f"io.kernel-bridge.role={role}",
    ]
    [found] = engine.containers.list(filters={"label": labels})
    return found


def elsewhere(file: Path, code: str) -> str:
    """Run code through Jupyter's own client, which knows nothing of us but the connection file."""
    command = [sys.executable, "-m", "jupyter_client.runapp", "--existing", str(file)]
    return subprocess.run(command, input=code, capture_output=True, text=True, timeout=SOON, check=True).stdout


async def test_the_main_job_from_start_to_stop(connect: Any, engine: docker.DockerClient) -> None:
    async with connect() as agent:
        async with sandbox(agent, "main") as file:
            assert await agent.run("x = 42; x") == "42"
            elsewhere(file, "x += 1")
            assert await agent.run("x") == "43"
            svg = 'SVG(\'<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"/>\')'
            plot = await agent.client.call_tool("execute_code", {"code": f"from IPython.display import SVG; {svg}"})
            assert base64.b64decode(agent.images(plot)[0].data).startswith(b"\x89PNG")
            listed = (await agent.client.call_tool("list_kernels", {})).structured_content["kernels"]
            assert [(each["name"], each["kind"], each["connected"]) for each in listed] == [("main", "sandbox", True)]
        assert not file.exists()
    assert ours(engine) == {"containers": [], "volumes": []}


async def test_a_sandbox_outlives_its_server_and_another_one_joins_it(connect: Any) -> None:
    async with connect() as agent:
        await agent.call("start_sandbox", name="outlive")
        await agent.run("kept = 'yes'")
    async with connect() as agent:
        try:
            await agent.call("connect_to_kernel", connection_file="outlive")
            assert await agent.run("kept") == "'yes'"
        finally:
            await agent.call("stop_sandbox", kernel="outlive")


PROBE = """
import json, socket

def reached(kind, address, port):
    with socket.socket(socket.AF_INET, kind) as probe:
        probe.settimeout(2)
        try:
            probe.connect((address, port))
            probe.send(b'x')
        except OSError:
            return False
        return True

def resolved(name):
    try:
        return bool(socket.getaddrinfo(name, 80))
    except OSError:
        return False

kinds = {'tcp': socket.SOCK_STREAM, 'udp': socket.SOCK_DGRAM}
print(json.dumps({
    'devices': [line.split(':')[0].strip() for line in open('/proc/net/dev') if ':' in line],
    'reached': [[kind, *target] for kind, number in kinds.items() for target in TARGETS if reached(number, *target)],
    'resolved': [name for name in NAMES if resolved(name)],
}))
"""


def host_addresses() -> list[str]:
    listed = subprocess.run(["hostname", "-I"], capture_output=True, text=True, check=True, timeout=SOON).stdout
    return sorted(each for each in listed.split() if ":" not in each)


@pytest.mark.parametrize("network", ["isolated", "none"])
async def test_from_inside_nothing_but_loopback_exists(connect: Any, engine: docker.DockerClient, network: str) -> None:
    async def greet(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    # a service of the host on every address of it, as a real one would be
    service = await asyncio.start_server(greet, "0.0.0.0", 0)
    port = service.sockets[0].getsockname()[1]
    targets = [[each, port] for each in host_addresses()]
    assert targets, "the host has no address of its own, so nothing would be shown"
    for address, _ in targets:
        # the control: from the host the service is reached
        _, writer = await asyncio.open_connection(address, port)
        writer.close()
    async with connect() as agent, sandbox(agent, f"net-{network}", network=network):
        if network == "isolated":
            gateway = kernel_container(engine, "net-isolated", "gateway").attrs["NetworkSettings"]
            bridge = gateway["Networks"]["bridge"]
            targets += [[bridge["IPAddress"], 5001], [bridge["Gateway"], port]]
        names = ["host.docker.internal", "gateway", os.uname().nodename, "example.test"]
        seen = json.loads(await agent.run(f"TARGETS = {targets}; NAMES = {names}\n{PROBE}"))
    service.close()
    assert seen == {"devices": ["lo"], "reached": [], "resolved": []}


async def test_network_none_has_no_port_at_all_and_its_file_works_for_others(
    connect: Any, engine: docker.DockerClient
) -> None:
    async with connect() as agent, sandbox(agent, "quiet", network="none") as file:
        assert json.loads(file.read_text())["transport"] == "ipc"
        assert not kernel_container(engine, "quiet").attrs["NetworkSettings"]["Ports"]
        await agent.run("x = 1")
        assert elsewhere(file, "print(x + 1)") == "2\n"


async def timed(call: Any) -> tuple[str, float]:
    before = time.monotonic()
    return await call, time.monotonic() - before


async def long_cell(agent: Any, name: str, seconds: int = 60) -> asyncio.Task[str]:
    """Start a cell that would go on, and return once the kernel runs it."""
    task = asyncio.create_task(
        agent.refused("execute_code", code=f"import time; time.sleep({seconds}); done = 1", kernel=name, timeout=55)
    )
    async with asyncio.timeout(SOON):
        while True:
            status = await agent.client.call_tool("kernel_status", {"kernel": name})
            if status.structured_content["result"][0]["state"] == "busy":
                return task


async def test_a_killed_kernel_is_told_at_once_and_the_next_call_starts_clean(
    connect: Any, engine: docker.DockerClient
) -> None:
    async with connect() as agent, sandbox(agent, "killed") as file:
        await agent.run("x = 1")
        cell = await long_cell(agent, "killed")
        pid = json.loads(kernel_container(engine, "killed").logs(stderr=False).splitlines()[-1])["pid"]
        kernel_container(engine, "killed").exec_run(["/opt/kernel/bin/python", "-c", f"import os; os.kill({pid}, 9)"])
        told, seconds = await timed(cell)
        assert seconds < 2
        assert "signal 9" in told
        assert "variables are lost" in told
        after = await agent.run("'x' in globals()")
        assert "epoch 2" in after
        assert after.endswith("False")
        assert await agent.run("1 + 1") == "2"
        assert elsewhere(file, "print('same file')") == "same file\n"


async def test_a_kernel_that_runs_out_of_memory_is_told_as_that(connect: Any) -> None:
    async with connect() as agent, sandbox(agent, "oom", memory="160MiB"):
        told = await agent.refused("execute_code", code="hog = bytearray(400 * 2**20)")
        assert "out of memory" in told
        assert "160 MiB" in told
        assert (await agent.run("1 + 1")).endswith("2")


async def test_a_killed_container_is_told_at_once_and_leaves_nothing(connect: Any, engine: docker.DockerClient) -> None:
    async with connect() as agent:
        told = await agent.call("start_sandbox", name="gone")
        file = Path(told.rsplit(": ", 1)[1])
        cell = await long_cell(agent, "gone")
        kernel_container(engine, "gone").kill()
        told, seconds = await timed(cell)
        assert seconds < 2
        assert "Sandbox gone has ended" in told
        assert "variables are lost" in told
        assert "start_sandbox" in await agent.refused("execute_code", code="1")
        assert "No kernel is connected" in await agent.refused("execute_code", code="1")
        async with sandbox(agent, "gone"):
            assert await agent.run("1 + 1") == "2"
        assert not file.exists()
    assert ours(engine) == {"containers": [], "volumes": []}


async def test_a_sandbox_whose_gateway_and_file_are_both_lost_comes_back(
    connect: Any, engine: docker.DockerClient
) -> None:
    async with connect() as agent, sandbox(agent, "both") as file:
        await agent.run("x = 7")
        await agent.call("disconnect_kernel")
        kernel_container(engine, "both", "gateway").kill()
        file.unlink()
        await agent.call("connect_to_kernel", connection_file="both")
        assert await agent.run("x") == "7"
        assert file.exists()


async def test_a_sandbox_whose_kernel_cannot_start_is_told_with_the_cause(connect: Any) -> None:
    startup = "import os; os._exit(9)"
    async with connect() as agent, sandbox(agent, "falls"):
        await agent.run(
            "import os, pathlib; place = pathlib.Path.home() / '.ipython/profile_default/startup';"
            f"place.mkdir(parents=True, exist_ok=True); (place / 'fall.py').write_text({startup!r})"
        )
        assert "exit status" in await agent.refused("execute_code", code="os._exit(3)")
        async with asyncio.timeout(60):  # the next kernel falls once it has read its startup files
            while "exit status 9" not in (told := await agent.refused("execute_code", code="1", timeout=2)):
                assert "exit status 3" in told
        assert "Nothing was executed" in told
        listed = (await agent.client.call_tool("list_kernels", {})).structured_content["kernels"]
        assert "not answering" in listed[0]["state"]
        assert "exit status 9" in listed[0]["state"]


async def test_a_kernel_that_answers_nothing_is_restarted_by_the_agent(connect: Any) -> None:
    async with connect() as agent, sandbox(agent, "stuck"):
        # one loop in C: no thread of the kernel runs any more
        await agent.run("sum(range(10**15))", timeout=0.5)
        assert "all earlier variables are gone" in await agent.call("restart_kernel")
        assert await agent.run("1 + 1") == "2"


async def test_a_paused_sandbox_is_told_as_that(connect: Any, engine: docker.DockerClient) -> None:
    async with connect() as agent, sandbox(agent, "frozen"):
        await agent.call("disconnect_kernel")
        container = kernel_container(engine, "frozen")
        container.pause()
        try:
            listed = (await agent.client.call_tool("list_kernels", {})).structured_content["kernels"]
            assert "docker unpause" in listed[0]["state"]
            assert "docker unpause" in await agent.refused("connect_to_kernel", connection_file="frozen")
        finally:
            container.unpause()
        await agent.call("connect_to_kernel", connection_file="frozen")
        assert await agent.run("1 + 1") == "2"


async def test_a_container_that_ends_while_its_kernel_starts_is_told_at_once_and_leaves_nothing(
    connect: Any, engine: docker.DockerClient
) -> None:
    async with connect() as agent:
        start = asyncio.create_task(agent.refused("start_sandbox", name="early", cpus=0.1))
        async with asyncio.timeout(SOON):
            while True:
                with contextlib.suppress(ValueError, docker.errors.APIError):
                    container = kernel_container(engine, "early")
                    if b"started" in container.logs(stdout=True, stderr=False):
                        break
                await asyncio.sleep(0.01)
        container.kill()
        told, seconds = await timed(start)
        assert "ended while its kernel was starting (killed from outside" in told
        assert seconds < 5
        assert ours(engine) == {"containers": [], "volumes": []}


async def test_a_slow_start_keeps_no_other_kernel_from_being_connected_to(connect: Any, host_kernel: Any) -> None:
    async with connect() as agent:
        await agent.client.call_tool("list_kernels", {})
        start = asyncio.create_task(agent.call("start_sandbox", name="slow", cpus=0.1))
        try:
            connecting = asyncio.create_task(agent.call("connect_to_kernel", connection_file=str(host_kernel.file)))
            done, _ = await asyncio.wait({start, connecting}, return_when=asyncio.FIRST_COMPLETED)
            assert done == {connecting}
            await start
        finally:
            await agent.client.call_tool("stop_sandbox", {"kernel": "slow"})


async def test_a_runtime_directory_behind_a_symlink_shows_each_sandbox_once(connect: Any, tmp_path: Path) -> None:
    (tmp_path / "real").mkdir(mode=0o700)
    (tmp_path / "link").symlink_to(tmp_path / "real")
    async with connect(JUPYTER_RUNTIME_DIR=str(tmp_path / "link")) as agent, sandbox(agent, "linked"):
        listed = (await agent.client.call_tool("list_kernels", {})).structured_content["kernels"]
        assert [(each["name"], each["connected"]) for each in listed] == [("linked", True)]
        await agent.call("disconnect_kernel")
        await agent.call("connect_to_kernel")
        assert await agent.run("1 + 1") == "2"


async def test_all_that_happens_in_a_sandbox_is_seen_and_kept(connect: Any, command: Any, tmp_path: Path) -> None:
    async with connect() as agent, sandbox(agent, "seen") as file:
        elsewhere(file, "def half(n):\n    return n / 0\nwords = ['a', 'b']\n")
        with contextlib.suppress(subprocess.CalledProcessError):
            elsewhere(file, "half(3)\n")
        told = json.loads(await agent.call("get_activity"))
        assert [each["outcome"] for each in told["cells"]] == ["ok", "error"]
        raised = json.loads(await agent.call("inspect_error"))
        assert (raised["type"], raised["frames"][-1]["function"]) == ("ZeroDivisionError", "half")
        assert [(each["name"], each["value"]) for each in raised["variables"]] == [("n", "3")]
        assert "Waiting for input: `who?`, asked by execution 1." in await agent.run("print(input('who? '))")
        assert await agent.call("send_input", text="it is me") == "it is me"
        seen = json.loads(await agent.call("inspect_object", name="words"))
        assert (seen["object"]["type"], seen["object"]["length"]) == ("list", 2)
        shown = await agent.run("for n in range(30_000): print(n)")
        (number,) = re.findall(r"get_execution\(execution=(\d+), cursor=0\) reads all of it", shown)
        assert (await agent.call("get_execution", execution=int(number), cursor=0)).startswith("0\n1\n2\n")
        exported = command("export", "seen", str(tmp_path / "seen.ipynb"))
        assert exported.returncode == 0, exported.stderr
        cells = json.loads((tmp_path / "seen.ipynb").read_text())["cells"]
        code = ["".join(each["source"]) for each in cells if each["cell_type"] == "code"]
        assert (len(code), code[1].strip()) == (4, "half(3)")


async def test_restarting_keeps_name_and_file_and_says_that_the_variables_are_gone(connect: Any) -> None:
    async with connect() as agent, sandbox(agent, "fresh") as file:
        await agent.run("x = 1")
        before = file.read_text()
        assert "all earlier variables are gone" in await agent.call("restart_kernel")
        assert await agent.run("'x' in globals()") == "False"
        assert file.read_text() == before


async def test_exit_in_a_cell_does_not_end_a_sandbox_kernel(connect: Any) -> None:
    async with connect() as agent, sandbox(agent, "exit"):
        await agent.run("x = 1")
        await agent.run("exit")
        await agent.run("quit()")
        assert await agent.run("x") == "1"


async def test_an_interrupt_reaches_a_cell_with_child_processes(connect: Any) -> None:
    async with connect() as agent, sandbox(agent, "int"):
        await agent.run("import subprocess; subprocess.run(['sleep', '60'])", timeout=1)
        assert "KeyboardInterrupt" in await agent.refused("interrupt_kernel")


async def test_a_name_that_is_taken_is_told_and_the_sandbox_is_left_alone(connect: Any) -> None:
    async with connect() as agent, sandbox(agent, "taken"):
        await agent.run("x = 1")
        assert "taken" in await agent.refused("start_sandbox", name="taken")
        assert await agent.run("x", kernel="taken") == "1"


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        ({"image": "python:3.13"}, "kernel-bridge/python"),
        ({"image": "kernel-bridge/python"}, "tag"),
        ({"name": "../volumes/x"}, "name"),
        ({"name": "UPPER"}, "name"),
        ({"memory": "64GiB"}, "2GiB"),
        ({"memory": "lots"}, "size"),
        ({"cpus": 64}, "cpus"),
        ({"workspace": "/"}, "workspace"),
        ({"workspace": "/etc"}, "workspace"),
        ({"workspace": "relative"}, "workspace"),
    ],
)
async def test_what_the_policy_does_not_allow_is_refused_with_what_it_does(
    connect: Any, arguments: dict[str, Any], word: str
) -> None:
    async with connect() as agent:
        assert word in await agent.refused("start_sandbox", **arguments)


async def test_a_missing_image_is_an_error_that_says_what_to_type(connect: Any) -> None:
    async with connect() as agent:
        told = await agent.refused("start_sandbox", image="kernel-bridge/python:0.0-none")
    assert "kernel-bridge image build" in told


async def test_without_an_engine_the_server_serves_on_and_says_so(connect: Any, tmp_path: Path) -> None:
    async with connect(KERNEL_BRIDGE_DOCKER_HOST=f"unix://{tmp_path}/none.sock") as agent:
        assert "none.sock" in await agent.refused("start_sandbox")
        listed = (await agent.client.call_tool("list_kernels", {})).structured_content
        assert "none.sock" in listed["trouble"]


async def test_a_workspace_is_there_at_its_own_path_and_read_only_unless_allowed(connect: Any, tmp_path: Path) -> None:
    project = tmp_path / "project"
    project.mkdir()
    (project / "data.csv").write_text("a,b\n1,2\n")
    policy = tmp_path / "policy.yaml"
    policy.write_text(f"version: 1\nsandbox:\n  mounts:\n    - {{source: '{tmp_path}', mode: ro}}\n")
    policy.chmod(0o600)
    async with connect(policy) as agent:
        told = await agent.refused("start_sandbox", workspace=str(project), workspace_mode="rw")
        assert "may only be mounted ro" in told
        async with sandbox(agent, "ws", workspace=str(project)):
            assert await agent.run("import os; print(os.getcwd(), os.listdir())") == f"{project} ['data.csv']"
            assert "Read-only file system" in await agent.refused("execute_code", code="open('new', 'w')")


async def test_a_lone_surrogate_is_shown_as_such_and_costs_no_output(connect: Any) -> None:
    async with connect() as agent, sandbox(agent, "surrogate"):
        assert await agent.run(r"print('before \ud800 after \U0001f600')") == "before \ufffd after \U0001f600"
        assert "ValueError: \ufffd" in await agent.refused("execute_code", code=r"raise ValueError('\ud800')")
        assert await agent.run("1 + 1") == "2"


async def test_a_cancelled_start_leaves_nothing(connect: Any, engine: docker.DockerClient) -> None:
    async with connect() as agent:
        start = asyncio.create_task(agent.call("start_sandbox", name="cancelled"))
        async with asyncio.timeout(SOON):
            while not ours(engine)["containers"]:
                await asyncio.sleep(0.01)
        start.cancel()
        async with asyncio.timeout(SOON):
            while ours(engine) != {"containers": [], "volumes": []}:
                await asyncio.sleep(0.05)
        assert "ipython kernel" in await agent.refused("connect_to_kernel")
