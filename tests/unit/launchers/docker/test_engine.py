"""The way to the engine: what is wrong is told in one sentence, and nothing but ids and checked names goes there."""

from __future__ import annotations

import contextlib
import gc
import json
import socket
import socketserver
import subprocess
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest

from bridge.errors import EngineUnavailable, LaunchError
from bridge.launchers.docker import border
from bridge.launchers.docker.engine import Engine, together
from bridge.launchers.docker.host import Endpoint

pytestmark = pytest.mark.anyio

# A test fails after that long; nothing here takes a tenth of it.
SOON = 10.0


def at(path: Path) -> Engine:
    return Engine(lambda: Endpoint(path, "named by the test"))


async def test_an_engine_whose_socket_is_not_there_does_not_run(tmp_path: Path) -> None:
    with pytest.raises(EngineUnavailable, match=r"named by the test.*does not run: its socket is not there"):
        await at(tmp_path / "docker.sock").info()


async def test_an_engine_whose_socket_nobody_serves_does_not_run(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "docker.sock"))
    with pytest.raises(EngineUnavailable, match="does not run: nobody listens"):
        await at(tmp_path / "docker.sock").info()


@contextlib.contextmanager
def answering(directory: Path, answers: dict[str, bytes | Iterable[bytes]]) -> Iterator[Engine]:
    """Listen as an engine does; `answers` has the bytes for each end of a request's path, after which it hangs up."""

    class Connection(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            path = self.rfile.readline().decode().partition(" ")[2].partition(" ")[0]
            length = 0
            while line := self.rfile.readline().strip().lower():
                length = int(line[15:]) if line.startswith(b"content-length:") else length
            self.rfile.read(length)
            answer = next(answer for end, answer in answers.items() if path.partition("?")[0].endswith(end))
            with contextlib.suppress(ConnectionError):
                for piece in [answer] if isinstance(answer, bytes) else answer:
                    self.request.sendall(piece)

    with socketserver.ThreadingUnixStreamServer(str(directory / "docker.sock"), Connection) as server:
        serving = threading.Thread(target=server.serve_forever, args=(0.01,))
        serving.start()
        try:
            yield at(directory / "docker.sock")
        finally:
            server.shutdown()
            serving.join(SOON)


def json_answer(text: str) -> bytes:
    head = f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(text)}\r\n\r\n"
    return f"{head}{text}".encode()


NETWORK = dict.fromkeys(("Name", "Driver", "Options", "Labels", "Internal", "Attachable"))
VERSION: dict[str, bytes | Iterable[bytes]] = {"/version": json_answer('{"ApiVersion": "1.41"}')}


async def test_what_a_command_inside_prints_is_read_from_where_the_answers_head_ends(tmp_path: Path) -> None:
    """An engine may send both at once."""
    head = b"HTTP/1.1 101 UPGRADED\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\n"
    first, second = (b"\x01\0\0\0" + len(each).to_bytes(4, "big") + each for each in (b"==> a\n", b"==> end\n"))
    made = {f"/containers/{'a' * 64}/exec": json_answer('{"Id": "e"}')}
    with answering(tmp_path, VERSION | made | {"/exec/e/start": head + first + second}) as engine:
        assert await engine.execute("a" * 64, ["true"]) == "==> a\n==> end\n"
        engine.close()


@pytest.mark.parametrize("version", ["abc", "1", "1.41.", "9" * 5000 + ".1", " 1.41"])
async def test_a_version_that_is_none_is_told_as_no_engine(version: str, tmp_path: Path) -> None:
    with (
        answering(tmp_path, {"/version": json_answer(json.dumps({"ApiVersion": version}))}) as engine,
        pytest.raises(EngineUnavailable, match="tell its version and gave an answer that no container engine gives"),
    ):
        await engine.info()


FULL = "a" * 64


