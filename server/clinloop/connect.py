"""`clinloop connect`: copy bytes between standard input and output and the service's socket; what agents start instead of a server."""

from __future__ import annotations

import errno
import os
import selectors
import socket
import sys
from pathlib import Path

SOCKET = Path("/run/clinloop/clinloop.sock")
"""Where the service listens unless it is told otherwise."""
_CHUNK = 1 << 16
_REASONS = {
    errno.ENOENT: "no service listens there; the custodian starts it (clinloop service install)",
    errno.ECONNREFUSED: "the service has ended; the custodian starts it again",
    errno.EACCES: "your user may not use it; the custodian adds you to the group of the socket",
}


def connect(path: Path) -> int:
    """Copy both ways until either end closes; the exit status."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as service:
        try:
            service.connect(str(path))
        except OSError as error:
            reason = _REASONS.get(error.errno or 0, error.strerror or str(error))
            print(f"clinloop connect: {path}: {reason}.", file=sys.stderr)
            return 1
        try:
            _copy(service)
        except (BrokenPipeError, ConnectionResetError):
            return 0
    return 0


def _copy(service: socket.socket) -> None:
    """Copy until the service closes; after the end of the input, the answers that are still due are copied too."""
    with selectors.SelectSelector() as selector:  # epoll refuses a regular file as standard input
        selector.register(0, selectors.EVENT_READ)
        selector.register(service, selectors.EVENT_READ)
        while True:
            for key, _ in selector.select():
                if key.fileobj is service:
                    data = service.recv(_CHUNK)
                    if not data:
                        return
                    _write(data)
                else:
                    data = os.read(0, _CHUNK)
                    if data:
                        service.sendall(data)
                    else:
                        selector.unregister(0)
                        service.shutdown(socket.SHUT_WR)


def _write(data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(1, view) :]


def main(arguments: list[str]) -> int:
    """Run `python -I -m clinloop.connect [--socket PATH]`."""
    path = SOCKET
    match arguments:
        case []:
            pass
        case ["--socket", given]:
            path = Path(given)
        case [given] if given.startswith("--socket="):
            path = Path(given.removeprefix("--socket="))
        case _:
            print("usage: clinloop connect [--socket PATH]", file=sys.stderr)
            return 2
    try:
        return connect(path)
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
