"""The docker command line: which one can build, what it answers, and how what it runs is followed to its end.

The one rule: what was started here also ends here. Everything runs in a process group of its own with a bound on its
time, and however the waiting ends (its time is up, Ctrl-C, an error) nothing of that group is left.

It builds, and not docker-py: the latter does not know BuildKit, and without it there are no secrets.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import anyio
from anyio.abc import ByteReceiveStream, Process

from bridge.errors import EngineUnavailable, LaunchError
from bridge.launchers.docker.host import Endpoint

ASK_SECONDS = 30.0  # a question to the command line or the engine
ANSWER_SECONDS = 60.0  # until a registry has answered at all; some networks drop what they do not let through
PULL_SECONDS = 900.0
BUILD_SECONDS = 1800.0
END_SECONDS = 20.0  # ../images/base/debootstrap.sh removes half a gigabyte when it is told to end

LAST_LINES = 40
"""How much of what a command said is kept; pip tells of a conflict in a dozen lines."""

Say = Callable[[str], None]

_STEP_TIME = re.compile(r"^#\d+ (?:\d+\.\d+ ?)?")
"""What BuildKit writes in front of a step's own lines: `#7 12.34 `."""


_AFTER_THE_REASON = ("To fix this", "ERROR: ResolutionImpossible", "ERROR: executor failed", "ERROR: process ", "---")
"""Advice for people who could change the constraints, and the builder's own words for a step that failed."""


@dataclass(frozen=True)
class Answer:
    """What a finished command said: all of it, or the last lines."""

    ok: bool
    text: str

    @property
    def reason(self) -> str:
        """Return the last lines, for an error's text."""
        return "It said: " + " | ".join(self.text.split("\n")[-5:]) if self.text else "It said nothing."

    @property
    def pips_reason(self) -> str | None:
        """Return what pip said went wrong, in its own words; None where it was not pip that failed."""
        lines = [_STEP_TIME.sub("", line).rstrip() for line in self.text.split("\n")]
        first = next((number for number, line in enumerate(lines) if line.startswith("ERROR: ")), None)
        if first is None:
            return None
        told: list[str] = []
        for line in lines[first:]:
            if line.startswith(_AFTER_THE_REASON):
                break
            told += [line.strip().removeprefix("ERROR: ")] if line.strip() else []
        return " ".join(told) or None


def has_buildkit(version: str) -> bool:
    """Whether a docker command without the buildx plugin has BuildKit built in, from what `docker --version` says."""
    found = re.match(r"Docker version (\d+)\.(\d+)", version)
    return found is not None and (18, 9) <= (int(found[1]), int(found[2])) < (23, 0)


