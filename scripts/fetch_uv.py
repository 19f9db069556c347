"""Put uv into a private folder: with pip if there is one, else from the wheel on the package index, checked by its hash."""

from __future__ import annotations

import hashlib
import io
import json
import platform
import subprocess
import sys
import urllib.request
import zipfile
from pathlib import Path
from urllib.parse import urljoin

INDEX = "https://pypi.org/pypi/uv/json"


def main(target: Path) -> None:
    """Leave an executable at target/bin/uv."""
    binary = target / "bin" / "uv"
    binary.parent.mkdir(parents=True, exist_ok=True)
    pip = subprocess.run([sys.executable, "-m", "pip", "--version"], capture_output=True, check=False)
    if pip.returncode == 0:
        command = [
            sys.executable,
            "-m",
            "pip",
            "install",
            "--quiet",
            "--disable-pip-version-check",
            "--target",
            str(target / "lib"),
            "uv",
        ]
        if subprocess.run(command, check=False).returncode == 0 and (target / "lib" / "bin" / "uv").exists():
            binary.unlink(missing_ok=True)
            binary.symlink_to(target / "lib" / "bin" / "uv")
            return
    machine = platform.machine()
    with urllib.request.urlopen(INDEX, timeout=60) as reply:
        files = json.load(reply)["urls"]
    wheel = next(
        file
        for file in files
        if f"manylinux_2_17_{machine}" in file["filename"] or f"manylinux2014_{machine}" in file["filename"]
    )
    with urllib.request.urlopen(urljoin(INDEX, wheel["url"]), timeout=300) as reply:
        content = reply.read()
    if hashlib.sha256(content).hexdigest() != wheel["digests"]["sha256"]:
        raise SystemExit("the uv wheel does not have the hash that the index states")
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        name = next(name for name in archive.namelist() if name.endswith("/scripts/uv"))
        binary.write_bytes(archive.read(name))
    binary.chmod(0o755)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
