"""What is said of a sandbox that has ended, with an engine that still has it."""

from __future__ import annotations

import dataclasses
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

import pytest

from bridge.kernels.sandboxes import Sandboxes
from bridge.launchers import Launcher, Sandbox

pytestmark = pytest.mark.anyio

ANOTHER = "start_sandbox or `kernel-bridge up lab` starts another."
KILLED = "killed from outside (SIGKILL), as by `docker kill`"


class Engine:
    """Has one sandbox, whose container was killed."""

    def __init__(self, connection_file: Path, **ended: Any) -> None:
        about: dict[str, Any] = {"image": "i", "network": "none", "started_at": "", "connection_file": connection_file}
        self._sandbox = Sandbox("lab", "ended", **about | {"ending": KILLED} | ended)

    async def sandboxes(self) -> list[Sandbox]:
        return [self._sandbox]


@pytest.mark.parametrize(
    ("file_is_there", "expected"),
    [
        (True, f"Sandbox lab has ended: {KILLED}. All its variables are lost. {ANOTHER}"),
        # a stop is on its way, which removes the file before it kills
        (False, f"Sandbox lab was stopped; all its variables are lost. {ANOTHER}"),
    ],
)
async def test_one_that_is_just_being_stopped_is_not_told_as_killed(
    tmp_path: Path, *, file_is_there: bool, expected: str
) -> None:
    file = tmp_path / "kernel-bridge-lab.json"
    if file_is_there:
        file.touch()
    sandboxes = Sandboxes(lambda: cast("Launcher", Engine(file)))
    assert (await sandboxes.what_became_of("lab", datetime.now(UTC))).sentence == expected


async def test_one_that_was_over_is_told_with_the_limit_and_what_sets_it(tmp_path: Path) -> None:
    (file := tmp_path / "kernel-bridge-lab.json").touch()
    over = {"over": "idle_timeout", "ending": "nobody was connected and nothing ran for 1d (idle_timeout)"}
    sandboxes = Sandboxes(lambda: cast("Launcher", Engine(file, **over)))
    assert (await sandboxes.what_became_of("lab", datetime.now(UTC))).sentence == (
        f"Sandbox lab has ended: {over['ending']}. All its variables are lost. "
        "start_sandbox or `kernel-bridge up lab` starts another; how long one lasts is said by idle_timeout in the "
        "policy."
    )


async def test_one_whose_gateway_is_seen_to_end_first_has_ended_all_the_same(tmp_path: Path) -> None:
    (file := tmp_path / "kernel-bridge-lab.json").touch()

    class Slow(Engine):
        looks = 0

        async def sandboxes(self) -> list[Sandbox]:
            self.looks += 1
            (ended,) = await super().sandboxes()
            return [dataclasses.replace(ended, state="unreachable") if self.looks < 3 else ended]

        async def last_ending(self, *_: object) -> None:
            return None

    slow = Slow(file)
    loss = await Sandboxes(lambda: cast("Launcher", slow)).what_became_of("lab", datetime.now(UTC))
    assert (loss.left, loss.sentence) == (
        "nothing",
        f"Sandbox lab has ended: {KILLED}. All its variables are lost. {ANOTHER}",
    )


async def test_one_of_docker_composes_is_told_with_what_starts_that(tmp_path: Path) -> None:
    file = tmp_path / "project" / ".kernel-bridge" / "kernel-bridge-lab.json"
    file.parent.mkdir(parents=True)
    file.touch()
    sandboxes = Sandboxes(lambda: cast("Launcher", Engine(file, composed=True)))
    assert (await sandboxes.what_became_of("lab", datetime.now(UTC))).sentence.endswith(
        f" `docker compose up` in {tmp_path / 'project'} starts another."
    )
