"""A shared session as a notebook: what the agent and the person ran, written by another process."""

from __future__ import annotations

import ast
import asyncio
import contextlib
import os
import signal
import stat
import sys
from pathlib import Path
from typing import Any

import anyio
import pytest

pytestmark = pytest.mark.anyio

SOON = 60.0


@pytest.fixture(autouse=True)
def _own_journal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("USER", "alice")


async def elsewhere(file: Path, code: str) -> str:
    """Run code through Jupyter's own client."""
    command = [sys.executable, "-m", "jupyter_client.runapp", "--existing", str(file)]
    done = await anyio.run_process(command, input=code.encode(), check=False)
    return done.stdout.decode()


async def connected(agent: Any, kernel: Any) -> None:
    """Connect; the kernel was started a moment ago and may not listen yet."""
    async with asyncio.timeout(SOON):
        while True:
            result = await agent.client.call_tool("connect_to_kernel", {"connection_file": str(kernel.file)})
            if not result.is_error:
                return


def server() -> int:
    """Return the process of the MCP server, the only child of the tests that serves."""

    def serves(process: Path) -> bool:
        with contextlib.suppress(OSError):
            parent = (process / "stat").read_text().rpartition(")")[2].split()[1]
            return parent == str(os.getpid()) and b"serve" in (process / "cmdline").read_bytes().split(b"\0")
        return False

    [found] = [int(each.name) for each in Path("/proc").iterdir() if each.name.isdigit() and serves(each)]
    return found


async def session_of_two(agent: Any, kernel: Any) -> None:
    """Agent and person in turn: text, a plot, what was cleared and updated, shell lines, an exception."""
    await connected(agent, kernel)
    await agent.run("%matplotlib inline\nimport matplotlib.pyplot as plt\nx = 41", timeout=SOON)
    await agent.run("import sys\nprint('agent', x)\nprint('to stderr', file=sys.stderr)\nx")
    await elsewhere(kernel.file, "x += 1\nprint('person', x)")
    await elsewhere(kernel.file, "x / 0")
    await agent.run("plt.plot([1, 3, 2])\nplt.show()", timeout=SOON)
    await agent.run(
        "from IPython.display import clear_output, display\nprint('old'); clear_output(); print('new')\n"
        "shown = display('before', display_id='d1')"
    )
    await elsewhere(kernel.file, "from IPython.display import update_display\nupdate_display('after', display_id='d1')")
    await agent.run("names = !echo one two\nnames")


def code_cells(notebook: dict[str, Any]) -> list[dict[str, Any]]:
    return [each for each in notebook["cells"] if each["cell_type"] == "code"]


def check_session(cells: list[dict[str, Any]], agent: str) -> None:
    assert [cell["execution_count"] for cell in cells] == list(range(1, 9))
    authors = [cell["metadata"]["kernel_bridge"]["by"] for cell in cells]
    assert authors == [agent, agent, "alice", "alice", agent, agent, "alice", agent]
    _, printed, person, failed, plot, cleared, updated, shell = [cell["outputs"] for cell in cells]
    assert [(each["output_type"], each.get("text")) for each in printed] == [
        ("stream", ["agent 41\n"]),
        ("stream", ["to stderr\n"]),
        ("execute_result", None),
    ]
    assert person[0]["text"] == ["person 42\n"]
    assert failed[0]["ename"] == "ZeroDivisionError"
    assert "".join(plot[-1]["data"]["image/png"]).startswith("iVBORw0KGgo")
    assert cleared[0]["text"] == ["new\n"]
    assert cleared[1]["data"]["text/plain"] == ["'after'"]
    assert updated == []
    assert shell[0]["data"]["text/plain"] == ["['one two']"]


async def test_the_session_is_a_notebook_while_the_server_lives_and_after_everything_was_killed(
    connect: Any, command: Any, host_kernel: Any, tmp_path: Path, notebook_of: Any
) -> None:
    first, second, script = (tmp_path / name for name in ("first.ipynb", "second.ipynb", "session.py"))
    with contextlib.suppress(Exception):  # how an MCP client takes the death of its server is not ours
        async with connect() as agent:
            await session_of_two(agent, host_kernel)
            done = await asyncio.to_thread(command, "export", host_kernel.file.stem, str(first))
            os.kill(server(), signal.SIGKILL)
    assert (done.returncode, done.stdout) == (0, "")
    assert f"Wrote 8 cells of {host_kernel.file.stem} to {first} (" in done.stderr
    assert stat.S_IMODE(first.stat().st_mode) == 0o600
    notebook = notebook_of(first.read_text())
    name = code_cells(notebook)[0]["metadata"]["kernel_bridge"]["by"]
    check_session(code_cells(notebook), name)
    assert notebook["metadata"]["language_info"]["name"] == "python"
    host_kernel.kill()
    host_kernel.file.unlink(missing_ok=True)
    assert command("export", host_kernel.file.stem, str(second)).returncode == 0
    assert second.read_text() == first.read_text()
    assert command("export", str(host_kernel.file), str(script)).returncode == 0
    assert ast.parse(script.read_text())
    assert "# names = !echo one two" in script.read_text()
    assert f"# %% {name}, 20" in script.read_text()


