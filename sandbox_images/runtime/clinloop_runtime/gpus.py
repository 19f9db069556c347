"""Start a command only if exactly the leased GPUs are here: python -I -S gpus.py [--among] --expect UUID,UUID -- COMMAND …

Runs inside the sandbox before any submitted code, as `python -I -S` by its path, so that no file of a workspace is imported. Two witnesses:
NVML tells which devices the sandbox can reach (none more, unless --among says that it is not isolated), CUDA which ones a program will
compute on. Container engines exist that ignore a request for GPUs without a word; the run would silently train on the CPU.
Without a command it only checks. Python's standard library only.
"""

from __future__ import annotations

import ctypes
import os
import sys

MISMATCH = 87
"""Exit status when the devices are not the expected ones; the reason is on standard error."""
_MIG_ENABLED = 1
_NOT_FOUND = 6
_UUID_CHARS = 96


class _WrongError(Exception):
    """What is seen is not what was leased."""


class _Uuid(ctypes.Structure):
    _fields_ = (("bytes", ctypes.c_ubyte * 16),)


def reachable() -> list[str]:
    """Return the UUIDs of the devices that NVML can open here; of a split GPU, those of its parts."""
    nvml = _load("libnvidia-ml.so.1")
    _check("nvmlInit_v2", nvml.nvmlInit_v2())
    count = ctypes.c_uint()
    _check("nvmlDeviceGetCount_v2", nvml.nvmlDeviceGetCount_v2(ctypes.byref(count)))
    found: list[str] = []
    for index in range(count.value):
        device = ctypes.c_void_p()
        _check(
            "nvmlDeviceGetHandleByIndex_v2",
            nvml.nvmlDeviceGetHandleByIndex_v2(ctypes.c_uint(index), ctypes.byref(device)),
        )
        found += _parts(nvml, device) or [_uuid(nvml, device)]
    nvml.nvmlShutdown()
    return found


def _parts(nvml: ctypes.CDLL, device: ctypes.c_void_p) -> list[str]:
    current, pending, most = ctypes.c_uint(), ctypes.c_uint(), ctypes.c_uint()
    if nvml.nvmlDeviceGetMigMode(device, ctypes.byref(current), ctypes.byref(pending)) or current.value != _MIG_ENABLED:
        return []
    _check("nvmlDeviceGetMaxMigDeviceCount", nvml.nvmlDeviceGetMaxMigDeviceCount(device, ctypes.byref(most)))
    found: list[str] = []
    for slot in range(most.value):
        part = ctypes.c_void_p()
        result = nvml.nvmlDeviceGetMigDeviceHandleByIndex(device, ctypes.c_uint(slot), ctypes.byref(part))
        if result != _NOT_FOUND:
            _check("nvmlDeviceGetMigDeviceHandleByIndex", result)
            found.append(_uuid(nvml, part))
    return found


def _uuid(nvml: ctypes.CDLL, device: ctypes.c_void_p) -> str:
    text = ctypes.create_string_buffer(_UUID_CHARS)
    _check("nvmlDeviceGetUUID", nvml.nvmlDeviceGetUUID(device, text, ctypes.c_uint(_UUID_CHARS)))
    return text.value.decode()


def usable() -> list[str]:
    """Return the UUIDs, without their prefix, of the devices that CUDA will compute on."""
    cuda = _load("libcuda.so.1")
    _check("cuInit", cuda.cuInit(ctypes.c_uint(0)))
    count = ctypes.c_int()
    _check("cuDeviceGetCount", cuda.cuDeviceGetCount(ctypes.byref(count)))
    get_uuid = getattr(cuda, "cuDeviceGetUuid_v2", None) or cuda.cuDeviceGetUuid  # _v2 also knows MIG devices
    found: list[str] = []
    for index in range(count.value):
        device, uuid = ctypes.c_int(), _Uuid()
        _check("cuDeviceGet", cuda.cuDeviceGet(ctypes.byref(device), ctypes.c_int(index)))
        _check("cuDeviceGetUuid", get_uuid(ctypes.byref(uuid), device))
        found.append(bytes(uuid.bytes).hex())
    return found


def check(expected: list[str], *, among: bool) -> None:
    """Compare with both witnesses.

    Raises:
        _WrongError: a device is missing or one too many; the text says which.
    """
    seen = reachable()
    missing = [uuid for uuid in expected if uuid not in seen]
    extra = [] if among else [uuid for uuid in seen if uuid not in expected]
    if missing or extra:
        raise _WrongError(f"leased are {_list(expected)}, but the driver shows {_list(seen)}")
    if sorted(usable()) != sorted(_bare(uuid) for uuid in expected):
        raise _WrongError(f"leased are {_list(expected)}, but CUDA can use {len(usable())} devices, not these")


def _bare(uuid: str) -> str:
    return uuid.partition("-")[2].replace("-", "").lower()


def _list(uuids: list[str]) -> str:
    return ", ".join(uuids) or "none"


def _load(name: str) -> ctypes.CDLL:
    try:
        return ctypes.CDLL(name)
    except OSError as error:
        raise _WrongError(f"the library {name} of the NVIDIA driver is not here") from error


def _check(call: str, result: int) -> None:
    if result != 0:
        raise _WrongError(f"{call} failed with code {result}")


def main(arguments: list[str]) -> None:
    """Check, then become the command."""
    at = arguments.index("--") if "--" in arguments else len(arguments)
    options, command = arguments[:at], arguments[at + 1 :]
    try:
        check(options[options.index("--expect") + 1].split(","), among="--among" in options)
    except Exception as error:
        sys.stderr.write(f"clinloop: no run without its GPUs: {error}\n")
        sys.exit(MISMATCH)
    if command:
        os.execvp(command[0], command)  # noqa: S606 - becoming the command is its purpose


if __name__ == "__main__":
    main(sys.argv[1:])