@pytest.mark.parametrize("piece", [b"\x01\0\0\0\0\0\0\1x", b"\x01\0\0\0\0\0\0\0"], ids=["little", "nothing"])
async def test_a_command_inside_that_always_tells_a_little_more_is_not_waited_for_without_end(
    piece: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    over = threading.Event()

    def told() -> Iterator[bytes]:
        yield b"HTTP/1.1 101 UPGRADED\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\n"
        while not over.wait(0.1):  # far less than a read may take
            yield piece

    made = {f"/containers/{FULL}/exec": json_answer('{"Id": "e"}')}
    with answering(tmp_path, VERSION | made | {"/exec/e/start": told()}) as engine:
        monkeypatch.setattr("bridge.launchers.docker.engine.REQUEST_TIMEOUT", 1.0)
        try:
            with anyio.fail_after(SOON), pytest.raises(LaunchError, match="could not be looked into within 1 s"):
                await engine.execute(FULL, ["true"])
        finally:
            over.set()
        engine.close()


@pytest.mark.parametrize(
    ("path", "said", "ask"),
    [
        ("/version", "{}", lambda engine: engine.info()),
        ("/images/kernel-bridge/python:3.13/json", "{}", lambda engine: engine.image("kernel-bridge/python:3.13")),
        ("/json", "[{}]", lambda engine: engine.containers("label")),
        ("/json", "[7]", lambda engine: engine.containers("label")),
        ("/images/json", "[null]", lambda engine: engine.images("label")),
        ("/volumes", '{"Volumes": [{}]}', lambda engine: engine.volumes("label")),
        ("/volumes", '{"Volumes": {"Name": "v"}}', lambda engine: engine.volumes("label")),
        ("/networks", "[[]]", lambda engine: engine.networks("label")),
        (f"/networks/{FULL}", "{}", lambda engine: engine.network(FULL)),
        (f"/containers/{FULL}/json", '{"Id": "a"}', lambda engine: engine.container(FULL)),
        (f"/containers/{FULL}/exec", "{}", lambda engine: engine.execute(FULL, ["true"])),
        ("/containers/create", '{"Id": null}', lambda engine: engine.create({}, "name")),
        ("/networks/create", "{}", lambda engine: engine.create_network(NETWORK)),
    ],
)
async def test_an_answer_of_the_right_kind_that_lacks_what_is_needed_is_told_as_no_engines(
    path: str, said: str, ask: Callable[[Engine], Awaitable[object]], tmp_path: Path
) -> None:
    with answering(tmp_path, {path: json_answer(said), "": VERSION["/version"]}) as engine:
        with pytest.raises(EngineUnavailable, match="gave an answer that no container engine gives"):
            await ask(engine)
        engine.close()


async def test_an_engine_that_ended_since_the_last_request_does_not_run_and_no_socket_is_lost(tmp_path: Path) -> None:
    with answering(tmp_path, VERSION | {"/info": json_answer("{}")}) as engine:
        assert await engine.info() == {}
    with pytest.raises(EngineUnavailable, match="does not run: nobody listens"):
        await engine.info()
    engine.close()
    gc.collect()  # a socket that was not closed fails the test


async def test_an_engine_that_breaks_off_is_told_as_that(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "docker.sock"))
        listener.listen()

        def hang_up() -> None:
            listener.accept()[0].close()

        thread = threading.Thread(target=hang_up)
        thread.start()
        with pytest.raises(EngineUnavailable, match="broke off when it was asked to"):
            await at(tmp_path / "docker.sock").info()
        thread.join(SOON)


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (
            404,
            "could not find an available, non-overlapping IPv4 address pool among the defaults to assign",
        ),
        (400, "all predefined address pools have been fully subnetted"),
    ],
    ids=["until 24", "since"],
)
def test_an_engine_without_addresses_for_a_network_is_told_by_its_words_whatever_its_status(
    status: int, words: str
) -> None:
    import docker.errors  # noqa: PLC0415
    import requests  # noqa: PLC0415

    response = requests.Response()
    response.status_code = status
    endpoint = Endpoint(Path("/run/docker.sock"), "named by the test")
    said = border.translated("create the network", docker.errors.APIError("x", response, words), endpoint)
    assert type(said) is border.NoAddresses
    assert words in str(said)
    other = border.translated("create the network", docker.errors.APIError("x", response, "no such driver"), endpoint)
    assert type(other) is not border.NoAddresses


def test_an_engine_that_this_user_may_not_use_says_what_to_do() -> None:
    import requests  # noqa: PLC0415

    endpoint = Endpoint(Path("/var/run/docker.sock"), "found at a well-known place")
    wrapped = requests.ConnectionError("Connection aborted.", PermissionError(13, "Permission denied"))
    said = border.translated("list the containers", wrapped, endpoint)
    assert isinstance(said, EngineUnavailable)
    assert "may not be used by this user" in str(said)
    slow = border.translated("start the container", requests.ReadTimeout(), endpoint)
    assert "did not start the container within 30 s" in str(slow)


