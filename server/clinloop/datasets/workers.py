"""A pool of processes that survive bad images and never outlive their parent.

Why not multiprocessing: its spawned workers re-import the main module, inherit the protocol's stdout, share one queue that breaks for
all when a decoder crashes, and stay behind when the parent is killed. These are plain children that read jobs from stdin until it ends.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import pickle
import queue
import signal
import struct
import subprocess
import sys
import threading
from collections.abc import Generator, Iterable, Iterator
from itertools import islice
from typing import IO, Any, Final

from clinloop.datasets.pixels import BadTruth, ImageFacts, PixelJob, PixelStore, StoreSettings, Unreadable

_CHUNK: Final = 8
_SIZE = struct.Struct("<Q")

Outcome = ImageFacts | Unreadable | BadTruth
_Message = tuple[int, Outcome] | BaseException | None


def n_workers() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def store_all(jobs: list[PixelJob], settings: StoreSettings) -> Generator[tuple[int, Outcome], None, None]:
    """Store images in parallel and yield (position in `jobs`, outcome) in the order of completion; at most a few chunks are in memory.

    A job that crashes its worker twice is Unreadable. Closing the generator kills the workers.

    Raises:
        OSError: a worker could not write, for example because the disk is full.
    """
    count = max(1, min(n_workers(), -(-len(jobs) // _CHUNK)))
    source, lock = iter(enumerate(jobs)), threading.Lock()
    results: queue.Queue[_Message] = queue.Queue(maxsize=4 * count * _CHUNK)
    feeders = [_Feeder(source, lock, results, settings) for _ in range(count)]
    try:
        for feeder in feeders:
            feeder.start()
        running = count
        while running:
            match results.get():
                case None:
                    running -= 1
                case BaseException() as error:
                    raise error
                case outcome:
                    yield outcome
    finally:
        for feeder in feeders:
            feeder.kill()
        while any(feeder.is_alive() for feeder in feeders):
            with contextlib.suppress(queue.Empty):  # a feeder that waits for room must not wait for ever
                results.get(timeout=0.02)


class _Feeder(threading.Thread):
    """Feeds one worker process and replaces it when it crashes."""

    def __init__(
        self,
        source: Iterator[tuple[int, PixelJob]],
        lock: threading.Lock,
        results: queue.Queue[_Message],
        settings: StoreSettings,
    ) -> None:
        super().__init__(daemon=True)
        self._source, self._lock, self._results, self._settings = source, lock, results, settings
        self._process: subprocess.Popen[bytes] | None = None
        self._is_killed = False

    def kill(self) -> None:
        """End the worker now."""
        self._is_killed = True
        if (process := self._process) is not None:
            process.kill()

    def run(self) -> None:
        """Feed chunks until there are none."""
        try:
            while not self._is_killed and (chunk := self._next_chunk()):
                for index, outcome in self._store(chunk):
                    self._results.put((index, outcome))
        except Exception as error:
            if not self._is_killed:
                self._results.put(error)
        finally:
            if (process := self._process) is not None:
                self._end_worker(process)
            self._results.put(None)

    def _next_chunk(self) -> list[tuple[int, PixelJob]]:
        with self._lock:
            return list(islice(self._source, _CHUNK))

    def _store(self, chunk: list[tuple[int, PixelJob]]) -> Iterable[tuple[int, Outcome]]:
        """Store a chunk at once; if its worker crashes, store its images one by one to find the one that does it."""
        outcomes = self._ask([job for _, job in chunk])
        if outcomes is None:
            singles = [self._ask([job]) or [Unreadable("the decoder crashed on it")] for _, job in chunk]
            outcomes = [single[0] for single in singles]
        return zip((index for index, _ in chunk), outcomes, strict=True)

    def _ask(self, jobs: list[PixelJob]) -> list[Outcome] | None:
        """Return the outcomes of some jobs, None if the worker crashed."""
        process = self._process = self._process or self._spawn()
        assert process.stdin and process.stdout
        try:
            _send(process.stdin, jobs)
            answer = _receive(process.stdout)
        except (BrokenPipeError, EOFError):
            self._end_worker(process)
            self._process = None
            return None
        if isinstance(answer, BaseException):
            raise answer
        return answer

    def _spawn(self) -> subprocess.Popen[bytes]:
        # -P: the current folder, which may be anybody's, is not on the import path.
        command = [sys.executable, "-P", "-c", "from clinloop.datasets.workers import serve; serve()"]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        assert process.stdin
        try:
            _send(process.stdin, (os.getpid(), self._settings))
        except BrokenPipeError:
            self._end_worker(process)
            raise RuntimeError("an image worker could not be started") from None
        return process

    def _end_worker(self, process: subprocess.Popen[bytes]) -> None:
        assert process.stdin and process.stdout
        with contextlib.suppress(BrokenPipeError):
            process.stdin.close()
        try:
            process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        process.stdout.close()


def serve() -> None:
    """Body of a worker: answer lists of jobs from stdin on stdout until stdin ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    requests, answers = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # a decoder that prints must not corrupt the answers
    parent, settings = _receive(requests)
    _die_with(parent)
    store = PixelStore(settings)
    while True:
        try:
            jobs = _receive(requests)
        except EOFError:
            return
        try:
            answer: object = [store.store(job) for job in jobs]
        except OSError as error:
            answer = OSError(error.errno, error.strerror)
        _send(answers, answer)


def _die_with(parent: int) -> None:
    """Ask the kernel to kill this process when its parent ends, even by SIGKILL in the middle of an image."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
    if os.getppid() != parent:
        sys.exit(0)


def _send(stream: IO[bytes], value: object) -> None:
    data = pickle.dumps(value)
    stream.write(_SIZE.pack(len(data)) + data)
    stream.flush()


def _receive(stream: IO[bytes]) -> Any:
    header = stream.read(_SIZE.size)
    if len(header) < _SIZE.size:
        raise EOFError
    data = stream.read(_SIZE.unpack(header)[0])
    if len(data) < _SIZE.unpack(header)[0]:
        raise EOFError
    return pickle.loads(data)  # noqa: S301  # both ends are this program, over an anonymous pipe
