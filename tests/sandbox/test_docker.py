"""What holds for containers beyond the suite: they outlive their caller, are adopted, reaped, and described without host paths."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Generator
from dataclasses import replace
from pathlib import Path
from typing import Any

import docker as docker_py
import pytest

from clinloop.errors import SandboxUnavailable
from clinloop.sandbox import backends, container
from clinloop.sandbox.base import Exit, Job
from clinloop.sandbox.bubblewrap import Bubblewrap
from clinloop.sandbox.checks.bench import SMALL, Bench, is_gone
from clinloop.sandbox.docker import Docker
from clinloop.sandbox.profile import build_profile
from clinloop.sandbox.seccomp import DENIED
from clinloop.settings import Settings

pytestmark = [pytest.mark.sandbox, pytest.mark.docker]

_CALLER = """
import sys, time
from pathlib import Path
from clinloop.sandbox.backends import load_backend
from clinloop.sandbox.checks.bench import Bench
from clinloop.settings import Settings
folder, code, word = Path(sys.argv[1]), sys.argv[2], sys.argv[3]
bench = Bench(load_backend("docker", Settings(state=folder / "state", cache=folder / "cache")), folder)
job = bench.job(argv=(bench.job().argv[0], "-u", "-c", code, word))
bench.sandbox.start(job)
bench.wait_for_log(job, "ready")
print(job.name, job.mounts[-1].source, job.log, flush=True)
time.sleep(600)
"""


def _settings(folder: Path, **given: object) -> Settings:
    return Settings.model_validate({"state": folder / "state", "cache": folder / "cache", **given})


@pytest.fixture
def docker(tmp_path: Path) -> Generator[Docker]:
    sandbox = Docker(_settings(tmp_path))
    if not (probe := sandbox.probe()).usable:
        pytest.skip(f"Docker cannot be used here: {probe.problem} {probe.fix}")
    yield sandbox
    assert _containers(tmp_path) == []
    assert not list((tmp_path / "state" / "sandboxes").iterdir())
    assert str(tmp_path) not in Path("/proc/self/mounts").read_text(encoding="utf-8")


def _containers(folder: Path) -> list[dict[str, Any]]:
    client = docker_py.APIClient()
    try:
        label = f"{container.INSTANCE}={container.instance_of(folder / 'state')}"
        return client.containers(all=True, filters={"label": label})
    finally:
        client.close()


def _abandoned(folder: Path, code: str) -> tuple[Job, Path, str]:
    """Start a job in a process that is then killed; return the job as its adopter describes it, its /out, and a word in its command line."""
    word = f"word-{folder.name}-{os.getpid()}"
    caller = subprocess.Popen(
        [sys.executable, "-c", _CALLER, str(folder), code, word], stdout=subprocess.PIPE, text=True
    )
    with caller:
        assert caller.stdout is not None
        name, out, log = caller.stdout.readline().split()
        caller.send_signal(signal.SIGKILL)
    job = replace(Bench(Docker(_settings(folder)), folder).job(), name=name, log=Path(log))
    return job, Path(out), word


def test_a_job_outlives_its_killed_caller_and_is_adopted_with_its_whole_log(docker: Docker, tmp_path: Path) -> None:
    code = "import time; print('ready'); open('kept', 'w').write('kept'); time.sleep(2); print('later'); raise SystemExit(4)"
    job, out, _ = _abandoned(tmp_path, code)

    assert docker.wait(job.name, 0.05) is None
    assert docker.adopt(job)
    assert docker.wait(job.name, 20) == Exit(4)
    docker.stop(job.name)

    assert job.log.read_text(encoding="utf-8") == "ready\nlater\n"
    assert (out / "kept").read_text(encoding="utf-8") == "kept"


def test_a_job_that_ended_while_nobody_watched_is_harvested(docker: Docker, tmp_path: Path) -> None:
    job, out, word = _abandoned(
        tmp_path, "open('kept', 'w').write('kept'); print('ready'); import time; time.sleep(0.5)"
    )
    assert is_gone(word, within_s=10)

    assert docker.adopt(job)
    assert docker.wait(job.name, 5) == Exit(0)
    docker.stop(job.name)

    assert [path.name for path in out.iterdir()] == ["kept"]
    assert not docker.adopt(job)


def test_a_job_of_a_killed_caller_is_ended_by_whoever_stops_it(docker: Docker, tmp_path: Path) -> None:
    job, _, word = _abandoned(tmp_path, "import time; print('ready'); time.sleep(600)")
    for _ in range(2):
        docker.stop(job.name)
    assert is_gone(word, within_s=0.5)


def test_a_container_that_is_long_overdue_is_removed_with_the_next_start(
    docker: Docker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(container, "OVERDUE_S", -3600)
    forgotten = Bench(docker, tmp_path).job("import time; time.sleep(600)")
    docker.start(forgotten)
    monkeypatch.undo()

    assert Bench(Docker(_settings(tmp_path)), tmp_path).run("pass").exit == Exit(0)

    assert _containers(tmp_path) == []
    docker.stop(forgotten.name)


def test_a_container_survives_a_jump_of_the_clock_past_its_deadline(
    docker: Docker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = Bench(docker, tmp_path).job("import time; time.sleep(600)")
    docker.start(job)
    now = time.time
    monkeypatch.setattr(time, "time", lambda: now() + 86_400)  # the lid was closed for a night

    assert Bench(docker, tmp_path).run("pass").exit == Exit(0)

    assert docker.wait(job.name, 0.1) is None
    docker.stop(job.name)


def test_another_backend_does_not_drop_what_it_cannot_end(docker: Docker, tmp_path: Path) -> None:
    job = Bench(docker, tmp_path).job("import time; time.sleep(600)")
    docker.start(job)
    with pytest.raises(SandboxUnavailable, match="'docker'"):
        Bubblewrap(_settings(tmp_path)).stop(job.name)
    docker.stop(job.name)


def test_stop_by_another_process_ends_a_live_job_for_its_caller(docker: Docker, tmp_path: Path) -> None:
    job = Bench(docker, tmp_path).job("import time; time.sleep(600)")
    docker.start(job)
    Docker(_settings(tmp_path)).stop(job.name)
    assert docker.wait(job.name, 5) == Exit(137)
    docker.stop(job.name)


def test_death_for_lack_of_memory_is_recognised_every_time(docker: Docker, tmp_path: Path) -> None:
    bench = Bench(docker, tmp_path)
    for _ in range(5):
        assert bench.run("held = [b'x' * (32 << 20) for _ in range(20)]").exit == Exit(137, oom_killed=True)


def test_workers_of_a_data_loader_get_their_shared_memory(docker: Docker, tmp_path: Path) -> None:
    code = "open('/dev/shm/batch', 'wb').write(b'x' * (100 << 20)); print('all')"
    limits = SMALL.model_copy(update={"shm_bytes": 128 << 20, "out_bytes": 128 << 20})
    assert Bench(docker, tmp_path).run(code, limits=limits).log == "all\n"


def test_labels_name_instance_job_and_deadline(docker: Docker, tmp_path: Path) -> None:
    job = Bench(docker, tmp_path).job("import time; time.sleep(600)")
    with Bench(docker, tmp_path).running(job):
        (found,) = _containers(tmp_path)
    labels = found["Labels"]
    assert labels[container.JOB] == job.name
    assert time.time() < int(labels[container.DEADLINE]) < time.time() + job.wall_seconds + 300
    assert str(tmp_path) not in json.dumps(labels)


def test_a_gpu_that_the_engine_cannot_give_is_refused_with_the_fix(docker: Docker, tmp_path: Path) -> None:
    if Path("/usr/bin/nvidia-container-runtime").exists():
        pytest.skip("this machine has the NVIDIA container toolkit")
    job = replace(Bench(docker, tmp_path).job("pass"), gpus=("GPU-0000",))
    with pytest.raises(SandboxUnavailable, match="NVIDIA container toolkit"):
        docker.start(job)


def test_an_absent_image_is_refused_with_the_command_that_builds_it(docker: Docker) -> None:
    with pytest.raises(SandboxUnavailable, match="clinloop images build"):
        docker.start(replace(Bench(docker, docker._state.parent).job("pass"), image="clinloop/none:0"))


def test_auto_takes_docker_and_says_why_it_does_not_where_the_engine_is_gone(docker: Docker, tmp_path: Path) -> None:
    image = "minimal"
    assert backends.choose(_settings(tmp_path), image=image).sandbox.name == "docker"
    choice = backends.choose(_settings(tmp_path / "other", engine=f"unix://{tmp_path}/none.sock"), image=image)
    assert choice.sandbox.name == "bubblewrap"
    assert "docker: No container engine answers" in choice.reason and str(tmp_path) not in choice.reason


def test_the_profile_allows_nothing_that_the_other_filter_denies() -> None:
    for machine in ("x86_64", "aarch64"):
        profile = json.loads(build_profile(machine))
        allowed = {name for rule in profile["syscalls"] if rule["action"] == "SCMP_ACT_ALLOW" for name in rule["names"]}
        assert not allowed & set(DENIED)
        assert len(profile["architectures"]) == 1
        assert profile["defaultAction"] == "SCMP_ACT_ERRNO"