@pytest.mark.parametrize(
    "name", ["", "lab", "../volumes/x", "a" * 63, "A" * 64, "a" * 64 + "\n", "a" * 64 + "/../x", "a" * 64 + "?force=1"]
)
async def test_no_container_is_named_but_by_its_full_id(name: str, tmp_path: Path) -> None:
    engine = at(tmp_path / "docker.sock")
    for call in (engine.container, engine.start, engine.remove, engine.attach):
        with pytest.raises(LaunchError, match="not a container's full id"):
            await call(name)


@pytest.mark.parametrize(
    "reference",
    [
        "python",
        "../containers/x:y",
        "k/../../containers/x:1",
        "docker.io/x/y:1\n",
        "a12bc557f32d",
        "docker.io/x/y:1/../z",
    ],
)
async def test_no_image_is_asked_for_but_by_a_full_reference(reference: str, tmp_path: Path) -> None:
    with pytest.raises(LaunchError, match="not a full image reference"):
        await at(tmp_path / "docker.sock").image(reference)


async def test_no_volume_is_removed_that_is_not_named_as_ours(tmp_path: Path) -> None:
    with pytest.raises(LaunchError, match="left alone"):
        await at(tmp_path / "docker.sock").remove_volume("../containers/x")


def test_docker_is_not_imported_before_the_first_request() -> None:
    code = (
        "import sys; from bridge.launchers.docker import DockerLauncher; DockerLauncher().close(); "
        "sys.exit(any(name in sys.modules for name in ('docker', 'requests', 'urllib3')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=60).returncode == 0


async def test_the_first_failure_of_several_calls_is_raised_as_itself() -> None:
    async def fail() -> None:
        raise LaunchError("no")

    async def wait() -> None:
        await anyio.sleep(SOON)

    began = time.monotonic()
    with pytest.raises(LaunchError, match="no"):
        await together(fail, wait)
    assert time.monotonic() - began < SOON / 2


async def test_results_of_several_calls_come_in_their_order() -> None:
    async def one() -> int:
        await anyio.sleep(0.01)
        return 1

    async def two() -> int:
        return 2

    assert await together(one, two) == [1, 2]


class SlowEngine(Engine):
    """Its requests are what the test says, without an engine."""

    def _connect(self) -> Any:
        return None


async def test_a_change_that_is_cancelled_is_waited_for_so_that_what_it_makes_can_be_found(tmp_path: Path) -> None:
    engine = SlowEngine(lambda: Endpoint(tmp_path, "named by the test"))
    begun, go, made = threading.Event(), threading.Event(), threading.Event()

    def create(_: Any) -> None:
        begun.set()
        go.wait(SOON)
        made.set()

    async with anyio.create_task_group() as group:
        group.start_soon(engine._change, "create", create)
        await anyio.to_thread.run_sync(begun.wait, SOON)
        group.cancel_scope.cancel()
        threading.Timer(0.05, go.set).start()
    assert made.is_set()


async def test_a_change_that_was_cancelled_before_it_began_never_begins(tmp_path: Path) -> None:
    engine = SlowEngine(lambda: Endpoint(tmp_path, "named by the test"))
    made = threading.Event()
    with anyio.CancelScope() as scope:
        scope.cancel()
        await engine._change("create", lambda _: made.set())
    # the thread that would do it is free again: it has taken its turn, if it ever will
    await anyio.to_thread.run_sync(lambda: None)
    assert not made.is_set()


async def test_a_look_that_is_cancelled_is_not_waited_for(tmp_path: Path) -> None:
    engine = SlowEngine(lambda: Endpoint(tmp_path, "named by the test"))
    begun, go = threading.Event(), threading.Event()

    def look(_: Any) -> None:
        begun.set()
        go.wait(SOON)

    began = time.monotonic()
    async with anyio.create_task_group() as group:
        group.start_soon(engine._look, "look", look)
        await anyio.to_thread.run_sync(begun.wait, SOON)
        group.cancel_scope.cancel()
    assert time.monotonic() - began < SOON / 2
    go.set()
