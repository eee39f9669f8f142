"""An IDE that owns a sandbox is killed, once the name has come to another container than the one that it had joined."""

from __future__ import annotations

from typing import Any

import anyio
import pytest

from bridge.errors import LaunchError
from bridge.ide.joining import Joining
from bridge.kernels.registry import Kernels
from bridge.launchers.docker import DockerLauncher
from bridge.policy import SandboxRequest, built_in
from tests.faults.engines import SOON, Looker
from tests.launchers.conftest import make_spec


class Owner(Joining):
    """An IDE's relay or provisioner, as far as its sandbox goes."""

    def __init__(self) -> None:
        super().__init__(self._open, "lab", owner=True, request=SandboxRequest("lab"), engine=None)
        self.kind: type[Kernels] = Kernels

    def _open(self) -> Kernels:
        return self.kind(built_in(), DockerLauncher)

    def is_killed(self) -> None:
        """Let its guard see what it sees then, and do what it does."""
        assert self._guard
        assert self._ownership
        assert self._guard._process.stdin
        self._guard._process.stdin.close()
        assert self._guard._process.wait(SOON) == 0
        self._ownership.release()


def test_a_sandbox_that_somebody_has_started_under_the_name_outlives_the_owner_that_never_joined_it(
    looker: Looker,
) -> None:
    async def outlive() -> None:
        owner, other = Owner(), DockerLauncher()
        await owner.join()
        assert await other.stop("lab")
        theirs = await other.start(make_spec("lab"))
        owner.is_killed()
        (found,) = await other.sandboxes()
        assert (found.state, found.container) == ("running", theirs.container)
        assert await other.stop("lab")
        other.close()

    anyio.run(outlive)
    assert looker.left() == []


def test_a_sandbox_that_the_owner_has_joined_instead_of_the_one_before_ends_with_it(looker: Looker) -> None:
    async def end() -> None:
        owner, other = Owner(), DockerLauncher()
        before = await owner.join()
        assert await other.stop("lab")
        await other.start(make_spec("lab"))
        await owner.rejoin(before)
        owner.is_killed()
        assert await other.sandboxes() == []
        other.close()

    anyio.run(end)
    assert looker.left() == []


def test_a_sandbox_that_the_owner_was_just_starting_anew_ends_with_it(looker: Looker) -> None:
    class CutShort(Kernels):
        """The owner comes no further than to the start."""

        async def start_sandbox(self, request: SandboxRequest) -> Any:
            await super().start_sandbox(request)
            raise LaunchError("killed")

    async def end() -> None:
        owner, other = Owner(), DockerLauncher()
        await owner.join()
        assert await other.stop("lab")
        owner.kind = CutShort
        with pytest.raises(LaunchError, match="killed"):
            await owner.join()
        assert [each.state for each in await other.sandboxes()] == ["running"]
        owner.is_killed()
        assert await other.sandboxes() == []
        other.close()

    anyio.run(end)
    assert looker.left() == []
