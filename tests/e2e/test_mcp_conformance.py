"""The public conformance suite for MCP servers, over HTTP and behind the gate, in both protocol eras.

The suite calls most things by name. So it is run in full against the product with those things added, and against the
command as it is wherever it needs nothing of its own.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.e2e import mcp_suite, serving
from tests.e2e.serving import SOON, Served, connected

HERE = Path(__file__).parent
BASELINE: dict[str, dict[str, dict[str, str]]] = yaml.safe_load((HERE / "mcp_baseline.yaml").read_text())
MODERN, LEGACY = "2026-07-28", "2025-11-25"
# a tool that is not there is an error as good as any, so one of them needs no tool that fails
EITHER = (
    *("tools-list", "tools-call-error", "resources-list", "prompts-list"),
    *("dns-rebinding-protection", "server-sse-multiple-streams"),
)
NEEDS_NOTHING = {
    MODERN: (
        *EITHER,
        *("server-stateless", "caching", "http-header-validation", "sep-2164-resource-not-found"),
        "input-required-result-unsupported-methods",
    ),
    LEGACY: (*EITHER, "server-initialize", "server-session-lifecycle", "ping"),
}
# as which the suite's client introduces itself, so whose the kernels are that it sees
SUITE = "conformance-test-client"


def accepted(server: str, revision: str, scenario: str | None = None) -> dict[str, str]:
    """Return what the suite may say against a server, with the reasons."""
    entries = BASELINE.get(server, {}).get(revision, {})
    return {entry: why for entry, why in entries.items() if scenario in (None, entry.partition(":")[0])}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """The command as it is; what the scenarios do in it they do without a kernel."""
    served = serving.start(tmp_path_factory.mktemp("served") / "token")
    yield served
    served.process.kill()
    served.process.communicate()


@pytest.mark.parametrize("revision", list(NEEDS_NOTHING))
def test_a_server_of_ours_with_the_suites_own_tools_conforms(
    serve: Callable[..., Served], tmp_path: Path, revision: str
) -> None:
    everything = serve(program=[str(HERE / "everything.py")])
    found = mcp_suite.run(everything, tmp_path / "found", "--requirements", revision)
    wanted = mcp_suite.scenarios(revision)
    assert len(wanted) > 30
    assert not wanted - found.keys()
    departures = mcp_suite.departures({scenario: found[scenario] for scenario in wanted})
    assert departures.keys() == accepted("everything", revision).keys(), departures
    # the suite takes many a failed call for an answer
    _, errors = everything.end()
    assert "Traceback" not in errors, errors


@pytest.mark.parametrize(
    ("revision", "scenario"), [(revision, each) for revision in NEEDS_NOTHING for each in NEEDS_NOTHING[revision]]
)
def test_the_command_conforms_where_the_suite_needs_no_tools_of_its_own(
    server: Served, tmp_path: Path, revision: str, scenario: str
) -> None:
    found = mcp_suite.run(server, tmp_path, "--scenario", scenario, "--spec-version", revision)
    assert found.keys() == {scenario}
    departures = mcp_suite.departures(found)
    assert departures.keys() == accepted("kernel-bridge", revision, scenario).keys(), departures


@pytest.mark.anyio
async def test_a_connected_kernel_is_a_resource_as_the_suite_wants_it(
    serve: Callable[..., Served], host_kernel: Any, tmp_path: Path
) -> None:
    served = serve()
    async with asyncio.timeout(SOON), served.client(SUITE) as agent:
        await connected(agent, host_kernel)
        arguments = ("--scenario", "caching", "--spec-version", MODERN)
        found = await asyncio.to_thread(mcp_suite.run, served, tmp_path / "found", *arguments)
    statuses = {check.name: check.status for check in found["caching"]}
    assert statuses["sep-2549-resources-read-caching-hints"] == "SUCCESS"
    assert not mcp_suite.departures(found)


def test_without_the_right_token_the_suite_is_told_so_and_nothing_else(server: Served, tmp_path: Path) -> None:
    wrong = server.token[::-1]
    found = mcp_suite.run(server, tmp_path, "--scenario", "ping", "--spec-version", LEGACY, token=wrong)
    assert "The token is wrong" in mcp_suite.departures(found)["ping:ping"]


def test_each_departure_that_is_accepted_has_a_reason_and_is_looked_for() -> None:
    looked_for = {("kernel-bridge", revision, each) for revision, all_ in NEEDS_NOTHING.items() for each in all_}
    for revision in NEEDS_NOTHING:
        looked_for |= {("everything", revision, each) for each in mcp_suite.scenarios(revision)}
    for server, revisions in BASELINE.items():
        for revision, entries in revisions.items():
            for entry, why in entries.items():
                assert (server, revision, entry.partition(":")[0]) in looked_for, entry
                assert len(why.split()) > 5, entry
