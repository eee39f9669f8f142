"""How many descriptors the server over HTTP allows itself, in a process with a limit of its own."""

from __future__ import annotations

import resource
import subprocess
import sys

import pytest

from bridge.http.descriptors import most_agents

TELL = """
import resource
from bridge.http.descriptors import raise_limit
print(raise_limit(), *resource.getrlimit(resource.RLIMIT_NOFILE))
"""


def under(soft: int, hard: int) -> list[int]:
    """Return the limit as it was told, and the soft and the hard one as they are then."""
    done = subprocess.run(
        [sys.executable, "-c", TELL],
        capture_output=True,
        check=True,
        text=True,
        timeout=60,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard)),
    )
    return [int(each) for each in done.stdout.split()]


def test_the_soft_limit_is_raised_to_the_hard_one() -> None:
    assert under(256, 2000) == [2000, 2000, 2000]


def test_a_soft_limit_that_is_the_hard_one_stays() -> None:
    assert under(512, 512) == [512, 512, 512]


@pytest.mark.parametrize(("limit", "most"), [(8192, 100), (1024, 34), (600, 6), (256, 1)])
def test_there_are_as_many_agents_as_there_are_descriptors_for(limit: int, most: int) -> None:
    assert most_agents(limit) == most
