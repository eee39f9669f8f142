"""An agent on a kernel that the person's IDE started: a real Jupyter server's, and one started as VS Code does it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from jupyter_client.blocking.client import BlockingKernelClient

from tests.conftest import HostKernel
from tests.e2e.test_relay_sandbox import until_it_listens
from tests.jupyter import JupyterServer, jupyter_server

pytestmark = [pytest.mark.anyio, pytest.mark.parametrize("connect", ["auto"], indirect=True)]

SOON = 60.0


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[JupyterServer]:
    """Start one server, with a runtime directory of its own, for all tests that leave it as it was."""
    directory = tmp_path_factory.mktemp("jupyter")
    (directory / "runtime").mkdir(mode=0o700)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JUPYTER_RUNTIME_DIR", str(directory / "runtime"))
        with jupyter_server(directory) as server:
            yield server


@pytest.fixture
def server(running: JupyterServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[JupyterServer]:
    """The server without any kernel; the agent looks where its kernels are."""
    monkeypatch.setenv("JUPYTER_RUNTIME_DIR", str(running.runtime))
    yield running
    running.close_all()


async def joined(agent: Any, which: str | None) -> str:
    """Connect to a kernel that was only just started and may not listen yet; returns its name."""
    async with asyncio.timeout(SOON):
        while True:
            arguments = {"connection_file": which} if which else {}
            result = await agent.client.call_tool("connect_to_kernel", arguments)
            if not result.is_error:
                return str(agent.text(result).split("host kernel ")[1].split()[0])
            assert "Nothing listens" in agent.text(result) or "not answer" in agent.text(result), agent.text(result)


async def listed(agent: Any) -> dict[str, Any]:
    """Return the rows of list_kernels by name."""
    rows = (await agent.client.call_tool("list_kernels", {})).structured_content["kernels"]
    return {each["name"]: each for each in rows}


async def test_a_notebooks_kernel_is_joined_by_every_name_a_person_may_use(
    connect: Any, server: JupyterServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    kernel = server.kernel_of(server.open_notebook("project/work.ipynb"))
    monkeypatch.chdir(server.root)
    (server.root.parent / "link").symlink_to(server.root)
    assert await server.run(kernel, "x = 0") == ""
    names = {
        "full path": str(server.root / "project" / "work.ipynb"),
        "relative path": "project/work.ipynb",
        "file name": "work.ipynb",
        "kernel id": kernel,
        "kernel file": f"kernel-{kernel}.json",
        "path through a link": str(server.root.parent / "link" / "project" / "work.ipynb"),
        "left out": None,
    }
    async with connect() as agent:
        for number, (form, name) in enumerate(names.items(), 1):
            assert await joined(agent, name) == f"kernel-{kernel}", form
            assert await agent.run(f"x += 1; y = {form!r}; x") == str(number)
            assert await server.run(kernel, "print(x, y)") == f"{number} {form}\n"
            await agent.call("disconnect_kernel")


async def test_the_persons_running_cell_goes_first_and_the_agents_time_out_leaves_it_alone(
    connect: Any, server: JupyterServer
) -> None:
    kernel = server.kernel_of(server.open_notebook("work.ipynb"))
    async with connect() as agent, server.channels(kernel) as channels:
        await joined(agent, "work.ipynb")
        cell = await channels.begin(
            "import time; print('on', flush=True)\nwhile not globals().get('go'): time.sleep(0.05)"
        )
        await cell.until("stream")
        told = await agent.refused("execute_code", code="too_soon = 1", timeout=1)
        assert "Nothing was executed" in told
        assert "busy" in told
        assert "idle" not in (await agent.call("kernel_status"))
        # as a person presses the stop button
        server.ask("POST", f"kernels/{kernel}/interrupt")
        assert await cell.done() == "KeyboardInterrupt"
        assert await agent.run("'too_soon' in globals()") == "False"


async def test_a_notebook_that_was_renamed_or_moved_is_known_by_its_new_name_only(
    connect: Any, server: JupyterServer
) -> None:
    session = server.open_notebook("Untitled.ipynb")
    kernel = server.kernel_of(session)
    server.ask("PUT", "contents/sub", {"type": "directory"})
    # as JupyterLab does it: the file first, then the session
    server.ask("PATCH", "contents/Untitled.ipynb", {"path": "sub/analysis.ipynb"})
    server.ask("PATCH", f"sessions/{session['id']}", {"path": "sub/analysis.ipynb", "name": "analysis.ipynb"})
    written = json.loads((server.runtime / f"kernel-{kernel}.json").read_text())
    assert written["jupyter_session"] == str(server.root / "Untitled.ipynb")
    async with connect() as agent:
        assert await joined(agent, "analysis.ipynb") == f"kernel-{kernel}"
        assert (await listed(agent))[f"kernel-{kernel}"]["notebook"] == str(server.root / "sub" / "analysis.ipynb")
        await agent.call("disconnect_kernel")
        # the name is another notebook's by now
        other = server.kernel_of(server.open_notebook("Untitled.ipynb"))
        assert await joined(agent, "Untitled.ipynb") == f"kernel-{other}"


async def test_notebooks_of_one_name_are_ambiguous_and_the_error_says_which_there_are(
    connect: Any, server: JupyterServer
) -> None:
    kernels = [server.kernel_of(server.open_notebook(f"{each}/same.ipynb")) for each in ("one", "two")]
    async with connect() as agent:
        await joined(agent, kernels[0])
        await joined(agent, kernels[1])
        told = await agent.refused("connect_to_kernel", connection_file="same.ipynb")
        assert f"{server.root}/one/same.ipynb" in told
        assert f"{server.root}/two/same.ipynb" in told
        assert kernels[1] in await agent.call("connect_to_kernel", connection_file=f"{server.root}/two/same.ipynb")


async def test_a_kernel_of_two_notebooks_and_a_console_is_found_by_each_of_them(
    connect: Any, server: JupyterServer
) -> None:
    kernel = server.kernel_of(server.open_notebook("first.ipynb"))
    server.open_notebook("second.ipynb", id=kernel)
    # as JupyterLab's "New Console for Notebook"
    console = {"path": f"console-1-{uuid.uuid4()}", "name": "Console 1", "type": "console", "kernel": {"id": kernel}}
    server.ask("POST", "sessions", console)
    async with connect() as agent:
        for each in ("first.ipynb", "second.ipynb", "Console 1"):
            assert await joined(agent, each) == f"kernel-{kernel}"
        told = (await listed(agent))[f"kernel-{kernel}"]["notebook"]
    assert told == ", ".join(str(server.root / each) for each in ("first.ipynb", "second.ipynb", "Console 1"))


async def test_after_the_restart_button_the_variables_are_gone_and_the_next_result_says_so_first(
    connect: Any, server: JupyterServer
) -> None:
    kernel = server.kernel_of(server.open_notebook("work.ipynb"))
    async with connect() as agent:
        await joined(agent, "work.ipynb")
        await agent.run("x = 1")
        before = (server.runtime / f"kernel-{kernel}.json").read_text()
        server.ask("POST", f"kernels/{kernel}/restart")
        assert (server.runtime / f"kernel-{kernel}.json").read_text() == before
        assert await server.run(kernel, "print('x' in globals())") == "False\n"
        told = await agent.run("'x' in globals()")
        assert "all earlier variables are gone" in told
        assert told.endswith("False")
        status = (await agent.client.call_tool("kernel_status", {})).structured_content["result"]
        assert [each["epoch"] for each in status] == [2]


async def test_a_notebook_that_was_shut_down_is_told_and_joined_again_once_it_has_a_kernel(
    connect: Any, server: JupyterServer
) -> None:
    session = server.open_notebook("work.ipynb")
    async with connect() as agent:
        await joined(agent, "work.ipynb")
        server.ask("DELETE", f"sessions/{session['id']}")
        told = await agent.refused("execute_code", code="1")
        assert "has ended" in told
        assert "Nothing was executed" in told
        assert "No kernel is called 'work.ipynb'" in await agent.refused(
            "connect_to_kernel", connection_file="work.ipynb"
        )
        again = server.kernel_of(server.open_notebook("work.ipynb"))
        assert await joined(agent, "work.ipynb") == f"kernel-{again}"


async def test_a_server_that_crashed_leaves_files_that_mislead_nobody(
    connect: Any, runtime: Path, tmp_path: Path
) -> None:
    with jupyter_server(tmp_path / "jupyter") as crashed:
        crashed.open_notebook("work.ipynb")
        children = Path(f"/proc/{crashed.process.pid}/task/{crashed.process.pid}/children").read_text()
        crashed.process.kill()
        for each in children.split():
            os.kill(int(each), signal.SIGKILL)
    assert list(runtime.glob("jpserver-*.json"))
    with jupyter_server(tmp_path / "jupyter") as running:
        kernel = running.kernel_of(running.open_notebook("work.ipynb"))
        async with connect() as agent:
            await joined(agent, kernel)
            assert await joined(agent, "work.ipynb") == f"kernel-{kernel}"


async def test_a_server_with_a_password_still_has_its_notebooks_found_by_the_files(
    connect: Any, server: JupyterServer
) -> None:
    kernel = server.kernel_of(server.open_notebook("work.ipynb"))
    word = server.runtime / f"jpserver-{server.process.pid}.json"
    before = word.read_text()
    word.write_text(json.dumps(json.loads(before) | {"token": ""}))
    try:
        async with connect() as agent:
            assert await joined(agent, "work.ipynb") == f"kernel-{kernel}"
    finally:
        word.write_text(before)


# -- an IDE's own way to a kernel that has another one


@pytest.fixture
def server_with_spec(
    runtime: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: Any
) -> Iterator[Callable[[str], JupyterServer]]:
    """Put a kernel into the server's picker and start the server."""
    monkeypatch.setenv("JUPYTER_DATA_DIR", str(tmp_path / "data"))
    with contextlib.ExitStack() as running:

        def start(kernel: str) -> JupyterServer:
            installed = command("ide", "install", kernel)
            assert installed.returncode == 0, installed.stderr
            return running.enter_context(jupyter_server(tmp_path / "jupyter"))

        yield start


