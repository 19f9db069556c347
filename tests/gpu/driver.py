"""A fake NVIDIA driver: driver.c compiled as libnvidia-ml.so.1 and libcuda.so.1, with devices that a test describes in a file.

The real pynvml and the real check inside of a sandbox load it. Supervisors get it by starting a wrapper in the place of Python, because they
inherit no environment.
"""

from __future__ import annotations

import ctypes
import shutil
import subprocess
import sys
from pathlib import Path

import pynvml
import pytest

HERE = Path(__file__).parent
WRAPPER = """#!/bin/sh
# Stands in for Python where supervisors are started: they find the fake driver, and so do the jobs that they start.
[ "$3" = clinloop.supervisor ] || exec {python} "$@"
shift 2
LD_LIBRARY_PATH={libraries} exec {python} -I {supervisor} "$@"
"""


def uuid(number: int, kind: str = "GPU") -> str:
    """Return the UUID of a made-up device."""
    return f"{kind}-{number:08x}-aaaa-bbbb-cccc-0123456789ab"


class Driver:
    """The libraries, and the devices that they tell."""

    def __init__(self, folder: Path) -> None:
        self.libraries = folder / "libraries"
        self.libraries.mkdir()
        self._devices = folder / "devices.txt"
        library = self.libraries / "libnvidia-ml.so.1"
        define = f'-DDEVICES="{self._devices}"'
        subprocess.run(
            ["cc", "-shared", "-fPIC", "-O1", define, "-o", str(library), str(HERE / "driver.c")], check=True
        )
        shutil.copy(library, self.libraries / "libcuda.so.1")
        self.python = folder / "python"
        self.python.write_text(
            WRAPPER.format(libraries=self.libraries, python=sys.executable, supervisor=HERE / "supervise.py"),
            encoding="utf-8",
        )
        self.python.chmod(0o755)

    def has(self, *lines: str) -> None:
        """Describe the devices: gpu(...) and mig(...)."""
        partial = self._devices.with_suffix(".partial")
        partial.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
        partial.replace(self._devices)

    def unload(self) -> None:
        """Have no driver."""
        self._devices.unlink()

    def load(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Let pynvml in this process use it, for one test."""
        monkeypatch.setattr(pynvml, "nvmlLib", ctypes.CDLL(str(self.libraries / "libnvidia-ml.so.1")))
        monkeypatch.setattr(pynvml, "_nvmlGetFunctionPointer_cache", {})


def gpu(number: int, *, pids: str = "-", used: int = 0, name: str = "NVIDIA Fake 80GB") -> str:
    """Return the line of a whole GPU."""
    return f"gpu {uuid(number)} {number} {80 << 30} {used} {pids} {name}"


def mig(number: int, *, instance: int = 1, compute: int = 0, pids: str = "-") -> str:
    """Return the line of a part of the GPU before it."""
    return f"mig {uuid(number, 'MIG')} {instance} {compute} {pids}"