class DockerCommand:
    """One docker command that can build, talking to one engine."""

    def __init__(self, command: str, environ: Mapping[str, str], watch: Say) -> None:
        self._command = command
        self._environ = environ
        self._watch = watch

    @classmethod
    async def find(cls, endpoint: Endpoint, watch: Say, environ: Mapping[str, str] = os.environ) -> DockerCommand:
        """Return the first command on the PATH that can build with BuildKit, for an engine that answers it.

        `watch` is called with every line of what it runs. Raises `LaunchError`, or `EngineUnavailable`.
        """
        # the builder too: one that was chosen with `docker buildx use` would keep the image to itself
        environ = {**environ, "DOCKER_HOST": endpoint.url, "DOCKER_BUILDKIT": "1", "BUILDX_BUILDER": "default"}
        command = cls(await builder(environ), environ, watch)
        answer = await command._ask("version", "--format", "{{.Server.Version}}")
        if not answer.ok:
            raise EngineUnavailable(
                f"No container engine answers at {endpoint.socket} ({endpoint.source}), so no image was built. "
                f"{answer.reason}"
            )
        return command

    async def has_image(self, reference: str) -> bool:
        """Tell whether the engine has an image."""
        return (await self._ask("image", "inspect", "--format", "{{.Id}}", reference)).ok

    async def build(self, *arguments: str) -> Answer:
        """Build an image, with BuildKit's plain lines of progress."""
        return await self._follow([self._command, "build", "--progress=plain", *arguments], BUILD_SECONDS)

    async def run_script(self, script: Path, *arguments: str) -> Answer:
        """Run a shell script that talks to the same engine."""
        return await self._follow(["sh", str(script), *arguments], BUILD_SECONDS)

    async def pull(self, reference: str) -> Answer:
        """Pull an image; given up if no registry has begun to answer in time."""
        command = [self._command, "pull", reference]
        return await self._follow(command, PULL_SECONDS, first=ANSWER_SECONDS, answered="Pulling from")

    async def _ask(self, *arguments: str) -> Answer:
        return await _ask([self._command, *arguments], self._environ)

    async def _follow(self, command: Sequence[str], seconds: float, *, first: float = 0, answered: str = "") -> Answer:
        """Run a command and pass its lines on; ended after `seconds`, or where it had not `answered` after `first`."""
        last: deque[str] = deque(maxlen=LAST_LINES)
        process = await anyio.open_process(
            command, env=self._environ, stdin=subprocess.DEVNULL, stderr=subprocess.STDOUT, start_new_session=True
        )
        try:
            with anyio.move_on_after(seconds) as whole, anyio.move_on_after(first or seconds) as waiting:
                assert process.stdout is not None  # noqa: S101 - it is a pipe by default
                async for line in _lines(process.stdout):
                    if answered and answered in line:
                        waiting.deadline = anyio.current_time() + seconds
                    last.append(line)
                    self._watch(line)
                await process.wait()
        finally:
            await _end(process)
        if whole.cancelled_caught or waiting.cancelled_caught:
            last.append("it was ended here, because it took too long")
        return Answer(ok=process.returncode == 0, text="\n".join(last))


async def builder(environ: Mapping[str, str]) -> str:
    """Return the first docker command on the PATH that can build with BuildKit; raises `LaunchError`."""
    found: list[str] = []
    for directory in environ.get("PATH", os.defpath).split(os.pathsep):
        command = shutil.which("docker", path=directory) if directory else None
        if command is None or command in found:
            continue
        found.append(command)
        if (await _ask([command, "buildx", "version"], environ)).ok or has_buildkit(
            (await _ask([command, "--version"], environ)).text
        ):
            return command
    lost = "No image was built, and without it no sandbox can be started."
    if not found:
        raise LaunchError(
            f"There is no docker command on the PATH. {lost} Install one with BuildKit: on Debian or Ubuntu type "
            "`sudo apt-get install docker.io docker-buildx` (Debian 12: only docker.io)."
        )
    raise LaunchError(
        f"The docker command ({', '.join(found)}) cannot build with BuildKit: its buildx plugin is missing. {lost} "
        "Install it: the package docker-buildx (Debian, Ubuntu) or docker-buildx-plugin (Docker's own packages)."
    )


async def _ask(command: Sequence[str], environ: Mapping[str, str]) -> Answer:
    try:
        with anyio.fail_after(ASK_SECONDS):
            done = await anyio.run_process(
                command, env=environ, stdin=subprocess.DEVNULL, stderr=subprocess.STDOUT, check=False
            )
    except OSError as error:  # a time-out is one too
        return Answer(ok=False, text=str(error))
    return Answer(ok=done.returncode == 0, text=done.stdout.decode(errors="replace").strip())


async def _lines(stream: ByteReceiveStream) -> AsyncIterator[str]:
    """Yield each line that is not empty."""
    buffered = b""
    async for chunk in stream:
        *lines, buffered = (buffered + chunk).split(b"\n")
        for line in lines:
            if text := line.decode(errors="replace").strip():
                yield text
    if text := buffered.decode(errors="replace").strip():
        yield text


async def _end(process: Process) -> None:
    """End what is left of a command, with all that it started: first by asking."""
    with anyio.CancelScope(shield=True):
        if process.returncode is None:
            _signal(process, signal.SIGTERM)  # to the group: a shell alone would first wait for what it runs
            with anyio.move_on_after(END_SECONDS):
                await process.wait()
            _signal(process, signal.SIGKILL)
        await process.aclose()


def _signal(process: Process, number: signal.Signals) -> None:
    with suppress(ProcessLookupError):
        os.killpg(process.pid, number)
