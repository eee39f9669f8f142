"""Network open for the agent and its user: only where the policy says so, and everybody is told what it means."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bridge.policy import OPEN_NETWORK

SOON = 30.0
MEANS = f"Network open: {OPEN_NETWORK}."
# The address of the bridge that the kernel is on, from the inside: this machine.
REACHED = """
import socket, struct
route = next(line.split() for line in open("/proc/net/route").readlines()[1:] if line.split()[1] == "0" * 8)
host = socket.inet_ntoa(struct.pack("<L", int(route[2], 16)))
print(socket.create_connection((host, PORT), timeout=20).recv(64).decode())
"""


@pytest.fixture
def opened(tmp_path: Path) -> Path:
    file = tmp_path / "policy.yaml"
    file.write_text("version: 1\nsandbox:\n  network: open\n")
    file.chmod(0o600)
    return file


@pytest.fixture
def service() -> Iterator[int]:
    """Somebody who listens on this machine and greets whoever comes."""
    with socket.create_server(("0.0.0.0", 0)) as server:

        def greet() -> None:
            with contextlib.suppress(OSError), server.accept()[0] as guest:
                guest.sendall(b"hello from the host")

        greeting = threading.Thread(target=greet)
        greeting.start()
        yield server.getsockname()[1]
        server.shutdown(socket.SHUT_RDWR)
        greeting.join(SOON)


@pytest.mark.anyio
async def test_an_agent_is_told_what_open_means_and_has_it_only_where_the_policy_says_so(
    connect: Any, opened: Path, runtime: Path, service: int
) -> None:
    async with connect() as agent:
        refusal = await agent.refused("start_sandbox", name="asking", network="open")
        assert 'network: the text "open" is not allowed; allowed are none and isolated (sandbox.network' in refusal
        assert "built in)" in refusal
    async with connect(opened) as agent:
        try:
            told = await agent.call("start_sandbox", name="opened")
            assert "network open) and is connected" in told
            assert MEANS in told
            assert await agent.run(REACHED.replace("PORT", str(service))) == "hello from the host"
            less = await agent.call("start_sandbox", name="lesser", network="isolated")
            assert "Network open" not in less
            there = await agent.client.call_tool("list_kernels", {})
            listed = json.dumps(there.structured_content)
            assert '"network": "open"' in listed
            assert '"network": "isolated"' in listed
        finally:
            for name in ("opened", "lesser"):
                await agent.client.call_tool("stop_sandbox", {"kernel": name})


def test_a_person_is_told_what_open_means_by_every_command_that_tells_of_it(
    command: Any, opened: Path, runtime: Path
) -> None:
    refused = command("up", "shell", "--network", "open")
    assert refused.returncode == 2
    assert "(sandbox.network, built in)" in refused.stderr
    policy = ["--policy", str(opened)]
    told = json.loads(command("policy", "explain", str(opened), "--json").stdout)
    (network,) = [each for each in told["settings"] if each["setting"] == "network"]
    assert network == {"setting": "network", "value": "open", "why": f"the policy's: {OPEN_NETWORK}"}
    started = command("up", "shell", *policy)
    try:
        assert started.returncode == 0, started.stderr
        assert "network open)" in started.stderr
        assert MEANS in started.stderr
        assert started.stdout == f"{runtime}/kernel-bridge-shell.json\n"
        listed = command("ls", *policy)
        assert "alive, network open" in listed.stdout
        assert MEANS in listed.stderr
        assert f"open: {OPEN_NETWORK}" in command("status", "shell", *policy).stdout
        (line,) = [each for each in command("doctor", *policy).stdout.splitlines() if OPEN_NETWORK in each]
        assert "network open" in line
    finally:
        assert command("stop", "shell", *policy).returncode == 0
    assert MEANS not in command("ls", *policy).stderr
