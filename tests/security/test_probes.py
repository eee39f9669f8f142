"""What code in a sandbox gets done, and what it would with exactly one setting relaxed."""

from __future__ import annotations

from typing import Any

import pytest

from tests.security.probes import PROBES, Probe

Lab = Any  # the fixtures' classes are in conftest.py, which is not to be imported


@pytest.mark.parametrize("probe", PROBES, ids=lambda probe: probe.name)
def test_what_is_tried_inside_is_stopped_and_gets_through_where_exactly_that_setting_is_relaxed(
    probe: Probe, lab: Lab
) -> None:
    assert lab.guarded.try_it(probe, lab.outside) == probe.sees
    assert lab.control(probe.relaxed).try_it(probe, lab.outside) == probe.then
