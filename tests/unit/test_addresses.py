"""Addresses of resources, written and read."""

from __future__ import annotations

import pytest

from bridge.addresses import ActivityAddress, FileAddress, OutputAddress, read


@pytest.mark.parametrize(
    "address",
    [
        ActivityAddress("lab"),
        ActivityAddress("my kernel/ü%2F"),
        OutputAddress("lab", 3, 0),
        OutputAddress("a b", 17, 4, is_execution=False),
    ],
)
def test_what_is_written_is_read_as_the_same(address: ActivityAddress | OutputAddress) -> None:
    assert read(str(address)) == address


def test_addresses_look_as_they_are_documented() -> None:
    assert str(ActivityAddress("lab")) == "kernel-bridge://kernels/lab/activity"
    assert str(OutputAddress("lab", 3, 1)) == "kernel-bridge://kernels/lab/executions/3/outputs/1"
    assert str(FileAddress("lab", "/data/ü x\udcff")) == "kernel-bridge://kernels/lab/files/data/%C3%BC%20x%3F"


@pytest.mark.parametrize(
    "uri",
    [
        "kernel-bridge://kernels/lab",
        "kernel-bridge://kernels//activity",
        "kernel-bridge://kernels/lab/activity/",
        "kernel-bridge://kernels/lab/executions/x/outputs/1",
        "kernel-bridge://kernels/lab/executions/-1/outputs/1",
        "kernel-bridge://kernels/lab/executions/1/outputs/99999999999999999999",
        "kernel-bridge://kernels/lab/executions/1/outputs/²",
        "kernel-bridge://kernels/lab/files/x",
        "kernel-bridge://kernels/../activity/x",
        "file:///etc/passwd",
        "",
    ],
)
def test_what_is_no_address_is_not_read(uri: str) -> None:
    assert read(uri) is None
