"""Sandboxes in the Docker Engine, or in anything that speaks its API on a local socket.

The one rule: `document.py` turns a decided spec into the engine's own documents, and nothing else says anything to the
engine about how a container is made; `verification.py` checks that the engine did it. `docker` is imported in
`engine.py` only, when the first request is made.
"""

from bridge.launchers.docker.launcher import DockerLauncher

__all__ = ["DockerLauncher"]
