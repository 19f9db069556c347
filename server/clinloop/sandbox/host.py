"""What the backends share whose jobs are children of the caller: one Python environment per image, a record per job, one way to start."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping

from clinloop.sandbox.base import Environment, Exit, Job
from clinloop.sandbox.environment import bare_environment, ensure_environment, find_environment
from clinloop.sandbox.recipes import find_recipe, folders
from clinloop.sandbox.records import Record, Records
from clinloop.sandbox.running import Running, undone_on_failure, wait_for_stranger
from clinloop.settings import Settings


class HostBackend(ABC):
    """A backend that uses the host's files: its jobs end with the process that started them."""

    name: str

    def __init__(self, settings: Settings) -> None:
        self._records = Records(settings.state / "sandboxes", self.name)
        self._settings = settings
        self._jobs = dict[str, Running]()

    @abstractmethod
    def _start(self, job: Job) -> Running:
        """Start a job whose name is free."""

    @abstractmethod
    def _ended(self, ref: str, record: Record) -> None:
        """Take note of a job that has ended by itself; its record holds the exit."""

    @abstractmethod
    def stop(self, ref: str) -> None:
        """End every process of the job and release what it held."""

    def environment(self, image: str, *, report: Callable[[str], None]) -> Environment:
        """Return the virtual environment of an image, installed on first use."""
        return ensure_environment(find_recipe(image, folders(self._settings)), self._settings.cache, report=report)

    def find_environment(self, image: str) -> Environment | None:
        """Return the virtual environment of an image if it is installed."""
        return find_environment(find_recipe(image, folders(self._settings)), self._settings.cache)

    def bare(self) -> Environment:
        """Return the Python that runs this."""
        return bare_environment()

    def start(self, job: Job) -> str:
        """Start a job and return its name; what a dead caller left under this name is ended first."""
        self.stop(job.name)
        with undone_on_failure(lambda: self.stop(job.name)):
            self._jobs[job.name] = self._start(job)
        return job.name

    def adopt(self, job: Job) -> bool:
        """Return False: the kernel ends a job together with its caller."""
        return False

    def tiers(self, ref: str) -> Mapping[str, str]:
        """Return how each resource of a started job is enforced; empty once it is stopped."""
        record = self._records.load(ref)
        return record.tiers if record else {}

    def wait(self, ref: str, timeout_s: float) -> Exit | None:
        """Drain the job's output for at most timeout_s seconds; None while it runs. A job of another process is only polled."""
        own = self._jobs.get(ref)
        if own is None:
            return wait_for_stranger(self._records, ref, timeout_s)
        return own.follow(timeout_s, ended=lambda record: self._ended(ref, record))
