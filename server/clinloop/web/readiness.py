"""Whether the server could do its work now: the store can be written, the disk has room, and there is a sandbox."""

from __future__ import annotations

import logging
import os
import shutil
import tempfile
import threading
import time
from collections.abc import Iterator

from clinloop.errors import Refusal
from clinloop.sandbox import backends
from clinloop.services import Services

FREE_BYTES = 1 << 30
"""Free bytes below which the server is not ready: a run's output alone may have 2 GiB."""
_SANDBOX_S = 60.0
"""Seconds for which the answer about sandboxes is kept: it starts processes."""
_STORE_S = 2.0
"""Seconds for which all answers are kept, since anybody may ask."""
_log = logging.getLogger("clinloop.http")


class Readiness:
    """Answers, kept for a while."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._lock = threading.Lock()
        self._kept: tuple[float, list[str]] = (0.0, [])
        self._sandbox: tuple[float, str] = (0.0, "")

    def problems(self) -> list[str]:
        """Return what is wrong, a line each, without any path; empty = ready."""
        with self._lock:
            until, found = self._kept
            if until < time.monotonic():
                found = list(self._problems())
                self._kept = (time.monotonic() + _STORE_S, found)
            return found

    def _problems(self) -> Iterator[str]:
        state = self._services.settings.state
        try:
            self._services.store.tasks()
            with tempfile.NamedTemporaryFile(dir=state, prefix=".ready-") as file:
                file.write(b"ready")
                os.fsync(file.fileno())
            free = shutil.disk_usage(state).free
            if free < FREE_BYTES:
                yield f"disk: {free / 2**30:.1f} GiB are free, at least {FREE_BYTES / 2**30:.0f} are needed"
        except Exception as error:
            _log.exception("the store cannot be used")
            yield f"store: it cannot be read and written ({type(error).__name__})"
        if problem := self._no_sandbox():
            yield f"sandbox: {problem}"

    def _no_sandbox(self) -> str:
        until, problem = self._sandbox
        if until < time.monotonic():
            settings = self._services.settings
            problem = ""
            try:
                backends.choose(
                    settings,
                    image=settings.image or "cpu",
                    accept_no_isolation=self._services.accept_no_isolation,
                )
            except Refusal:
                problem = "none can be used; clinloop doctor says why"
            self._sandbox = (time.monotonic() + _SANDBOX_S, problem)
        return problem
