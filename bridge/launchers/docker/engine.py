"""The Engine API, request by request: the only user of docker.

The one rule: nothing that a user or an agent said reaches a request's path. docker-py does not escape it
(`../volumes/x` is obeyed), so containers are named by the full ids that the engine gave, and images and volumes by text
that has matched a pattern.

docker-py is synchronous: each request runs in a thread of a limiter of its own. It is imported with the first request,
because a server's start must not wait a tenth of a second for it.
"""

from __future__ import annotations

import contextlib
import functools
import re
import socket
import threading
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, TypeVar

import anyio
import anyio.to_thread

from bridge.errors import EngineUnavailable, LaunchError
from bridge.launchers.docker import border
from bridge.launchers.docker.border import REQUEST_TIMEOUT, Conflict, Missing, Refused
from bridge.launchers.docker.document import Document
from bridge.launchers.docker.host import Endpoint

if TYPE_CHECKING:
    import docker

T = TypeVar("T")
K = TypeVar("K", dict[str, Any], list[dict[str, Any]])

CONCURRENT_REQUESTS = 8
LARGEST_ANSWER = 1 << 20
"""Bytes of a command that is run inside; the longest honest one, /proc/mounts and the like, has a few thousand."""
_OLDEST_API = "1.41"
"""Of engine 20.10."""
_ID = re.compile(r"[0-9a-f]{64}")
_VERSION = re.compile(r"[0-9]{1,4}\.[0-9]{1,4}")
_IMAGE = re.compile(
    r"(?=.{1,400}\Z)(sha256:[0-9a-f]{64}|[a-z0-9][a-z0-9.-]*(:[0-9]+)?(/[a-z0-9]+([._-]+[a-z0-9]+)*)+"
    r"(:[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}|@sha256:[0-9a-f]{64}))"
)
_VOLUME = re.compile(r"kernel-bridge\.[a-z0-9-]+\.[0-9a-f]+\.[0-9a-f]+(?:\.egress)?")


async def together(*calls: Callable[[], Awaitable[Any]]) -> list[Any]:
    """Run calls at the same time and return their results; the first failure ends the others and is raised itself."""
    results: list[Any] = [None] * len(calls)

    async def run(index: int, call: Callable[[], Awaitable[Any]]) -> None:
        results[index] = await call()

    try:
        async with anyio.create_task_group() as group:
            for index, call in enumerate(calls):
                group.start_soon(run, index, call)
    except BaseExceptionGroup as failures:
        first: BaseException = failures
        while isinstance(first, BaseExceptionGroup):
            first = first.exceptions[0]
        raise first from first.__cause__
    return results


class Stdin:
    """A container's attached standard input, to be given one line."""

    def __init__(self, connection: socket.socket, response: Any) -> None:
        self._connection = connection
        self._response = response  # it owns the connection: collected, it would close it

    def send_and_close(self, line: bytes) -> None:
        """Send the line and the end of the input; the engine passes both on, also when we are gone by then.

        There is no waiting for its own end of the connection: engine 20.10 does not always close it.
        """
        self._connection.settimeout(REQUEST_TIMEOUT)
        self._connection.sendall(line)
        self._connection.shutdown(socket.SHUT_WR)
        self.close()

    def close(self) -> None:
        """End the input; a supervisor that has got no line then ends."""
        self._connection.close()
        self._response.close()


