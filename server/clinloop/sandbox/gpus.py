"""Which GPUs this machine has and who computes on them, by NVML; without a driver there are none, with the reason."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

from clinloop.errors import SandboxUnavailable
from clinloop.settings import Settings

_DEVICES = Path("/dev")
_CAPABILITIES = Path("/proc/driver/nvidia/capabilities")
_SHARED_DEVICES = ("nvidiactl", "nvidia-uvm", "nvidia-uvm-tools")
"""Device files that every CUDA process opens; they give no access to a GPU by themselves."""


class Gpu(NamedTuple):
    """One device that can be leased: a GPU, or one MIG device of a GPU that is split."""

    uuid: str
    name: str
    memory_bytes: int
    """0 where it shares the memory of the host."""
    used_bytes: int
    processes: tuple[int, ...]
    """Pids that compute on it, as far as NVML tells; in a container of its own pids it may tell none."""
    minor: int | None
    """Number N of /dev/nvidiaN; None where the driver has no such files (WSL 2)."""
    mig: tuple[int, int] | None = None
    """(GPU instance, compute instance) of a MIG device."""


class Found(NamedTuple):
    """What was found, or why nothing could be."""

    gpus: tuple[Gpu, ...]
    problem: str = ""

    @property
    def uuids(self) -> tuple[str, ...]:
        """The UUIDs, in NVML's order."""
        return tuple(gpu.uuid for gpu in self.gpus)


def find(settings: Settings) -> Found:
    """Return the GPUs that clinloop may use here: all of the machine, or those of `settings.gpus` that exist."""
    import pynvml as nvml  # late: a server must answer its first request within a second

    if settings.gpus == ():
        return Found((), "settings.gpus is empty: clinloop may use none.")
    found: list[Gpu] = []
    problems: list[str] = []
    try:
        with _opened(nvml):
            for index in range(nvml.nvmlDeviceGetCount()):
                try:
                    found += _read(nvml, index)
                except nvml.NVMLError as error:  # one that fell off the bus is no reason to do without the others
                    problems.append(f"GPU {index} cannot be used: {error}.")
    except nvml.NVMLError as error:
        return Found((), f"NVML, the library of the NVIDIA driver, cannot be used: {error}.")
    if settings.gpus is not None:
        by_uuid = {gpu.uuid: gpu for gpu in found}
        missing = [uuid for uuid in settings.gpus if uuid not in by_uuid]
        problems += [f"settings.gpus names {uuid}, which the driver does not see." for uuid in missing]
        found = [by_uuid[uuid] for uuid in dict.fromkeys(settings.gpus) if uuid in by_uuid]
    elif not found and not problems:
        problems.append("The NVIDIA driver sees no GPU.")
    return Found(tuple(found), " ".join(problems))


def per_run(settings: Settings, found: Found) -> int:
    """Return how many GPUs a run gets that asks for no number."""
    return min(1, len(found.gpus)) if settings.gpus_per_run is None else settings.gpus_per_run


def most_per_run(settings: Settings, found: Found) -> int:
    """Return how many GPUs a run may ask for; only one where GPUs are split, because a CUDA program uses one MIG device at a time."""
    most = per_run(settings, found) if settings.gpus_per_run_max is None else settings.gpus_per_run_max
    return min(most, 1 if any(gpu.mig for gpu in found.gpus) else len(found.gpus))


def device_files(settings: Settings, uuids: Sequence[str]) -> list[Path]:
    """Return the device files by which a process reaches exactly these GPUs.

    Raises:
        SandboxUnavailable: one of them is gone.
    """
    found = {gpu.uuid: gpu for gpu in find(settings).gpus}
    if missing := [uuid for uuid in uuids if uuid not in found]:
        raise SandboxUnavailable(f"The NVIDIA driver no longer sees {', '.join(missing)}; see `nvidia-smi -L`.")
    files = [_DEVICES / name for name in _SHARED_DEVICES]
    for gpu in (found[uuid] for uuid in uuids):
        if gpu.minor is not None:
            files.append(_DEVICES / f"nvidia{gpu.minor}")
        if gpu.mig is not None:
            files += [_DEVICES / f"nvidia-caps/nvidia-cap{number}" for number in _capabilities(gpu.minor, *gpu.mig)]
    return list(dict.fromkeys(files))


@contextmanager
def _opened(nvml: Any) -> Generator[None]:
    nvml.nvmlInit()
    try:
        yield
    finally:
        nvml.nvmlShutdown()


def _read(nvml: Any, index: int) -> list[Gpu]:
    """Return the device of an index, or the MIG devices that it is split into: then the whole is nobody's to have."""
    device = nvml.nvmlDeviceGetHandleByIndex(index)
    minor: int | None = None
    with suppress(nvml.NVMLError_NotSupported):
        minor = int(nvml.nvmlDeviceGetMinorNumber(device))
    if not _is_split(nvml, device):
        return [_describe(nvml, device, minor, None)]
    parts: list[Gpu] = []
    for slot in range(nvml.nvmlDeviceGetMaxMigDeviceCount(device)):
        with suppress(nvml.NVMLError_NotFound):  # an empty slot
            part = nvml.nvmlDeviceGetMigDeviceHandleByIndex(device, slot)
            mig = (int(nvml.nvmlDeviceGetGpuInstanceId(part)), int(nvml.nvmlDeviceGetComputeInstanceId(part)))
            parts.append(_describe(nvml, part, minor, mig))
    return parts


def _is_split(nvml: Any, device: Any) -> bool:
    try:
        return nvml.nvmlDeviceGetMigMode(device)[0] == nvml.NVML_DEVICE_MIG_ENABLE
    except nvml.NVMLError:  # a GPU that cannot be split
        return False


def _describe(nvml: Any, device: Any, minor: int | None, mig: tuple[int, int] | None) -> Gpu:
    total = used = 0
    with suppress(nvml.NVMLError_NotSupported):
        memory = nvml.nvmlDeviceGetMemoryInfo(device)
        total, used = int(memory.total), int(memory.used)
    return Gpu(
        uuid=str(nvml.nvmlDeviceGetUUID(device)),
        name=str(nvml.nvmlDeviceGetName(device)),
        memory_bytes=total,
        used_bytes=used,
        processes=tuple(int(process.pid) for process in nvml.nvmlDeviceGetComputeRunningProcesses(device)),
        minor=minor,
        mig=mig,
    )


def _capabilities(minor: int | None, instance: int, compute: int) -> Generator[int]:
    """Yield the numbers of the capability devices that open one MIG device, from the driver's own table."""
    folder = _CAPABILITIES / f"gpu{minor}/mig/gi{instance}"
    for file in (folder / "access", folder / f"ci{compute}/access"):
        for line in file.read_text(encoding="ascii").splitlines():
            if line.startswith("DeviceFileMinor:"):
                yield int(line.partition(":")[2])
