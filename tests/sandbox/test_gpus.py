"""GPUs as the driver shows them, their way into a sandbox, and the check inside; the driver is the fake one of tests/gpu."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from dataclasses import replace
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from clinloop import doctor, leases
from clinloop.access import own_client
from clinloop.errors import SandboxUnavailable
from clinloop.resources import resource
from clinloop.sandbox import container, gpu_check, gpus
from clinloop.sandbox.backends import load_backend
from clinloop.sandbox.base import Exit, Job, Mount, Sandbox
from clinloop.sandbox.checks.bench import Bench
from clinloop.services import Services
from clinloop.settings import Limits, Settings, load_settings

from ..gpu.driver import Driver, gpu, mig, uuid

CHECK = resource("sandbox_images") / "runtime" / "clinloop_runtime" / "gpus.py"
MEET = """
import os, torch, torch.distributed as dist
dist.init_process_group("gloo")
number = torch.tensor(dist.get_rank() + 1.0)
dist.all_reduce(number)
os.write(1, f"sum {float(number)}\\n".encode())
dist.destroy_process_group()
"""
COUNT_INTERFACES = "import ctypes; print(ctypes.CDLL(None).getifaddrs(ctypes.byref(ctypes.c_void_p())))"


@pytest.fixture
def settings(tmp_path: Path, driver: Driver, monkeypatch: pytest.MonkeyPatch) -> Settings:
    driver.load(monkeypatch)
    return Settings(state=tmp_path / "state", cache=tmp_path / "cache")


def with_gpus(settings: Settings, **changes: object) -> Settings:
    return settings.model_copy(update=changes)


# what there is -----------------------------------------------------------------------------------------------------


def test_every_gpu_of_the_machine_is_found_with_what_is_on_it(settings: Settings, driver: Driver) -> None:
    driver.has(gpu(0, name="NVIDIA H100 80GB"), gpu(1, pids="12,34", used=5 << 30))
    first, second = gpus.find(settings).gpus
    assert first == gpus.Gpu(uuid(0), "NVIDIA H100 80GB", 80 << 30, 0, (), 0)
    assert (second.uuid, second.used_bytes, second.processes, second.minor) == (uuid(1), 5 << 30, (12, 34), 1)


def test_of_a_split_gpu_the_parts_are_found_and_not_the_whole(settings: Settings, driver: Driver) -> None:
    driver.has(gpu(0), mig(10, instance=1), mig(11, instance=2, pids="7"), gpu(1))
    found = gpus.find(settings).gpus
    assert [each.uuid for each in found] == [uuid(10, "MIG"), uuid(11, "MIG"), uuid(1)]
    assert [each.mig for each in found] == [(1, 0), (2, 0), None]
    assert [each.processes for each in found] == [(), (7,), ()]
    assert (
        gpus.most_per_run(with_gpus(settings, gpus_per_run_max=2), gpus.find(settings)) == 1
    )  # CUDA uses one part only


def test_settings_choose_among_the_gpus_and_name_what_is_missing(settings: Settings, driver: Driver) -> None:
    driver.has(gpu(0), gpu(1))
    found = gpus.find(with_gpus(settings, gpus=(uuid(1), uuid(7))))
    assert found.uuids == (uuid(1),)
    assert found.problem == f"settings.gpus names {uuid(7)}, which the driver does not see."
    assert gpus.find(with_gpus(settings, gpus=())).gpus == ()


def test_a_gpu_that_is_lost_does_not_hide_the_others(settings: Settings, driver: Driver) -> None:
    driver.has(gpu(0).replace(uuid(0), "LOST-0"), gpu(1))
    found = gpus.find(settings)
    assert found.uuids == (uuid(1),)
    assert found.problem == "GPU 0 cannot be used: GPU is lost."


def test_without_a_driver_there_are_no_gpus_and_the_reason_is_told(settings: Settings, driver: Driver) -> None:
    driver.has()
    assert gpus.find(settings) == gpus.Found((), "The NVIDIA driver sees no GPU.")
    driver.unload()
    assert gpus.find(settings).problem == "NVML, the library of the NVIDIA driver, cannot be used: Driver Not Loaded."


@pytest.mark.parametrize(
    ("given", "default", "most"),
    [({}, 1, 1), ({"gpus_per_run": 0}, 0, 0), ({"gpus_per_run_max": 8}, 1, 2), ({"gpus_per_run": 2}, 2, 2)],
)
def test_a_run_gets_what_the_settings_say(
    given: dict[str, int], default: int, most: int, settings: Settings, driver: Driver
) -> None:
    driver.has(gpu(0), gpu(1))
    settings = with_gpus(settings, **given)
    found = gpus.find(settings)
    assert (gpus.per_run(settings, found), gpus.most_per_run(settings, found)) == (default, most)
    driver.has()
    assert gpus.most_per_run(settings, gpus.find(settings)) == 0


def test_the_device_files_are_those_of_the_leased_gpus_alone(
    settings: Settings, driver: Driver, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    driver.has(gpu(0), gpu(3), gpu(4), mig(10, instance=2, compute=1), mig(11, instance=5))
    shared = ["/dev/nvidiactl", "/dev/nvidia-uvm", "/dev/nvidia-uvm-tools"]
    assert [str(file) for file in gpus.device_files(settings, [uuid(3)])] == [*shared, "/dev/nvidia3"]
    for place, minor in {"gi2/access": 30, "gi2/ci1/access": 31, "gi5/access": 50, "gi5/ci0/access": 51}.items():
        file = tmp_path / "gpu4/mig" / place
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"DeviceFileMinor: {minor}\nDeviceFileMode: 292\nDeviceFileModify: 1\n", encoding="ascii")
    monkeypatch.setattr(gpus, "_CAPABILITIES", tmp_path)
    part = [str(file) for file in gpus.device_files(settings, [uuid(10, "MIG")])]
    assert part == [*shared, "/dev/nvidia4", "/dev/nvidia-caps/nvidia-cap30", "/dev/nvidia-caps/nvidia-cap31"]
    with pytest.raises(SandboxUnavailable, match="no longer sees"):
        gpus.device_files(settings, [uuid(9)])


def test_doctor_lists_every_gpu_with_who_has_it(settings: Settings, driver: Driver) -> None:
    driver.has(gpu(0, used=3 << 30), gpu(1, pids="12"))
    shown = StringIO()
    services = Services(with_gpus(settings, gpus_per_run_max=2))
    doctor.examine(services, doctor.Tried(own_client(), "stdio", ()), Console(file=shown, width=200))
    lines = [" ".join(line.split()) for line in shown.getvalue().splitlines()]
    assert "gpus 2; a run gets 1 and may ask for 2." in lines
    assert f"{uuid(0)} NVIDIA Fake 80GB, 3.0 of 80 GiB used, free" in lines
    assert f"{uuid(1)} NVIDIA Fake 80GB, 0.0 of 80 GiB used, in use by other processes" in lines


def test_processes_that_stay_on_a_gpu_are_found_after_its_lease(settings: Settings, driver: Driver) -> None:
    driver.has(gpu(0, pids="12"), gpu(1, pids="13"))
    threading.Timer(1, driver.has, [gpu(0), gpu(1, pids="13")]).start()  # killed, and forgotten a moment later
    assert leases.find_left(settings, [uuid(0)], lambda: ()) == []
    assert leases.find_left(settings, [uuid(1)], lambda: [uuid(1)]) == []  # the next run has it by now


# the check inside --------------------------------------------------------------------------------------------------


def checked(
    driver: Driver, *arguments: str, visible: str | None = None, libraries: bool = True, cwd: Path | None = None
) -> subprocess.CompletedProcess[str]:
    """Run the check as in a sandbox; it ends as `echo started` if it passes."""
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(cwd or "")}
    if libraries:
        environment["LD_LIBRARY_PATH"] = str(driver.libraries)
    if visible is not None:
        environment["CUDA_VISIBLE_DEVICES"] = visible
    command = [sys.executable, "-I", "-S", str(CHECK), *arguments, "--", "echo", "started"]
    return subprocess.run(command, env=environment, cwd=cwd, capture_output=True, text=True, check=False)


def test_the_check_becomes_the_command_when_exactly_the_leased_gpus_are_there(driver: Driver) -> None:
    driver.has(gpu(0), gpu(1))
    done = checked(driver, "--expect", f"{uuid(1)},{uuid(0)}")
    assert (done.returncode, done.stdout) == (0, "started\n"), done.stderr


def test_the_check_knows_parts_of_split_gpus(driver: Driver) -> None:
    driver.has(gpu(0), mig(10))
    assert checked(driver, "--expect", uuid(10, "MIG")).stdout == "started\n"
    assert checked(driver, "--expect", uuid(0)).returncode == gpu_check.MISMATCH


@pytest.mark.parametrize(
    ("devices", "arguments", "visible", "reason"),
    [
        ([gpu(0)], ["--expect", uuid(1)], None, f"leased are {uuid(1)}, but the driver shows {uuid(0)}"),
        ([gpu(0), gpu(1)], ["--expect", uuid(0)], uuid(0), f"the driver shows {uuid(0)}, {uuid(1)}"),
        ([], ["--expect", uuid(0)], None, "the driver shows none"),
        ([gpu(0), gpu(1)], ["--among", "--expect", uuid(0)], None, "CUDA can use 2 devices, not these"),
        ([gpu(0), gpu(1)], ["--among", "--expect", uuid(0)], uuid(1), "CUDA can use 1 devices, not these"),
        ([gpu(0, name="without CUDA")], ["--expect", uuid(0)], uuid(0), "CUDA can use 0 devices, not these"),
    ],
    ids=["another", "one too many", "none", "not narrowed", "narrowed wrongly", "not usable"],
)
def test_the_check_lets_no_code_start_without_exactly_its_gpus(
    devices: list[str], arguments: list[str], visible: str | None, reason: str, driver: Driver
) -> None:
    driver.has(*devices)
    done = checked(driver, *arguments, visible=visible)
    assert (done.returncode, done.stdout) == (gpu_check.MISMATCH, "")
    assert reason in done.stderr


def test_where_nothing_isolates_cuda_is_narrowed_to_the_leased_gpus(driver: Driver) -> None:
    driver.has(gpu(0), gpu(1))
    assert checked(driver, "--among", "--expect", uuid(1), visible=uuid(1)).stdout == "started\n"


def test_a_sandbox_without_the_drivers_libraries_is_found_out(driver: Driver) -> None:
    done = checked(driver, "--expect", uuid(0), libraries=False)
    if done.returncode == gpu_check.MISMATCH and "is not here" not in done.stderr:
        pytest.skip("this machine has a real driver")
    assert "the library libnvidia-ml.so.1 of the NVIDIA driver is not here" in done.stderr


def test_no_file_of_a_workspace_takes_part_in_the_check(driver: Driver, tmp_path: Path) -> None:
    for name in ("sitecustomize", "usercustomize", "ctypes", "os"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('planted')", encoding="utf-8")
    driver.has(gpu(1))
    done = checked(driver, "--expect", uuid(0), cwd=tmp_path)
    assert done.returncode == gpu_check.MISMATCH and "planted" not in done.stderr


# into the sandbox --------------------------------------------------------------------------------------------------


def backend(name: str, settings: Settings) -> Sandbox:
    sandbox = load_backend(name, settings)
    if not (probe := sandbox.probe()).usable:
        pytest.skip(f"{name} cannot run here: {probe.problem} {probe.fix}")
    return sandbox


def ask_for_no_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let jobs have GPUs by name only: this machine may have none to give."""
    configure = container._host_config
    monkeypatch.setattr(container, "_host_config", lambda *given: configure(*given) | {"DeviceRequests": None})
    monkeypatch.setattr(gpus, "device_files", lambda *_: [])


