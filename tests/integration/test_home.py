"""The kernel that is connected without being asked for: when it is, when it stays away, and what it costs."""

from __future__ import annotations

import signal
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from bridge.errors import LaunchError, NoSuchKernel
from bridge.kernels.registry import Kernels
from bridge.launchers.docker import DockerLauncher
from bridge.policy import built_in
from tests.integration.conftest import connected

pytestmark = pytest.mark.anyio


@pytest.fixture
async def kernels(host_kernel: Any) -> AsyncIterator[Kernels]:
    """Return kernels with a home that answers, but is not connected."""
    made = Kernels(built_in(), DockerLauncher, home=str(host_kernel.file))
    await connected(made, host_kernel)
    await made.disconnect()
    assert made._home is not None
    made._home.is_left = False
    yield made
    await made.close()


async def test_it_is_there_for_a_call_without_a_name_and_for_one_with_its_own(kernels: Kernels) -> None:
    await kernels.be_at_home()
    assert [each.name for each in kernels.statuses()] == ["kernel-test"]


async def test_where_another_one_is_connected_a_call_without_a_name_means_that(
    kernels: Kernels, start_host_kernel: Callable[..., Any]
) -> None:
    await connected(kernels, start_host_kernel("kernel-other"))
    await kernels.be_at_home()
    assert [each.name for each in kernels.statuses()] == ["kernel-other"]
    await kernels.be_at_home("kernel-test")
    assert [each.name for each in kernels.statuses()] == ["kernel-other", "kernel-test"]


async def test_once_it_was_disconnected_it_stays_away_until_it_is_named(kernels: Kernels) -> None:
    await kernels.be_at_home()
    await kernels.disconnect()
    for name in (None, "another"):
        await kernels.be_at_home(name)
        assert kernels.statuses() == []
    assert kernels.why_not_at_home() is None
    await kernels.be_at_home("kernel-test")
    assert [each.name for each in kernels.statuses()] == ["kernel-test"]


async def test_one_that_does_not_answer_is_waited_for_once_and_its_reason_told(
    kernels: Kernels, host_kernel: Any
) -> None:
    host_kernel.process.send_signal(signal.SIGSTOP)
    await kernels.be_at_home()
    begun = time.monotonic()
    for name in (None, "kernel-test", "another"):
        await kernels.be_at_home(name)
    assert time.monotonic() - begun < 1.0
    why = kernels.why_not_at_home()
    assert why is not None
    assert why.startswith(f"{host_kernel.file}, which this server is for, could not be connected to: ")
    with pytest.raises(NoSuchKernel, match="which this server is for, could not be connected to"):
        await kernels.execute("1", timeout=1)


async def test_a_sandbox_of_another_name_is_not_stopped_later_because_it_does_not_answer(
    kernels: Kernels, host_kernel: Any
) -> None:
    host_kernel.process.send_signal(signal.SIGSTOP)
    begun = time.monotonic()
    with pytest.raises((NoSuchKernel, LaunchError)):
        await kernels.stop_sandbox("nobody")
    assert time.monotonic() - begun < 3.0
    assert kernels._home is not None
    assert kernels._home.attempts == 0
