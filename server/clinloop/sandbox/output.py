"""The output of a container, pumped from the engine into the job's log by a thread of its own."""

from __future__ import annotations

import errno
import logging
import socket
import threading
from collections.abc import Generator, Iterable
from contextlib import closing
from typing import BinaryIO

from clinloop.sandbox.logs import LogFile

_DRAIN_S = 2.0
"""After the container ended, output that the engine still holds is taken for at most this long."""
_log = logging.getLogger(__name__)


def attach(engine: str, version: str, name: str, *, replay: bool = False) -> Generator[bytes]:
    """Attach to a container and return what it prints; with `replay`, first what the engine kept of its output.

    Spoken by hand, because docker-py leaves the upgraded connection open. Source: Docker Engine API, "Attach to a container".

    Raises:
        OSError: the engine is gone, or refuses.
    """
    connection = socket.socket(socket.AF_UNIX)
    try:
        connection.connect(engine.removeprefix("unix://"))
        stream = connection.makefile("rb")
        query = f"stdout=1&stderr=1&stream=1&logs={int(replay)}"
        head = f"POST /v{version}/containers/{name}/attach?{query} HTTP/1.1\r\nHost: engine\r\nConnection: Upgrade\r\nUpgrade: tcp"
        connection.sendall(f"{head}\r\nContent-Length: 0\r\n\r\n".encode())
        status = stream.readline().split()
        if status[1:2] not in ([b"101"], [b"200"]):
            raise OSError(errno.EPROTO, "the container engine refused to hand over the output")
        while stream.readline() not in (b"\r\n", b""):
            pass
    except BaseException:
        connection.close()
        raise
    return _frames(connection, stream)


def _frames(connection: socket.socket, stream: BinaryIO) -> Generator[bytes]:
    with closing(connection), closing(stream):
        while len(header := stream.read(8)) == 8:
            yield stream.read(int.from_bytes(header[4:], "big"))


class Output:
    """Drains a stream until it ends; `ended` is set then, which is when the container's first process has closed its output."""

    def __init__(self, chunks: Iterable[bytes], log: LogFile) -> None:
        self.ended = threading.Event()
        self._chunks, self._log = chunks, log
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._drain, name="container output", daemon=True)
        self._thread.start()

    def _drain(self) -> None:
        try:
            for chunk in self._chunks:
                with self._lock:
                    self._log.write(chunk)
        except Exception:  # a full disk, or an engine that was restarted: the job goes on
            _log.exception("the output of a container is lost from here on")
        finally:
            self.ended.set()

    def close(self) -> None:
        """Take what is left and finish the log; the container must have ended. Idempotent."""
        self._thread.join(_DRAIN_S)
        with self._lock:
            self._log.close()