def guarded(bench: Bench, *uuids: str) -> Job:
    """Return a guarded job that would print `started`."""
    mounts = (Mount(CHECK.parent.parent, "/runtime"),)
    return gpu_check.guard(replace(bench.job("print('started')", mounts=mounts), gpus=uuids), isolates=True)


@pytest.mark.sandbox
def test_bubblewrap_shows_the_device_files_that_exist_and_lets_several_processes_meet(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = Bench(backend("bubblewrap", settings), tmp_path)
    device = next((path for path in map(Path, ("/dev/fuse", "/dev/loop-control")) if path.is_char_device()), None)
    if device is None:
        pytest.skip("no device file that a sandbox does not have anyway")
    monkeypatch.setattr(gpus, "device_files", lambda *_: [device, Path("/dev/absent")])
    code = f"import os; print(os.stat('{device}').st_rdev, os.path.exists('/dev/absent')); {COUNT_INTERFACES}"
    began = time.monotonic()
    job = replace(bench.job(code), gpus=("GPU-a", "GPU-b"))
    bench.sandbox.start(job)
    assert bench.finish(job, began).log.split() == [str(device.stat().st_rdev), "False", "0"]
    assert bench.run(f"import os; print(os.path.exists('{device}')); {COUNT_INTERFACES}").log.split() == ["False", "-1"]


@pytest.mark.sandbox
@pytest.mark.parametrize("name", ["bubblewrap", "docker"])
def test_a_backend_that_ignores_the_request_for_gpus_is_found_out_before_any_code_starts(
    name: str, settings: Settings, driver: Driver, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sandbox = backend(name, settings)
    bench = Bench(sandbox, tmp_path)
    driver.has(gpu(0))
    create = container.create
    monkeypatch.setattr(
        container, "create", lambda client, job, **given: create(client, replace(job, gpus=()), **given)
    )
    job = guarded(bench, uuid(0))
    began = time.monotonic()
    sandbox.start(job)
    ended = bench.finish(job, began)
    assert ended.exit == Exit(gpu_check.MISMATCH) and "started" not in ended.log
    with pytest.raises(SandboxUnavailable, match="does not have the GPUs that were leased to it"):
        gpu_check.confirm(sandbox, job, mounts=job.mounts[:-1])


@pytest.mark.slow
@pytest.mark.sandbox
@pytest.mark.parametrize("name", ["bubblewrap", "docker"])
def test_processes_that_torchrun_starts_meet_inside_a_sandbox(
    name: str, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sandbox = backend(name, settings.model_copy(update={"cache": load_settings().cache}))
    try:
        python = sandbox.environment("cpu", report=lambda _: None)
    except SandboxUnavailable as refusal:
        pytest.skip(str(refusal))
    ask_for_no_device(monkeypatch)
    bench = Bench(sandbox, tmp_path)
    (tmp_path / "code").mkdir()
    (tmp_path / "code/meet.py").write_text(MEET, encoding="utf-8")
    mounts = (*python.mounts, Mount(tmp_path / "code", "/code"))
    torchrun = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "/code/meet.py")
    limits = Limits(memory_bytes=4 << 30, cpus=2)
    job = bench.job(argv=(python.python, "-u", *torchrun), mounts=mounts, limits=limits)
    began = time.monotonic()
    sandbox.start(replace(job, image=python.image, wall_seconds=120, gpus=("GPU-a", "GPU-b")))
    for _ in range(4):
        if sandbox.wait(job.name, 30) is not None:
            break
    assert bench.finish(job, began).log.count("sum 3.0") == 2


@pytest.mark.sandbox
def test_docker_without_the_container_toolkit_says_what_to_install(settings: Settings, tmp_path: Path) -> None:
    sandbox = backend("docker", settings)
    if Path("/dev/nvidiactl").exists():
        pytest.skip("this machine has a real driver")
    with pytest.raises(SandboxUnavailable, match="Install the NVIDIA container toolkit, then restart the engine"):
        sandbox.start(guarded(Bench(sandbox, tmp_path), uuid(0)))


@pytest.mark.sandbox
def test_a_container_with_several_gpus_may_list_interfaces_and_one_without_may_not(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = Bench(backend("docker", settings), tmp_path)
    assert bench.run(COUNT_INTERFACES).log == "-1\n"
    ask_for_no_device(monkeypatch)
    job = replace(bench.job(COUNT_INTERFACES), gpus=("GPU-a", "GPU-b"))
    began = time.monotonic()
    bench.sandbox.start(job)
    assert bench.finish(job, began).log == "0\n"
