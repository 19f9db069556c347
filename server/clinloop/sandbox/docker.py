"""The Docker backend: jobs are containers of an engine on this machine. They outlive whoever started them and can be adopted."""

from __future__ import annotations

import json
import logging
import os
import platform
import socket
import time
from collections.abc import Callable, Generator, Mapping
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clinloop.errors import SandboxUnavailable
from clinloop.files import write_atomic
from clinloop.sandbox import cgroups, container, linux, seccomp
from clinloop.sandbox.base import Environment, Exit, Job, Mount, Probe
from clinloop.sandbox.images import CONTENT, PYTHON, as_environment, find_image
from clinloop.sandbox.logs import LogFile
from clinloop.sandbox.output import Output, attach
from clinloop.sandbox.records import Record, Records
from clinloop.sandbox.running import KILLED, undone_on_failure
from clinloop.sandbox.sources import SANDBOX_UID, Sources
from clinloop.sandbox.trial import try_out
from clinloop.sandbox.volumes import TIERS, Volume, check_empty, choose_volume
from clinloop.settings import Settings

if TYPE_CHECKING:
    from docker import APIClient

_TIMEOUT_S = 60
_EVERY_S = 0.25
_SETTLE_S = 0.02
_END_S = 10.0
_TRUST_S = 3600
"""How long the trial of an engine is good for."""
_log = logging.getLogger(__name__)


class _Attached:
    """What this process knows of a container whose output it drains."""

    def __init__(self, record: Record, output: Output) -> None:
        self.record, self.output = record, output
        self.memory: Path | None = None
        self.is_out_of_memory = self.is_disk_full = False
        self.next_check = 0.0


