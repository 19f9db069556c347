"""What /metrics shows: requests, tool calls, sessions, runs, tasks and disk; numbers, and no name of a task, dataset or person."""

from __future__ import annotations

import shutil
from collections import Counter as Tally
from collections.abc import Callable, Iterator

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from clinloop.services import Services

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_SECONDS = (0.005, 0.02, 0.1, 0.5, 2.0, 10.0, 60.0, 300.0)
_METHODS = frozenset({"GET", "HEAD", "POST", "DELETE"})


class Metrics:
    """The counters of one server, and what is read from the store when somebody asks."""

    def __init__(self, services: Services, sessions: Callable[[], int]) -> None:
        self._registry = CollectorRegistry()
        self._requests = Counter(
            "clinloop_http_requests", "Requests answered.", ["method", "route", "status"], registry=self._registry
        )
        self._seconds = Histogram(
            "clinloop_http_request_seconds",
            "Seconds until a request was answered whole; waits and streams included.",
            ["route"],
            buckets=_SECONDS,
            registry=self._registry,
        )
        self._tools = Counter(
            "clinloop_tool_calls", "Calls of tools over HTTP.", ["tool", "outcome"], registry=self._registry
        )
        self._tool_seconds = Histogram(
            "clinloop_tool_call_seconds",
            "Seconds of a call of a tool; waits included.",
            ["tool"],
            buckets=_SECONDS,
            registry=self._registry,
        )
        self._registry.register(_State(services, sessions))

    def request(self, method: str, route: str, status: int, seconds: float) -> None:
        """Count a request."""
        self._requests.labels(method if method in _METHODS else "other", route, str(status)).inc()
        self._seconds.labels(route).observe(seconds)

    def tool(self, name: str, outcome: str, seconds: float) -> None:
        """Count a call of a tool."""
        self._tools.labels(name, outcome).inc()
        self._tool_seconds.labels(name).observe(seconds)

    def text(self) -> bytes:
        """Return everything in Prometheus' text format; reads the store."""
        return generate_latest(self._registry)


class _State(Collector):
    """What the store and the disk say at the moment."""

    def __init__(self, services: Services, sessions: Callable[[], int]) -> None:
        self._services, self._sessions = services, sessions

    def describe(self) -> Iterator[Metric]:
        """Say nothing beforehand: the registry would read the store to find the names."""
        return iter(())

    def collect(self) -> Iterator[Metric]:
        """Yield the numbers."""
        store = self._services.store
        yield _gauge("clinloop_sessions", "Open sessions of the handshake era.", self._sessions())
        runs = Tally("queued" if run.status == "queued" else "active" for run in store.active_runs())
        yield _gauge("clinloop_runs_active", "Runs that train, predict or are scored.", runs["active"])
        yield _gauge("clinloop_runs_queued", "Runs that wait for GPUs or CPU.", runs["queued"])
        tasks = GaugeMetricFamily("clinloop_tasks", "Tasks by status.", labels=["status"])
        for status, count in sorted(Tally(task.status for task in store.tasks()).items()):
            tasks.add_metric([status], count)
        yield tasks
        free = shutil.disk_usage(self._services.settings.state).free
        yield _gauge("clinloop_state_free_bytes", "Free bytes on the disk of the state folder.", free)


def _gauge(name: str, text: str, value: float) -> Metric:
    return GaugeMetricFamily(name, text, value=value)
