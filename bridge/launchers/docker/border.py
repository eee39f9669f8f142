"""The border of the engine: exceptions of docker-py, requests and the socket become one sentence of ours each.

The one rule: whatever the libraries raise passes through `translated`, and its text says what was being done, what is
wrong with the engine, and what to do. docker is imported when something went wrong, not before.
"""

from __future__ import annotations

from bridge.errors import EngineUnavailable, LaunchError
from bridge.launchers.docker.host import Endpoint

REQUEST_TIMEOUT = 30.0
"""Seconds. The slowest request, starting a container on a loaded machine, was seen to take two."""

# of engines until 24, and since; neither has a status of its own
_NO_ADDRESSES = ("non-overlapping IPv4 address pool", "address pools have been fully subnetted")


class Missing(LaunchError):
    """The engine knows no such object (404)."""


class Conflict(LaunchError):
    """The request does not fit what is there: a name in use, a container that does not run (409)."""


class NoAddresses(LaunchError):
    """The engine has no addresses left for one more network."""


class Refused(LaunchError):
    """The engine did not do it for another reason; `detail` is its own words."""

    def __init__(self, text: str, detail: str) -> None:
        super().__init__(text)
        self.detail = detail


def foreign() -> tuple[type[Exception], ...]:
    """Return what a request to the engine may raise."""
    import docker.errors  # noqa: PLC0415 - slow, and wanted only where something failed
    import requests  # noqa: PLC0415 - slow, and wanted only where something failed

    return (docker.errors.DockerException, requests.RequestException, OSError)


def translated(doing: str, error: Exception, endpoint: Endpoint) -> LaunchError:
    """Return our error for one of theirs; `doing` completes "The engine did not …"."""
    import docker.errors  # noqa: PLC0415 - slow, and wanted only where something failed
    import requests  # noqa: PLC0415 - slow, and wanted only where something failed

    if isinstance(error, docker.errors.APIError) and error.response is not None:
        detail = str(error.explanation or error)
        text = f"The engine did not {doing}: {detail.rstrip('.')}."
        if any(words in detail for words in _NO_ADDRESSES):
            return NoAddresses(text)
        if error.response.status_code == 404:
            return Missing(text)
        return Conflict(text) if error.response.status_code == 409 else Refused(text, detail)
    timed_out = isinstance(error, requests.Timeout | TimeoutError)
    return _unavailable(doing, _os_error(error) or error, endpoint, timed_out=timed_out)


def _unavailable(doing: str, cause: Exception, endpoint: Endpoint, *, timed_out: bool) -> EngineUnavailable:
    where = f"The container engine at {endpoint.socket} ({endpoint.source})"
    if timed_out:
        return EngineUnavailable(
            f"{where} did not {doing} within {REQUEST_TIMEOUT:g} s. See whether it answers: docker version."
        )
    if isinstance(cause, PermissionError):
        return EngineUnavailable(
            f"{where} may not be used by this user. Add the user to the socket's group (usually: docker) and log in "
            "again, or use a rootless engine."
        )
    if isinstance(cause, FileNotFoundError):
        return EngineUnavailable(f"{where} does not run: its socket is not there. Start it and try again.")
    if isinstance(cause, ConnectionRefusedError):
        return EngineUnavailable(f"{where} does not run: nobody listens on its socket. Start it and try again.")
    if isinstance(cause, OSError):  # requests' own errors are of that kind too
        return EngineUnavailable(
            f"{where} broke off when it was asked to {doing}. It may have been stopped; start it and try again."
        )
    return EngineUnavailable(f"{where} cannot be used to {doing}: {cause}")


def _os_error(error: BaseException) -> OSError | None:
    """Find the operating system's own error below those of the HTTP libraries, which wrap it in their arguments."""
    seen: list[BaseException] = [error]
    for each in seen:
        if isinstance(each, OSError) and each.errno is not None and type(each).__module__ == "builtins":
            return each
        nested = [each.__cause__, each.__context__, getattr(each, "reason", None), *each.args]
        seen += [inner for inner in nested if isinstance(inner, BaseException) and inner not in seen]
    return None
