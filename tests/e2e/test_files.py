"""Files into real sandboxes and out of them: by an agent in both eras and over HTTP, and by a person at the shell."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from mcp.types import BlobResourceContents, CallToolResult, EmbeddedResource

from tests.e2e.serving import Mode, Served
from tests.e2e.terminals import left, terminal
from tests.e2e.test_sandbox import sandbox

pytestmark = pytest.mark.anyio

SOON = 60.0
HOME = "/home/kernel"
LARGE = 50 * 1000 * 1000
PNG = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)


def blobs(result: CallToolResult) -> list[bytes]:
    found = [each.resource for each in result.content if isinstance(each, EmbeddedResource)]
    return [base64.b64decode(each.blob) for each in found if isinstance(each, BlobResourceContents)]


async def round_trip(agent: Any, kernel: str) -> None:
    """Put and get text, a picture, bytes, nothing and odd names, all in one kernel."""
    put, get = partial(agent.call, "put_file", kernel=kernel), partial(agent.call, "get_file", kernel=kernel)
    text = "größer\r\n\tas it stands\n"
    assert await put(path="notes/a.txt", text=text) == f"Wrote {len(text.encode())} bytes to {HOME}/notes/a.txt."
    assert await get(path="notes/a.txt") == text
    assert await get(path=f"{HOME}/notes/a.txt") == text
    assert await agent.run("ascii(open('/home/kernel/notes/a.txt', newline='').read())", kernel=kernel) == repr(
        ascii(text)
    )
    refused = await agent.refused("put_file", path="notes/a.txt", text="other", kernel=kernel)
    assert refused == "notes/a.txt exists already and was left as it is; overwrite=true replaces it."
    assert await get(path="notes/a.txt") == text
    await put(path="notes/a.txt", text="other", overwrite=True)
    assert await get(path="notes/a.txt") == "other"
    await put(path="empty", text="")
    assert await get(path="empty") == "[empty is empty]"
    data = bytes(range(256)) * 100
    await put(path="x.bin", base64=base64.b64encode(data).decode())
    result = await agent.client.call_tool("get_file", {"path": "x.bin", "kernel": kernel})
    assert blobs(result) == [data]
    assert agent.text(result) == f"x.bin is no UTF-8 text; with this come its bytes 0 to {len(data)}."
    await put(path="red", text="\x1b[31mred")
    result = await agent.client.call_tool("get_file", {"path": "red", "kernel": kernel})
    assert blobs(result) == [b"\x1b[31mred"]
    assert agent.text(result).startswith("red holds control characters (U+001B first), so it is not shown as text;")
    await put(path="plot", base64=base64.b64encode(PNG).decode())
    [image] = agent.images(await agent.client.call_tool("get_file", {"path": "plot", "kernel": kernel}))
    assert (image.mime_type, base64.b64decode(image.data)) == ("image/png", PNG)
    for name in ("with space", "new\nline", "ümläut \U0001f600", "'\"$(x)"):
        await put(path=name, text=name)
        assert await get(path=name) == name
    lines = "".join(f"line {number}\n" for number in range(20_000))
    await put(path="long", text=lines)
    pages, offset = [], 0
    while True:
        page, _, told = (await get(path="long", offset=offset)).rpartition("\n")
        following = re.fullmatch(r"\d+ of \d+ bytes are left: get_file with offset=(\d+) reads on\.", told)
        pages.append(page if following else f"{page}\n{told}")
        if not following:
            break
        offset = int(following[1])
        assert lines[offset - 1] == "\n"
    assert "".join(pages) == lines
    assert len(pages) > 3


async def test_what_an_agent_puts_it_gets_back(connect: Any) -> None:
    async with connect() as agent, sandbox(agent, "files"):
        await round_trip(agent, "files")


@pytest.mark.parametrize("mode", ["auto", "legacy"], ids=["modern", "legacy"])
async def test_it_is_the_same_over_http(serve: Callable[..., Served], mode: Mode) -> None:
    async with serve().client(mode=mode) as agent, sandbox(agent, "http"):
        await round_trip(agent, "http")
        data = os.urandom(2 << 20)
        await agent.call("put_file", path="most", base64=base64.b64encode(data).decode(), kernel="http")
        hashed = "import hashlib; print(hashlib.sha256(open('most', 'rb').read()).hexdigest())"
        assert await agent.run(hashed, kernel="http") == hashlib.sha256(data).hexdigest()


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"path": "x"}, "Give either `text` or `base64`. Nothing was written."),
    ({"path": "x", "text": "", "base64": ""}, "Give either `text` or `base64`. Nothing was written."),
    ({"path": "x", "base64": "no!"}, "`base64` cannot be read: "),
    ({"path": "x", "text": "a" * ((2 << 20) + 1)}, "and 2097152 are the most in one call. Nothing was written."),
    ({"path": "a/", "text": ""}, "'a/' names no file."),
    ({"path": "x\0y", "text": ""}, "'x\\x00y' names no file."),
    ({"path": "a" * 256, "text": ""}, "cannot be written: File name too long."),
    ({"path": "/etc/passwd", "text": ""}, "below /home/kernel only"),
    ({"path": "../x", "text": ""}, "below /home/kernel only"),
    ({"path": "/tmp/x", "text": ""}, "below /home/kernel only"),
    ({"path": "~root/x", "text": ""}, "below /home/kernel only"),
    ({"path": "passwd/x", "text": ""}, "Not a directory"),
    ({"path": "etc/x", "text": ""}, "below /home/kernel only"),
    ({"path": "fifo", "text": "", "overwrite": True}, "fifo is a FIFO, which is not replaced."),
    ({"path": "passwd", "text": "", "overwrite": True}, "passwd is a link, which is not replaced."),
    ({"path": "d", "text": "", "overwrite": True}, "d is a directory, which is not replaced."),
]
UNREADABLE = [
    ("passwd", "It leads to /etc/passwd. Files are read and written below /home/kernel only."),
    ("mem", "below /home/kernel only"),
    ("zero", "It leads to /dev/zero."),
    ("fd", "below /home/kernel only"),
    ("/dev/zero", "below /home/kernel only"),
    ("../../etc/passwd", "It leads to /etc/passwd."),
    ("etc/passwd", "It leads to /etc/passwd."),
    ("fifo", "fifo is a FIFO, and only regular files are read."),
    ("socket", "socket is a socket, and only regular files are read."),
    ("d", "d is a directory, and only regular files are read."),
    ("pass", "There is no pass in /home/kernel. Near it: passwd."),
    ("closed", "closed cannot be read: Permission denied."),
]
TRAPS = """
import os, socket
os.mkdir('d'); os.mkfifo('fifo')
targets = {'passwd': '/etc/passwd', 'mem': '/proc/1/mem', 'zero': '/dev/zero', 'etc': '/etc', 'fd': '/proc/self/fd/0'}
for name in targets:
    os.symlink(targets[name], name)
