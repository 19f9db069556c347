"""What takes seconds to find out is measured once, shared by all who look, and measured again when somebody asks."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any, Generic, NamedTuple, TypeVar

from starlette.datastructures import State

T = TypeVar("T")


class Measured(NamedTuple, Generic[T]):
    """A value with its age; no value while the first measurement goes on."""

    value: T | None
    age_s: float
    is_running: bool
    failure: str = ""
    """Class of the exception that ended the newest measurement."""


class Measurement(Generic[T]):
    """One thing that is slow to measure; threads may share it."""

    def __init__(self, measure: Callable[[], T], *, fresh_s: float = 300.0) -> None:
        self._measure, self._fresh_s = measure, fresh_s
        self._lock = threading.Lock()
        self._done = threading.Event()
        self._done.set()
        self._value: T | None = None
        self._at = 0.0
        self._failure = ""

    def read(self, *, again: bool = False, wait_s: float = 1.5) -> Measured[T]:
        """Return what was measured last; what is missing, old, or wanted again is measured in the background, waited for a little."""
        with self._lock:
            is_old = self._value is None or time.monotonic() - self._at > self._fresh_s
            if (again or is_old) and self._done.is_set() and (again or not self._failure):
                self._done.clear()
                threading.Thread(target=self._run, name="measurement", daemon=True).start()
        self._done.wait(wait_s)
        with self._lock:
            age = time.monotonic() - self._at if self._value is not None else 0.0
            return Measured(self._value, age, not self._done.is_set(), self._failure)

    def forget(self) -> None:
        """Let the next who looks wait for a new measurement."""
        with self._lock:
            self._value = None

    def _run(self) -> None:
        try:
            value, failure = self._measure(), ""
        except Exception as fault:
            value, failure = None, type(fault).__name__
        with self._lock:
            self._failure = failure
            if value is not None:
                self._value, self._at = value, time.monotonic()
            self._done.set()


def shared(state: State, name: str, measure: Callable[[], T]) -> Measurement[T]:
    """Return the measurement of a name that an application holds; made at first use."""
    if not hasattr(state, "measurements"):
        state.measurements = dict[str, Any]()
    return state.measurements.setdefault(name, Measurement(measure))