async def test_a_notebook_on_a_shared_sandbox_is_that_sandbox_and_not_a_kernel_of_its_own(
    connect: Any, shell_sandbox: str, server_with_spec: Callable[[str], JupyterServer], runtime: Path
) -> None:
    server = server_with_spec(shell_sandbox)
    kernel = server.kernel_of(server.open_notebook("work.ipynb", name=f"kernel-bridge-{shell_sandbox}"))
    assert await server.run(kernel, "x = 41") == ""
    async with connect() as agent:
        rows = await listed(agent)
        assert list(rows) == [shell_sandbox]
        assert rows[shell_sandbox]["kind"] == "sandbox"
        assert rows[shell_sandbox]["notebook"] == str(server.root / "work.ipynb")
        file = str(runtime / f"kernel-{kernel}.json")
        for name in ("work.ipynb", kernel, file, None):
            arguments = {"connection_file": name} if name else {}
            assert f"sandbox kernel {shell_sandbox} " in await agent.call("connect_to_kernel", **arguments)
        server.process.kill()
        server.process.wait(SOON)
        assert await agent.run("x + 1") == "42"


@pytest.mark.parametrize("ide", ["Jupyter", "VS Code"])
async def test_what_an_ide_joined_on_the_host_is_told_once_and_by_its_own_file(
    connect: Any, host_kernel: HostKernel, runtime: Path, tmp_path: Path, ide: str
) -> None:
    attached(host_kernel.file).stop_channels()  # it was only just started
    file = runtime / (f"kernel-v3{secrets.token_hex(20)}.json" if ide == "VS Code" else f"kernel-{uuid.uuid4()}.json")
    name = "undefined.relay#--kernel#x" if ide == "VS Code" else "kernel-bridge-x"
    about = {"key": "k" * 32, "kernel_name": name, "ip": "127.0.0.1", **in_ports(free_ports())}
    file.write_text(json.dumps(about | ({} if ide == "VS Code" else {"jupyter_session": str(tmp_path / "w.ipynb")})))
    arguments = ["relay", "--kernel", str(host_kernel.file), str(file)]
    relay = subprocess.Popen([sys.executable, "-m", "bridge", *arguments])
    try:
        client = attached(file)
        if ide == "VS Code":
            tell_notebook(client, tmp_path / "w.ipynb")
        async with connect() as agent:
            assert {each: row["notebook"] for each, row in (await listed(agent)).items()} == {
                host_kernel.file.stem: str(tmp_path / "w.ipynb")
            }
            for each in (str(tmp_path / "w.ipynb"), str(file), None):
                assert await joined(agent, each) == host_kernel.file.stem
        client.stop_channels()
    finally:
        relay.terminate()
        relay.wait(SOON)