s = socket.socket(socket.AF_UNIX); s.bind('socket')
open('closed', 'w').close(); os.chmod('closed', 0)
"""


async def test_nothing_but_regular_files_below_the_home_directory_is_touched(connect: Any) -> None:
    async with connect() as agent, sandbox(agent, "traps"):
        await agent.run(TRAPS)
        before = await agent.run("print(sorted(os.listdir()), sorted(os.listdir('/tmp')))")
        async with asyncio.timeout(SOON):
            for arguments, sentence in WRONG:
                assert sentence in await agent.refused("put_file", **arguments), arguments
            for path, sentence in UNREADABLE:
                assert sentence in await agent.refused("get_file", path=path), path
        assert await agent.run("print(sorted(os.listdir()), sorted(os.listdir('/tmp')))") == before


LITTLE = """\
version: 1
sandbox:
  limits: {{memory: 512MiB, home: 64MiB, tmp: 32MiB, shm: 32MiB}}
  mounts: [{{source: '{place}', mode: rw}}]
"""


@pytest.fixture
def little(tmp_path: Path) -> Path:
    policy = tmp_path / "policy.yaml"
    (tmp_path / "project").mkdir()
    os.chown(tmp_path / "project", 1000, 1000)
    policy.write_text(LITTLE.format(place=tmp_path / "project"))
    policy.chmod(0o600)
    return policy


async def test_where_there_is_no_room_nothing_is_left_and_the_old_file_stays(connect: Any, little: Path) -> None:
    async with connect(little) as agent, sandbox(agent, "full"):
        await agent.call("put_file", path="x", text="old")
        await agent.run(
            "import os\nwith open('ballast', 'wb') as f:\n    f.write(bytes((63 << 20)))\nbefore = os.listdir()"
        )
        refused = await agent.refused("put_file", path="x", text="a" * (2 << 20), overwrite=True)
        assert refused == "x cannot be written: No space left on device. Nothing was written."
        assert await agent.call("get_file", path="x") == "old"
        assert await agent.run("sorted(os.listdir()) == sorted(before)") == "True"


async def test_the_workspace_is_where_files_are_and_beside_one_that_is_read_only_the_home_directory(
    connect: Any, command: Callable[..., Any], little: Path
) -> None:
    project = little.parent / "project"
    (project / "data.csv").write_text("a,b\n")
    async with connect(little) as agent:
        async with sandbox(agent, "ro", workspace=str(project)):
            assert await agent.call("get_file", path="data.csv") == "a,b\n"
            refused = await agent.refused("put_file", path="new", text="")
            assert f"new cannot be written: Read-only file system. The workspace is read-only; write to {HOME}/new" in (
                refused
            )
            assert await agent.call("put_file", path="~/new", text="1") == f"Wrote 1 bytes to {HOME}/new."
            assert await agent.call("get_file", path=f"{HOME}/new") == "1"
            for path in ("/tmp/x", "../x"):
                assert f"below {project} or {HOME} only" in await agent.refused("put_file", path=path, text="")
            done = await asyncio.to_thread(command, "put", "ro", str(project / "data.csv"), "~/")
            assert done.returncode == 0, done
            assert await agent.run("open('/home/kernel/data.csv').read()") == "'a,b\\n'"
        async with sandbox(agent, "rw", workspace=str(project), workspace_mode="rw"):
            await agent.run("import os; os.chdir('/')")
            assert await agent.call("put_file", path="sub/new", text="1") == f"Wrote 1 bytes to {project}/sub/new."
            assert await agent.call("get_file", path=f"{project}/data.csv") == "a,b\n"
    assert (project / "sub/new").read_text() == "1"
    assert sorted(each.name for each in project.iterdir()) == ["data.csv", "sub"]


async def test_files_come_and_go_while_a_cell_runs_and_the_next_result_tells_of_a_new_kernel(connect: Any) -> None:
    async with connect() as agent, sandbox(agent, "busy"):
        assert "Still running" in await agent.run("import time; time.sleep(600)", timeout=1)
        await agent.call("put_file", path="x", text="meanwhile")
        assert await agent.call("get_file", path="x") == "meanwhile"
        await agent.client.call_tool("interrupt_kernel", {})
        await agent.client.call_tool("execute_code", {"code": "import os, signal; os.kill(os.getpid(), 9)"})
        told = await agent.call("get_file", path="x")
        assert told.endswith("\nmeanwhile")
        assert "all earlier variables are gone" in told


async def test_a_kernel_that_has_ended_is_told(connect: Any) -> None:
    async with connect() as agent:
        async with sandbox(agent, "gone"):
            await agent.call("put_file", path="x", text="1")
        assert "No kernel is connected" in await agent.refused("get_file", path="x")


async def test_a_host_kernel_is_no_place_for_files(connect: Any, host_kernel: Any) -> None:
    async with connect() as agent:
        async with asyncio.timeout(SOON):
            while (
                await agent.client.call_tool("connect_to_kernel", {"connection_file": str(host_kernel.file)})
            ).is_error:
                await asyncio.sleep(0.05)
        assert "a kernel on the host" in await agent.refused("put_file", path="x", text="")
        assert "a kernel on the host" in await agent.refused("get_file", path="x")


# -- at the shell

Command = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("large") / "large"
    file.write_bytes(os.urandom(LARGE))
    return file


def piped(*arguments: str, content: bytes | None = None) -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "-m", "bridge", *arguments]
    return subprocess.run(command, input=content, capture_output=True, timeout=SOON, check=False)


def test_fifty_megabytes_go_in_and_out_whole(
    command: Command, shell_sandbox: str, large: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    digest = hashlib.sha256(large.read_bytes()).hexdigest()
    put = command("put", shell_sandbox, str(large), "in/")
    assert (put.returncode, put.stdout) == (0, "")
    assert put.stderr == f"Wrote 47.7 MiB to {HOME}/in/large in shell (sha256 {digest}).\n"
    get = command("get", shell_sandbox, "in/large")
    assert (get.returncode, get.stdout) == (0, "")
    assert get.stderr == f"Wrote 47.7 MiB to large (sha256 {digest}).\n"
    assert (tmp_path / "large").read_bytes() == large.read_bytes()
    assert (tmp_path / "large").stat().st_mode & 0o777 == 0o666 & ~umask()


def umask() -> int:
    return int(re.search(r"Umask:\s*(\d+)", Path("/proc/self/status").read_text())[1], 8)  # type: ignore[index]


def test_standard_input_and_output_stand_for_files(command: Command, shell_sandbox: str) -> None:
    data = os.urandom(3_000_000)
    put = piped("put", shell_sandbox, "-", "x", content=data)
    assert put.returncode == 0, put.stderr
    get = piped("get", shell_sandbox, "x", "-")
    assert (get.returncode, get.stdout, get.stderr) == (0, data, b"")
    assert piped("put", shell_sandbox, "-", "none", content=b"").returncode == 0
    assert piped("get", shell_sandbox, "none", "-").stdout == b""
    nameless = piped("put", shell_sandbox, "-", content=b"")
    assert (nameless.returncode, nameless.stderr) == (
        2,
        b"kernel-bridge: Standard input has no name, so give DEST, a file. Nothing was written.\n",
    )


def test_a_name_that_is_no_text_goes_both_ways(command: Command, shell_sandbox: str, tmp_path: Path) -> None:
    file = tmp_path / os.fsdecode(b"\xff\n\xfe")
    file.write_text("odd")
    assert command("put", shell_sandbox, str(file)).returncode == 0
    assert command("run", shell_sandbox, "-c", r"print(open(b'\xff\n\xfe').read())").stdout == "odd\n"
    file.unlink()
    told = command("get", shell_sandbox, file.name, str(tmp_path))
    assert told.returncode == 0, told.stderr
    assert file.read_text() == "odd"


def test_nothing_is_replaced_on_either_side_unless_asked(command: Command, shell_sandbox: str, tmp_path: Path) -> None:
    file = tmp_path / "x"
    file.write_text("mine")
    assert command("put", shell_sandbox, str(file)).returncode == 0
    again = command("put", shell_sandbox, str(file))
    assert (again.returncode, again.stderr) == (
        2,
        "kernel-bridge: x exists already and was left as it is; --force replaces it.\n",
    )
    file.write_text("new")
    assert command("get", shell_sandbox, "x", str(file)).returncode == 2
    assert file.read_text() == "new"
    assert command("put", shell_sandbox, str(file), "--force").returncode == 0
    file.write_text("newer")
    assert command("get", shell_sandbox, "x", str(file), "--force").returncode == 0
    assert file.read_text() == "new"
    link = tmp_path / "link"
    link.symlink_to("/dev/null")
    assert "no regular file" in command("get", shell_sandbox, "x", str(link), "--force").stderr
    assert command("get", shell_sandbox, "x", str(tmp_path), "--force").returncode == 0
    assert sorted(each.name for each in tmp_path.iterdir()) == ["link", "runtime", "x"]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["get", "shell", "none"], "There is no none in /home/kernel."),
        (["get", "shell", "/etc/passwd", "-"], "below /home/kernel only"),
        (["get", "shell", ".."], "names no file"),
        (["get", "shell", "x", "no/such/dir/x"], "There is no directory no/such/dir"),
        (["put", "shell", "no-such-file"], "no-such-file cannot be read (No such file or directory)"),
        (["put", "shell", "."], ". is a directory, and only files are copied"),
        (["put", "shell", "/dev/null", "/tmp/x"], "below /home/kernel only"),
        (["put", "nobody", "/dev/null", "x"], "nobody"),
    ],
)
def test_what_cannot_be_is_one_sentence_and_exit_code_two(
    command: Command,
    shell_sandbox: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    sentence: str,
) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    done = command(*arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert sentence in done.stderr
    assert "Traceback" not in done.stderr
    assert list((tmp_path / "here").iterdir()) == []


def test_on_a_terminal_it_is_seen_how_far_it_is_and_ctrl_c_leaves_nothing_half(
    command: Command, shell_sandbox: str, large: Path, tmp_path: Path
) -> None:
    with terminal("bridge", "put", shell_sandbox, str(large), "x", kind="xterm") as child:
        child.expect(r"[\d.]+ MiB of 47\.7 MiB")
        child.sendintr()
        assert left(child) == 130
    assert command("run", shell_sandbox, "-c", "!ls -A | grep -c -e ^x -e part").stdout == "0\n"
    assert command("put", shell_sandbox, str(large), "x").returncode == 0
    with terminal("bridge", "get", shell_sandbox, "x", str(tmp_path / "x"), kind="xterm") as child:
        child.expect(r"[\d.]+ MiB of 47\.7 MiB")
        child.sendintr()
        assert left(child) == 130
    assert sorted(each.name for each in tmp_path.iterdir()) == ["runtime"]


def test_ctrl_c_ends_what_waits_for_a_pipe(command: Command, shell_sandbox: str, large: Path) -> None:
    waiting = subprocess.Popen(
        [sys.executable, "-m", "bridge", "put", shell_sandbox, "-", "x"], stdin=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert waiting.stdin
    with contextlib.suppress(BrokenPipeError):
        waiting.stdin.write(bytes(3 << 20))  # more than a pipe holds, so some of it was read
        waiting.stdin.flush()
    waiting.send_signal(signal.SIGINT)
    assert waiting.wait(SOON) == 130
    waiting.communicate()
    assert command("run", shell_sandbox, "-c", "!ls -A | grep -c -e ^x -e part").stdout == "0\n"
    assert command("put", shell_sandbox, str(large), "x").returncode == 0
    with subprocess.Popen(
        [sys.executable, "-m", "bridge", "get", shell_sandbox, "x", "-"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as unread:
        assert unread.stdout
        assert len(unread.stdout.read(1)) == 1
        unread.send_signal(signal.SIGINT)
        assert unread.wait(SOON) == 130


def test_a_full_disk_here_leaves_nothing_half(
    command: Command, shell_sandbox: str, large: Path, tmp_path: Path
) -> None:
    assert command("put", shell_sandbox, str(large), "x").returncode == 0
    small = tmp_path / "small"
    small.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", small], check=True)
    try:
        done = command("get", shell_sandbox, "x", f"{small}/x")
        assert (done.returncode, list(small.iterdir())) == (2, [])
        told = f"{small}/x would have 47.7 MiB, and where it is to be, 8 MiB are free. Nothing was written."
        assert done.stderr == f"kernel-bridge: {told}\n"
    finally:
        subprocess.run(["umount", small], check=True)


async def test_what_code_plants_in_a_workspace_leads_the_commands_nowhere(
    connect: Any, command: Command, little: Path
) -> None:
    project, own = little.parent / "project", little.parent / "own"
    own.mkdir()
    (own / "secret").write_text("mine")
    plant = f"import os; os.symlink('{own}', 'out'); os.symlink('{own}/profile', 'x.csv'); open('x', 'w').write('1')"
    async with connect(little) as agent, sandbox(agent, "plants", workspace=str(project), workspace_mode="rw"):
        await agent.run(plant)

        async def refused(*arguments: str) -> str:
            done = await asyncio.to_thread(command, *arguments)
            assert done.returncode == 2, done
            return done.stderr

        assert f"x.csv is a link to {own}/profile" in await refused("get", "plants", "x", f"{project}/x.csv")
        for way in ("out", "out/new"):
            told = await refused("get", "plants", "x", f"{project}/{way}")
            assert f"out is a link to {own}. It is in a sandbox's workspace" in told
        told = await refused("put", "plants", f"{project}/out/secret", "taken")
        assert f"out is a link to {own}. It is in a sandbox's workspace" in told
        assert await agent.run("os.path.exists('taken')") == "False"
        done = await asyncio.to_thread(command, "get", "plants", "x", f"{project}/copy")
        assert done.returncode == 0, done
    assert sorted(each.name for each in own.iterdir()) == ["secret"]
