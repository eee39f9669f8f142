"""The public conformance suite, run against kernels that a KernelManager starts through our provisioner."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.e2e import conformance
from tests.e2e.provisioned import containers, write_kernelspec


@pytest.fixture(scope="module", autouse=True)
def _kernelspecs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A kernelspec of a sandbox of its own, and one of a sandbox of a name."""
    place = tmp_path_factory.mktemp("jupyter")
    (place / "runtime").mkdir(mode=0o700)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JUPYTER_PATH", str(place))
        patch.setenv("JUPYTER_RUNTIME_DIR", str(place / "runtime"))
        write_kernelspec(place, "own", sandbox={"memory": "512MiB"})
        write_kernelspec(place, "sockets", kernel="conforming", owner=True, sandbox={"network": "none"})
        yield
    assert not containers()


class TestOverPorts(conformance.Conformance):
    kernel_name = "own"


class TestOverSockets(conformance.Conformance):
    kernel_name = "sockets"


class TestWelcome(conformance.Welcome):
    kernel_name = "own"


def test_no_section_of_the_suite_is_left_out() -> None:
    """A sample that is empty would skip one, and nobody would see it."""
    for suite in (conformance.Conformance, conformance.Welcome):
        optional = [name for name in vars(suite.__mro__[1]) if name.startswith(("code_", "supported_", "support_"))]
        optional += [name for name in vars(suite.__mro__[1]) if name.endswith(("_samples", "_sample", "_name"))]
        assert all(getattr(suite, name) for name in optional), optional
