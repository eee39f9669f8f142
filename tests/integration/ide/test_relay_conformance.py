"""The public conformance suite, run through the relay."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.e2e import conformance


@pytest.fixture(scope="module", autouse=True)
def _kernelspec(kernel: Any, write_spec: Callable[..., str]) -> None:
    """A kernelspec of the name that the suite is told."""
    write_spec(kernel, name="relayed")


class TestConformance(conformance.Conformance):
    kernel_name = "relayed"


class TestWelcome(conformance.Welcome):
    kernel_name = "relayed"