class Engine:
    """One local engine. Every method may raise a `LaunchError`; its text says what was being done (`border.py`)."""

    def __init__(self, endpoint: Callable[[], Endpoint]) -> None:
        self.endpoint = endpoint
        """Looks for the engine; raises `EngineUnavailable`."""
        self._limiter = anyio.CapacityLimiter(CONCURRENT_REQUESTS)
        self._making = threading.Lock()
        self._client: docker.APIClient | None = None

    def close(self) -> None:
        """Close the connections to the engine; the next request opens new ones."""
        if not self._making.acquire(blocking=False):
            return  # a request that nobody waits for any more still waits for an engine that hangs
        try:
            if self._client is not None:
                self._client.close()
                self._client = None
        finally:
            self._making.release()

    # -- looking: a cancelled one is left to its thread

    async def info(self) -> dict[str, Any]:
        """Return what the engine says of itself and its machine (GET /info)."""
        return await self._told(dict, "tell about itself", lambda client: client.info())

    async def version(self) -> dict[str, Any]:
        """Return the engine's version and that of its API (GET /version)."""
        return await self._told(dict, "tell its version", lambda client: client.version(), "ApiVersion")

    async def image(self, reference: str) -> dict[str, Any]:
        """Return an image's inspect; raises `Missing`."""
        if not _IMAGE.fullmatch(reference):
            raise LaunchError(f"{reference[:100]!r} is not a full image reference, so the engine was not asked for it.")

        def inspect(client: docker.APIClient) -> dict[str, Any]:
            return client.inspect_image(reference)  # type: ignore[no-untyped-call,no-any-return]

        return await self._told(dict, "look for the image", inspect, "Id")

    async def images(self, label: str) -> list[dict[str, Any]]:
        """Return the images that carry a label (`name=value`)."""
        filters = {"label": label}
        return await self._told(list, "list the images", lambda client: client.images(filters=filters), "Id")

    async def containers(self, *labels: str) -> list[dict[str, Any]]:
        """Return the containers, running or not, that carry all the labels (`name` or `name=value`)."""
        filters = {"label": list(labels)}
        return await self._told(
            list, "list the containers", lambda client: client.containers(all=True, filters=filters), "Id"
        )

    async def volumes(self, *labels: str) -> list[dict[str, Any]]:
        """Return the volumes that carry all the labels."""
        filters = {"label": list(labels)}
        doing = "list the volumes"
        found = await self._told(dict, doing, lambda client: client.volumes(filters=filters))
        return self._checked(list, doing, found.get("Volumes") or [], "Name")

    async def networks(self, *labels: str) -> list[dict[str, Any]]:
        """Return the networks that carry all the labels; without any, all that there are."""
        filters = {"label": list(labels)}
        return await self._told(list, "list the networks", lambda client: client.networks(filters=filters), "Id")

    async def network(self, network: str) -> dict[str, Any]:
        """Return a network's inspect; raises `Missing`."""
        full = _id(network)
        return await self._told(dict, "look at the network", lambda client: client.inspect_network(full), "Id")

    async def container(self, container: str) -> dict[str, Any]:
        """Return a container's inspect; raises `Missing`."""
        full = _id(container)
        needed = ("Id", "Image", "State", "Config")
        return await self._told(dict, "look at the container", lambda client: client.inspect_container(full), *needed)

    async def wait(self, container: str, seconds: int) -> None:
        """Return when a container does not run, or after so long (POST /containers/{id}/wait); raises `Missing`."""
        full = _id(container)
        with contextlib.suppress(EngineUnavailable):
            await self._look("wait for the container's end", lambda client: client.wait(full, timeout=seconds))

    async def execute(self, container: str, command: list[str]) -> str:
        """Run a command inside, as the container's own user, and return its standard output; bounded in time."""
        full = _id(container)

        def run(client: docker.APIClient) -> str:
            made = client.exec_create(full, command, stderr=False)
            made = self._checked(dict, "look into the container", made, "Id")
            stream = client.exec_start(made["Id"], socket=True)
            try:
                told = output(stream, LARGEST_ANSWER, REQUEST_TIMEOUT)
            except TimeoutError:  # code inside can stop what we run there
                raise LaunchError(f"The container could not be looked into within {REQUEST_TIMEOUT:g} s.") from None
            finally:
                vars(stream)["_response"].close()  # docker-py leaves that to its caller, and keeps it there
            if len(told) > LARGEST_ANSWER:
                raise LaunchError("The container told far more than it was asked for, so it was not read.")
            return _text(told)

        from bridge.launchers.docker.client import output  # noqa: PLC0415 - see the module's docstring

        return await self._look("look into the container", run)

    async def logs(
        self, container: str, *, stdout: bool, since: datetime | None = None, tail: int | None = None
    ) -> str:
        """Return the supervisor's own lines (stdout) or what the kernel's process wrote (stderr)."""
        full = _id(container)

        def read(client: docker.APIClient) -> str:
            after = since.astimezone(UTC).timestamp() if since else None
            return _text(
                client.logs(full, stdout=stdout, stderr=not stdout, since=after, tail="all" if tail is None else tail)
            )

        return await self._look("read the container's log", read)

    async def timed_logs(self, container: str, *, stdout: bool) -> list[tuple[str, str]]:
        """Return one of a container's two streams as lines, each with the time at which the engine got it."""
        full = _id(container)

        def read(client: docker.APIClient) -> str:
            return _text(client.logs(full, stdout=stdout, stderr=not stdout, timestamps=True))

        return [_timed(line) for line in (await self._look("read the container's log", read)).splitlines()]

    async def follow(self, container: str, *, stdout: bool, after: str, show: Callable[[str, str], None]) -> None:
        """Call `show` with time and text of every line from a time on, in a thread, until the container ends."""
        full = _id(container)
        since = datetime.fromisoformat(after).timestamp() if after else None

        def begin(client: docker.APIClient) -> Any:
            return client.logs(full, stdout=stdout, stderr=not stdout, timestamps=True, stream=True, since=since)

        def read() -> None:
            for piece in stream:
                for line in _text(piece).splitlines():
                    time, text = _timed(line)
                    if time > after:
                        show(time, text)

        stream = await self._look("follow the container's log", begin)
        try:
            await anyio.to_thread.run_sync(read, abandon_on_cancel=True)
        finally:
            stream.close()  # which also ends the thread

    # -- changing: a cancelled one is waited for, so that what it makes can be found and removed

    async def create(self, document: Document, name: str) -> str:
        """Create a container and return its id; raises `Conflict` where the name is in use."""

        def create(client: docker.APIClient) -> dict[str, Any]:
            return client.create_container_from_config(document, name)  # type: ignore[no-untyped-call,no-any-return]

        made = self._checked(dict, "create the container", await self._change("create the container", create), "Id")
        if made.get("Warnings"):
            # "... limit discarded": it would run without something that was asked for
            raise Refused(
                f"The engine cannot do what was asked for: {' '.join(made['Warnings'])} Nothing was started. Change "
                "the machine or the engine so that it can (for swap limits: the boot parameter swapaccount=1).",
                " ".join(made["Warnings"]),
            )
        return str(made["Id"])

    async def attach(self, container: str) -> Stdin:
        """Attach the standard input of a container that was not started yet."""
        full = _id(container)

        def attach(client: docker.APIClient) -> Stdin:
            raw = client.attach_socket(full, params={"stdin": 1, "stream": 1})
            # docker-py keeps the response, which owns the connection, on the raw stream that it returns
            response = vars(raw).get("_response", raw)
            return Stdin(socket.fromfd(raw.fileno(), socket.AF_UNIX, socket.SOCK_STREAM), response)

        return await self._change("attach to the container", attach)

    async def send(self, stdin: Stdin, line: bytes) -> None:
        """Send the one line."""
        await self._change("hand the connection over", lambda _: stdin.send_and_close(line))

    async def start(self, container: str) -> None:
        """Start a container."""
        full = _id(container)
        await self._change("start the container", lambda client: client.start(full))

    async def kill(self, container: str, signal: str) -> None:
        """Send a signal to a container's first process; raises `Conflict` where it does not run."""
        full = _id(container)
        await self._change(f"send {signal} to the container", lambda client: client.kill(full, signal))

    async def remove(self, container: str) -> None:
        """Kill and remove a container; one that is gone, or going, is fine."""
        full = _id(container)

        def remove(client: docker.APIClient) -> None:
            client.remove_container(full, force=True, v=True)

        try:
            await self._change("remove the container", remove)
        except (Missing, Conflict):  # 409: somebody else is removing it
            return

    async def remove_volume(self, name: str) -> bool:
        """Remove a volume; False where a container still uses it."""
        if not _VOLUME.fullmatch(name):
            raise LaunchError(f"The volume {name[:100]!r} is not named as ours are, so it was left alone.")
        try:
            await self._change("remove the volume", lambda client: client.remove_volume(name))
        except Missing:
            return True
        except Conflict:
            return False
        except Refused as error:
            # a moment after its containers; and after a restart with live-restore, until the next one
            if "active mounts" not in error.detail:
                raise
            return False
        return True

    async def create_network(self, document: Document) -> str:
        """Create a network and return its id; raises `NoAddresses` where the engine has none left for it."""

        def create(client: docker.APIClient) -> dict[str, Any]:
            return client.create_network(
                document["Name"],
                driver=document["Driver"],
                options=document["Options"],
                labels=document["Labels"],
                internal=document["Internal"],
                attachable=document["Attachable"],
                check_duplicate=True,  # older engines take a second one of a name
            )

        made = self._checked(dict, "create the network", await self._change("create the network", create), "Id")
        return str(made["Id"])

    async def remove_network(self, network: str) -> bool:
        """Remove a network; False where a container is still in it."""
        full = _id(network)
        try:
            await self._change("remove the network", lambda client: client.remove_network(full))
        except Missing:
            return True
        except Refused as error:
            if "active endpoints" not in error.detail:  # of the status 403 only the words tell why
                raise
            return False
        return True

    # -- the way there

    def _checked(self, kind: type[K], doing: str, answer: Any, *needed: str) -> K:
        """Return the answer, if it is of that kind and has what is needed, or each object in it has."""
        objects = answer if isinstance(answer, list) else [answer]
        whole = all(isinstance(each, dict) and all(map(each.get, needed)) for each in objects)
        if not (isinstance(answer, kind) and whole):
            raise self._no_engine(doing)
        return answer

    def _no_engine(self, doing: str) -> EngineUnavailable:
        return EngineUnavailable(
            f"What listens at {self.endpoint().socket} was asked to {doing} and gave an answer that no container "
            "engine gives. See what it is: docker version."
        )

    async def _told(self, kind: type[K], doing: str, request: Callable[[docker.APIClient], Any], *needed: str) -> K:
        return self._checked(kind, doing, await self._look(doing, request), *needed)

    async def _look(self, doing: str, request: Callable[[docker.APIClient], T]) -> T:
        call = functools.partial(self._request, doing, request)
        return await anyio.to_thread.run_sync(call, abandon_on_cancel=True, limiter=self._limiter)

    async def _change(self, doing: str, request: Callable[[docker.APIClient], T]) -> T:
        call = _Call(functools.partial(self._request, doing, request))
        try:
            return await anyio.to_thread.run_sync(call, abandon_on_cancel=True, limiter=self._limiter)
        except anyio.get_cancelled_exc_class():
            with anyio.CancelScope(shield=True):
                await anyio.to_thread.run_sync(call.settle, abandon_on_cancel=True)
            raise

    def _request(self, doing: str, request: Callable[[docker.APIClient], T]) -> T:
        try:
            return request(self._connect())
        except border.foreign() as error:
            raise border.translated(doing, error, self.endpoint()) from error

    def _connect(self) -> docker.APIClient:
        with self._making:
            if self._client is None:
                from bridge.launchers.docker import client  # noqa: PLC0415 - see the module's docstring

                made = functools.partial(client.make, self.endpoint().url, patience=REQUEST_TIMEOUT)
                with contextlib.closing(made(_OLDEST_API)) as asking:
                    told = self._checked(dict, "tell its version", asking.version(api_version=False), "ApiVersion")
                if not _VERSION.fullmatch(version := str(told["ApiVersion"])):
                    raise self._no_engine("tell its version")
                self._client = made(version)
            return self._client


class _Call:
    """A request in a thread. One that was begun is waited for after a cancellation; any other never begins."""

    def __init__(self, work: Callable[[], Any]) -> None:
        self._work = work
        self._deciding = threading.Lock()
        self._begun = False
        self._abandoned = False
        self._result: Any = None
        self._ended = threading.Event()

    def __call__(self) -> Any:
        with self._deciding:
            if self._abandoned:
                return None
            self._begun = True
        try:
            self._result = self._work()
            return self._result
        finally:
            self._ended.set()

    def settle(self) -> None:
        """Wait, bounded, until nothing can come of the request any more."""
        with self._deciding:
            self._abandoned = True
            begun = self._begun
        if begun:
            self._ended.wait(REQUEST_TIMEOUT)
        if isinstance(self._result, Stdin):
            self._result.close()


def _id(container: str) -> str:
    if not _ID.fullmatch(container):
        raise LaunchError(f"{container[:100]!r} is not a container's full id, so the engine was not asked about it.")
    return container


def _timed(line: str) -> tuple[str, str]:
    """Take the engine's time stamp, always in UTC and of one width, from a line of its log."""
    time, _, text = line.partition(" ")
    return time, text


def _text(raw: bytes) -> str:
    return raw.decode("utf-8", "replace")