class Docker:
    """Runs jobs as containers of Docker >= 20.10, or of an engine that speaks its API and passes the trial."""

    name = "docker"
    isolates = True
    needs_built_image = True

    def __init__(self, settings: Settings) -> None:
        self._settings, self._state = settings, settings.state
        self._records = Records(settings.state / "sandboxes", self.name)
        self._jobs = dict[str, _Attached]()
        self._probe: Probe | None = None
        self._api_version = "auto"
        self._is_root = os.geteuid() == 0

    # what it can do here -----------------------------------------------------------------------------------------

    def probe(self) -> Probe:
        """Run one real container and say what is enforced how; a success is kept on disk for an hour, because it takes half a second."""
        if self._probe is None:
            problem, fix, key = self._find_obstacle()
            tiers: Mapping[str, str] | None = None if problem else self._known(key)
            if not problem and tiers is None:
                problem, tiers = try_out(self, self._state / "probes", image=self.bare().image)
                fix = "See the engine's log; clinloop needs Docker >= 20.10 on this machine." if problem else ""
                if not problem:
                    write_atomic(self._memory, json.dumps({"key": key, "at": time.time(), "tiers": dict(tiers)}))
            self._probe = Probe(not problem, problem, fix, tiers or {})
        return self._probe

    @property
    def _memory(self) -> Path:
        return self._state / "probes" / "docker.json"

    def _known(self, key: str) -> Mapping[str, str] | None:
        """Return what a recent trial on the same engine found."""
        with suppress(OSError, ValueError, KeyError):
            known = json.loads(self._memory.read_text(encoding="utf-8"))
            if known["key"] == key and 0 <= time.time() - known["at"] < _TRUST_S:
                return known["tiers"]
        return None

    def _find_obstacle(self) -> tuple[str, str, str]:
        """Return why no container can run here and what to do about it, or two empty texts; and what identifies the engine."""
        if platform.machine() not in seccomp.ARCHITECTURES:
            return f"There is no system-call filter for {platform.machine()}.", "Use bubblewrap or another machine.", ""
        try:
            with self._engine("asked for its version") as client:
                version: dict[str, Any] = client.version()
            image = self.bare().image
        except SandboxUnavailable as refusal:
            return str(refusal), "", ""
        facts = [version.get(name) for name in ("Version", "ApiVersion", "KernelVersion")]
        return "", "", json.dumps([facts, image, self._settings.engine, os.geteuid()])

    def environment(self, image: str, *, report: Callable[[str], None]) -> Environment:
        """Return the Python of an image; building one is the custodian's."""
        found = self.find_environment(image)
        if found is None:
            raise SandboxUnavailable(
                f"The container image '{image}' is not built on this machine; the custodian builds it with: clinloop images build {image}"
            )
        return found

    def find_environment(self, image: str) -> Environment | None:
        """Return the Python of an image if it is built."""
        with self._engine("asked for an image") as client:
            found = find_image(client, image, self._settings)
        return as_environment(found, self._settings) if found else None

    def bare(self) -> Environment:
        """Return the smallest of our images."""
        with self._engine("asked for images") as client:
            images: list[dict[str, Any]] = client.images(filters={"label": CONTENT})
        if not images:
            raise SandboxUnavailable(
                "The engine has no clinloop image; the custodian builds them with: clinloop images build"
            )
        smallest = min(images, key=lambda found: found["Size"])["Id"]
        return Environment(name="bare", digest=smallest, python=PYTHON, mounts=(), packages={}, image=smallest)

    # the life of a job -------------------------------------------------------------------------------------------

    def start(self, job: Job) -> str:
        """Start a job and return its name; what a dead caller left under this name is ended first, and so is what is long overdue."""
        self.stop(job.name)
        self._reap()
        with undone_on_failure(lambda: self.stop(job.name)):
            self._start(job)
        return job.name

    def _start(self, job: Job) -> None:
        folder = self._records.create(job.name)
        volumes = [
            Volume(
                str(mount.source),
                str(folder / f"{index}.img") if self._is_root else "",
                "loop" if self._is_root else "plain",
                job.limits.out_bytes,
            )
            for index, mount in enumerate(job.mounts)
            if mount.writable
        ]
        for volume in volumes:
            check_empty(Path(volume.source))
        shown = {mount: folder / f"m{index}" for index, mount in enumerate(job.mounts) if not mount.writable}
        record = Record(volumes=volumes, shown=[str(place) for place in shown.values()] if self._is_root else [])
        self._records.save(job.name, record)  # before anything is acquired
        if self._is_root:
            record.volumes = [choose_volume(Path(v.source), Path(v.image), v.cap_bytes, SANDBOX_UID) for v in volumes]
        with self._engine(f"told to start {job.name}") as client:
            record.tiers = self._tiers(client, record)
            self._records.save(job.name, record)
            mounts = self._show(job, shown)
            container.create(client, job, state=self._state, is_root=self._is_root, mounts=mounts, scratch=folder)
            name = container.name_of(self._state, job.name)
            try:
                chunks = self._attach(name)  # before the start, so that nothing is missed
            except OSError:  # Podman attaches to running containers only
                client.start(name)
                chunks = self._attach(name, replay=True)
            self._jobs[job.name] = _Attached(record, Output(chunks, LogFile(job.log, job.limits.log_bytes)))
            client.start(name)  # nothing happens when it runs

    def _show(self, job: Job, shown: Mapping[Mount, Path]) -> list[Mount]:
        """Return the job's mounts as the engine shall bind them: as root, id-mapped read-only mounts that only we can reach."""
        mounts: list[Mount] = []
        with ExitStack() as stack:
            sources = Sources(stack, (self._state, self._settings.cache))
            for mount in job.mounts:
                if mount.writable or not self._is_root:
                    sources.open(mount)
                    mounts.append(mount)
                    continue
                source, place = sources.clone(mount), shown[mount]
                place.mkdir() if source.is_folder else place.touch()
                linux.attach(source.fd, str(place))
                mounts.append(mount._replace(source=place))
        return mounts

    def _tiers(self, client: APIClient, record: Record) -> dict[str, str]:
        facts: dict[str, Any] = client.info()
        by = f"container engine, cgroup v{facts.get('CgroupVersion', '1')}"
        ignored = "best effort: this engine ignores the limit"
        return {
            "memory": by if facts.get("MemoryLimit") else ignored,
            "pids": by if facts.get("PidsLimit", True) else ignored,
            "cpu": by if facts.get("CpuCfsQuota") else ignored,
            "disk": ", ".join(sorted({TIERS[volume.kind] for volume in record.volumes})) or "nothing writable",
            "uid": f"own uid {SANDBOX_UID}" if self._is_root else "the server's uid, without capabilities",
            "network": "none: own network namespace, system-call filter",
        }

    def adopt(self, job: Job) -> bool:
        """Take over the container of a dead caller, running or ended: its log is written anew from what the engine kept.

        True also for one that the caller had removed already: what it wrote waits to be collected by `stop`.
        """
        record = self._records.load(job.name)
        name = container.name_of(self._state, job.name)
        with self._engine(f"asked for {job.name}") as client:
            state = _state_of(client, name)
            if record is None or not record.tiers or (state is not None and state["Status"] == "created"):
                return False
            if job.name not in self._jobs and state is not None and record.exit is None:
                output = Output(self._attach(name, replay=True), LogFile(job.log, job.limits.log_bytes))
                self._jobs[job.name] = _Attached(record, output)
        return True

    def tiers(self, ref: str) -> Mapping[str, str]:
        """Return how each resource of a started job is enforced; empty once it is stopped."""
        record = self._records.load(ref)
        return record.tiers if record else {}

    def wait(self, ref: str, timeout_s: float) -> Exit | None:
        """Watch a job for at most timeout_s seconds; None while it runs."""
        deadline, own = time.monotonic() + timeout_s, self._jobs.get(ref)
        if own is not None and own.record.exit is not None:
            return own.record.exit
        name = container.name_of(self._state, ref)
        while True:
            record = self._records.load(ref)
            if record is None or record.exit is not None:
                return record.exit if record else Exit(KILLED)
            with self._engine(f"asked for {ref}") as client:
                state = _state_of(client, name)
                if state is None:
                    return Exit(KILLED)
                if own is not None:
                    self._check(client, name, own, state)
            if not state["Running"] and state["Status"] != "created":
                return self._end(ref, own, record, state)
            left = deadline - time.monotonic()
            if left <= 0:
                return None
            if own is None or own.output.ended.wait(min(left, _EVERY_S)):
                time.sleep(min(left, _SETTLE_S if own else _EVERY_S))

    def _check(self, client: APIClient, name: str, own: _Attached, state: Mapping[str, Any]) -> None:
        """Look at disk and memory; a job that fills a folder that no kernel caps is killed."""
        if time.monotonic() < own.next_check and state["Running"]:
            return
        own.next_check = time.monotonic() + _EVERY_S
        if own.memory is None and state["Running"]:
            own.memory = cgroups.memory_group_of(int(state["Pid"]))
        own.is_out_of_memory = own.is_out_of_memory or bool(own.memory and cgroups.count_oom_kills(own.memory))
        own.is_disk_full = own.is_disk_full or any(volume.is_full() for volume in own.record.volumes)
        if own.is_disk_full and state["Running"] and any(volume.kind == "plain" for volume in own.record.volumes):
            _kill(client, name)

    def _end(self, ref: str, own: _Attached | None, record: Record, state: Mapping[str, Any]) -> Exit:
        is_full = any(volume.is_full() for volume in record.volumes) or bool(own and own.is_disk_full)
        killed = bool(state["OOMKilled"]) or bool(own and own.is_out_of_memory)
        record.exit = Exit(int(state["ExitCode"]), killed, is_full)
        if own is not None:
            own.record.exit = record.exit
            own.output.close()
        self._records.save_end(ref, record)
        return record.exit

    def stop(self, ref: str) -> None:
        """End the container of the job and remove it; its writable folders are plain folders of ours afterwards."""
        own = self._jobs.pop(ref, None)
        if self._records.load(ref) is not None:
            self._records.release(ref, end=lambda: self._remove(container.name_of(self._state, ref)))
        if own is not None:
            own.output.close()

    def _remove(self, name: str) -> bool:
        """Kill and remove a container; return whether it is gone."""
        deadline = time.monotonic() + _END_S
        with self._engine("told to remove a container") as client:
            while (state := _state_of(client, name)) is not None:
                if state["Running"]:
                    _kill(client, name)
                with suppress(*_api_errors()):
                    client.remove_container(name, v=True, force=True)
                    return True
                if time.monotonic() > deadline:
                    return False
                time.sleep(_SETTLE_S)
        return True

    def _reap(self) -> None:
        """Remove containers of this state folder that are long past their deadline: nobody waits for them any more."""
        with self._engine("asked for containers") as client:
            label = f"{container.INSTANCE}={container.instance_of(self._state)}"
            found: list[dict[str, Any]] = client.containers(all=True, filters={"label": label})
        for each in found:
            if container.is_overdue(each["Labels"]):
                _log.warning("removing %s, which is overdue", each["Labels"].get(container.JOB))
                self.stop(each["Labels"][container.JOB])
                self._remove(each["Id"])

    # the engine --------------------------------------------------------------------------------------------------

    def _connect(self) -> APIClient:
        from docker import APIClient

        _knock(Path(self._settings.engine.removeprefix("unix://")))
        client = APIClient(base_url=self._settings.engine, timeout=_TIMEOUT_S, version=self._api_version)
        self._api_version = client.api_version  # asked for once
        return client

    def _attach(self, name: str, *, replay: bool = False) -> Generator[bytes]:
        return attach(self._settings.engine, self._api_version, name, replay=replay)

    @contextmanager
    def _engine(self, what: str) -> Generator[APIClient]:
        """Yield the client; what the engine objects to becomes a refusal without host paths.

        Raises:
            SandboxUnavailable: no engine answers, or it refuses; the text says which and what to do.
        """
        import requests
        from docker.errors import APIError, DockerException

        try:
            with closing(self._connect()) as client:
                yield client
        except APIError as error:
            _log.warning("the container engine was %s: %s", what, str(error.explanation)[:1000])
            reason = " ".join(word for word in str(error.explanation).split() if "/" not in word)[:300]
            raise SandboxUnavailable(
                f"The container engine refused ({error.status_code}): {reason}.{_hint(reason)}"
            ) from error
        except (DockerException, requests.RequestException) as error:
            raise SandboxUnavailable("The container engine does not answer; see its log, or use bubblewrap.") from error


