"""Runs uv, which resolves and installs the packages of sandbox images."""

from __future__ import annotations

import subprocess
from collections import deque
from collections.abc import Callable
from pathlib import Path

from clinloop.errors import SandboxUnavailable

_NEWS = ("Using CPython", "Resolved", "Downloading", "Prepared", "Installed", "Bytecode")


def run_uv(*argv: str, cwd: Path, report: Callable[[str], None], failed: str, hint: str) -> None:
    """Run uv in a folder; `report` receives its news.

    Raises:
        SandboxUnavailable: uv failed; the text is `failed`, what uv said, and `hint`.
    """
    from uv import find_uv_bin

    # The environment is inherited: proxies, indexes and the cache of uv are the custodian's; cwd keeps a project's settings out.
    # The umask makes the files readable by the sandbox uid.
    with subprocess.Popen(
        [find_uv_bin(), *argv],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        umask=0o022,
        cwd=cwd,
    ) as process:
        assert process.stderr is not None
        last = deque[str](maxlen=8)
        for line in process.stderr:
            if text := line.strip():
                last.append(text)
                if text.startswith(_NEWS):
                    report(text)
        if process.wait() != 0:
            raise SandboxUnavailable(f"{failed} (uv: {' '.join(last)[-400:]}). {hint}")