async def test_the_code_of_an_exported_notebook_runs_again(
    command: Any, start_host_kernel: Any, tmp_path: Path, notebook_of: Any
) -> None:
    kernel, other = start_host_kernel("kernel-one"), start_host_kernel("kernel-two")
    assert command("run", str(kernel.file), "-c", "x = [1]\nfor n in range(3):\n    x.append(n)").returncode == 0
    assert command("run", str(kernel.file), "-c", "total = sum(x)\nprint('total', total)").stdout == "total 4\n"
    exported = command("export", "one", "-")
    assert exported.stderr == ""
    cells = code_cells(notebook_of(exported.stdout))
    assert [cell["metadata"]["tags"] for cell in cells] == [["by-alice"]] * 2
    code = "\n".join("".join(cell["source"]) for cell in cells)
    assert await elsewhere(other.file, code) == "total 4\n"
    script = command("export", "one", "-", "--format", "py").stdout
    done = await anyio.run_process([sys.executable, "-"], input=script.encode())
    assert done.stdout == b"total 4\n"


async def test_a_cell_that_several_bridges_saw_is_there_once_and_one_that_runs_is_told(
    connect: Any, command: Any, host_kernel: Any, notebook_of: Any
) -> None:
    async with connect() as agent:
        await connected(agent, host_kernel)
        await asyncio.to_thread(command, "run", str(host_kernel.file), "-c", "print('from the shell')")
        await agent.run("print('begun'); import time; time.sleep(60)", timeout=0.5)
        exported = await asyncio.to_thread(command, "export", host_kernel.file.stem, "-")
        mine = await asyncio.to_thread(command, "export", host_kernel.file.stem, "-", "--by", "alice")
        await agent.refused("interrupt_kernel")
    notebook = notebook_of(exported.stdout)
    shell, running = code_cells(notebook)
    assert shell["outputs"][0]["text"] == ["from the shell\n"]
    assert shell["metadata"]["kernel_bridge"]["by"] == "alice"
    assert shell["metadata"]["kernel_bridge"]["execution"] == 1
    assert running["metadata"]["kernel_bridge"]["status"] == "running"
    assert running["outputs"][0]["text"] == ["begun\n"]
    assert "had not ended" in notebook["cells"][-1]["source"][0]
    assert len(code_cells(notebook_of(mine.stdout))) == 1


def test_a_restarted_kernel_is_one_session_with_the_restart_in_it(
    command: Any, start_host_kernel: Any, notebook_of: Any
) -> None:
    kernel = start_host_kernel("kernel-one")
    assert command("run", str(kernel.file), "-c", "x = 1").returncode == 0
    kernel.kill()
    # as a Jupyter server restarts it: another process with the same connection file
    again = start_host_kernel("kernel-one")
    assert any(command("run", str(again.file), "-c", "y = 2").returncode == 0 for _ in range(20))
    sources = ["".join(each["source"]) for each in notebook_of(command("export", "one", "-").stdout)["cells"]]
    assert sources.index("x = 1") < sources.index("y = 2")
    assert "restarted here" in sources[sources.index("x = 1") + 1]


def test_what_cannot_be_exported_is_one_sentence_and_nothing_is_written(
    command: Any, host_kernel: Any, tmp_path: Path
) -> None:
    def refused(*arguments: str) -> str:
        done = command("export", *arguments)
        assert (done.returncode, done.stdout) == (2, ""), done.stderr
        assert done.stderr.count("\n") == 1
        return str(done.stderr)

    name, there = host_kernel.file.stem, tmp_path / "there.ipynb"
    assert "Nothing is kept of a kernel called" in refused(name, str(there))
    assert "let the agent connect" in refused(name, "-")
    assert command("run", str(host_kernel.file), "-c", "x = 1").returncode == 0
    there.write_text("mine")
    assert "--force replaces it" in refused(name, str(there))
    assert there.read_text() == "mine"
    assert "neither in .ipynb nor in .py" in refused(name, str(tmp_path / "session.txt"))
    assert "is a directory" in refused(name, str(tmp_path), "--format", "py")
    assert "no directory" in refused(name, str(tmp_path / "none" / "session.py"))
    assert "those of: alice" in refused(name, "-", "--by", "bob")
    (tmp_path / "state" / "kernel-bridge" / "journal" / "foreign").write_text("no journal")
    done = command("export", name, str(there), "--force")
    assert done.returncode == 0
    assert "foreign cannot be read" in done.stderr
    assert there.read_text().startswith("{")
    assert [each.name for each in tmp_path.iterdir() if "part" in each.name] == []