# -- VS Code


StartInVSCode = Callable[[Path | None], Path]


@pytest.fixture
def start_in_vscode(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[StartInVSCode]:
    """Start a kernel as VS Code does on Linux and return its connection file.

    Where, how and with what is vscode-jupyter's: `JupyterPaths.getRuntimeDirImpl`,
    `KernelLauncher.getKernelConnection`, `KernelProcess.updateConnectionArgs`, `BaseKernel.gatherInternalStartupCode`.
    """
    session = tmp_path / "session"
    monkeypatch.delenv("JUPYTER_RUNTIME_DIR")
    monkeypatch.setenv("JUPYTER_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(session))
    started: list[tuple[subprocess.Popen[bytes], BlockingKernelClient]] = []

    def start(notebook: Path | None) -> Path:
        connection = {
            "key": str(uuid.uuid4()),
            "signature_scheme": "hmac-sha256",
            "transport": "tcp",
            "ip": "127.0.0.1",
            **in_ports(free_ports()),
            "kernel_name": "python3",
        }
        file = session / "jupyter" / "runtime" / f"kernel-v3{secrets.token_hex(20)}.json"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(connection, separators=(",", ":")))
        command = [sys.executable, "-m", "ipykernel_launcher", f"--f={file}"]
        process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
        started.append((process, attached(file)))
        if notebook:
            tell_notebook(started[-1][1], notebook)
        return file

    yield start
    for process, client in started:
        client.stop_channels()
        process.kill()
        process.wait(SOON)


def attached(file: Path) -> BlockingKernelClient:
    """Connect to a kernel that starts, as an IDE does."""
    until_it_listens(file)
    client = BlockingKernelClient(connection_file=str(file))
    client.load_connection_file()
    client.start_channels()
    client.wait_for_ready(SOON)
    return client


def tell_notebook(client: BlockingKernelClient, notebook: Path) -> None:
    """Run what VS Code runs hidden at a kernel's start."""
    hidden = f'__vsc_ipynb_file__ = "{notebook}"'
    client.execute(hidden, silent=True, store_history=False, allow_stdin=False, stop_on_error=False, reply=True)


def in_ports(numbers: list[int]) -> dict[str, int]:
    names = ("hb_port", "control_port", "shell_port", "stdin_port", "iopub_port")
    return dict(zip(names, numbers, strict=True))


def free_ports() -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(5)]
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


async def test_vs_codes_notebook_is_joined_by_its_name_also_while_a_cell_runs_and_nothing_runs_in_it(
    connect: Any, start_in_vscode: StartInVSCode, tmp_path: Path
) -> None:
    notebook = tmp_path / f"{'long ' * 50}" / "pläne.ipynb"
    kernel, _ = start_in_vscode(notebook), start_in_vscode(None)
    environment = {each: os.environ[each] for each in ("XDG_RUNTIME_DIR", "JUPYTER_DATA_DIR")}
    async with connect(**environment) as agent:
        assert {each["notebook"] for each in (await listed(agent)).values()} == {str(notebook), None}
        for each in (str(notebook), "pläne.ipynb", kernel.name, kernel.stem.removeprefix("kernel-"), str(kernel)):
            assert await joined(agent, each) == kernel.stem
        assert await agent.run("In[1:]") == "['In[1:]']"
        await agent.run("import time; time.sleep(60)", timeout=0.1)
        async with connect(**environment) as other:
            assert await joined(other, "pläne.ipynb") == kernel.stem
        assert "KeyboardInterrupt" in await agent.refused("interrupt_kernel")
