"""docker-py's client, as the requests to the engine use it.

The one rule: a socket that is opened here is closed here, and nothing waits for the engine without end. docker-py alone
loses a socket that cannot be connected, sets no time-out where it attaches, and reads what a command inside prints past
the buffer in which the beginning of it may be. It is slow to import: import this module with the first request.
"""

from __future__ import annotations

import functools
import io
import socket
import time
from typing import Any

import docker
from docker.transport.unixconn import UnixHTTPAdapter, UnixHTTPConnection

_HEAD = 8
"""Bytes before each piece of a stream: whether it is standard output or error, and in the last four how long it is."""


class _Connection(UnixHTTPConnection):
    def connect(self) -> None:
        """Connect; one whose engine has just ended leaves no socket behind."""
        made = socket.socket(socket.AF_UNIX)
        try:
            made.settimeout(self.timeout)
            made.connect(self.unix_socket)
        except BaseException:
            made.close()
            raise
        self.sock = made


class _Adapter(UnixHTTPAdapter):
    def get_connection(self, url: Any, proxies: Any = None) -> Any:
        """Return the pool for an address, which makes connections of ours."""
        pool = super().get_connection(url, proxies)
        made = functools.partial(_Connection, url, self.socket_path, self.timeout)
        pool._new_conn = made  # type: ignore[method-assign,assignment]  # noqa: SLF001 - it takes none in another way
        return pool


def make(address: str, version: str, patience: float) -> docker.APIClient:
    """Return a client for an engine's socket (`unix://…`) and a version of its API; `patience` is of each request."""
    client = docker.APIClient(address, version=version, timeout=int(patience))
    client.mount("http+docker://", _Adapter(address.replace("unix://", "http+unix://", 1), int(patience)))
    # some of docker-py's requests, as to attach, set no time-out of their own
    client.request = functools.partial(client.request, timeout=int(patience))  # type: ignore[method-assign]  # attach sets none
    client.trust_env = False  # neither proxies nor .netrc are meant for a local socket
    return client


def output(stream: Any, most: int, patience: float) -> bytes:
    """Read to its end, or a little further than `most`, what comes in the stream that docker-py has got for an exec.

    The engine may send the first of it with the head of its answer: then it is in the buffer above the raw stream.
    Raises `TimeoutError` where the end has not come within `patience` seconds, however often a little comes.
    """
    reader: io.BufferedReader = vars(stream)["_response"].raw._fp.fp  # noqa: SLF001 - as docker-py finds the raw one
    end = time.monotonic() + patience
    told, head, left = bytearray(), b"", 0
    while len(told) <= most:
        if (rest := end - time.monotonic()) <= 0:
            raise TimeoutError
        stream._sock.settimeout(rest)  # noqa: SLF001 - a socket's own is of each read
        piece = reader.read1(left or _HEAD - len(head))
        if not piece:
            break
        if left:
            told += piece
            left -= len(piece)
        elif len(head := head + piece) == _HEAD:
            head, left = b"", int.from_bytes(head[4:], "big")
    return bytes(told)