def _knock(path: Path) -> None:
    """Raise SandboxUnavailable where no engine listens, or not for this user."""
    with socket.socket(socket.AF_UNIX) as knock:
        try:
            knock.connect(str(path))
        except PermissionError as error:
            raise SandboxUnavailable(
                "A container engine is there, but this user may not use it. Whoever may is as good as root, so do not add an agent's user: run "
                "clinloop as a service of its own, or use bubblewrap."
            ) from error
        except OSError as error:
            raise SandboxUnavailable(
                "No container engine answers; start Docker (systemctl start docker, or dockerd) or use bubblewrap."
            ) from error


def _hint(reason: str) -> str:
    if "No such image" in reason:
        return " The custodian builds it with: clinloop images build"
    if "could not select device driver" in reason:
        return " Install the NVIDIA container toolkit, then restart the engine."
    return ""


def _api_errors() -> tuple[type[Exception], ...]:
    from docker.errors import APIError

    return (APIError,)


def _state_of(client: APIClient, name: str) -> dict[str, Any] | None:
    from docker.errors import NotFound

    try:
        return client.inspect_container(name)["State"]
    except NotFound:
        return None


def _kill(client: APIClient, name: str) -> None:
    with suppress(*_api_errors()):  # it has ended meanwhile
        client.kill(name)
