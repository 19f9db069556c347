"""`clinloop doctor`: what is installed, which sandbox will be used, what is enforced how, and what may be claimed."""

from __future__ import annotations

import os
import platform
import shutil

from rich.console import Console
from rich.table import Table

from clinloop import __version__, guarantee
from clinloop.errors import SandboxUnavailable
from clinloop.sandbox import backends
from clinloop.sandbox.base import Sandbox
from clinloop.services import Services


def examine(services: Services, out: Console) -> bool:
    """Print the examination; True when training runs can start."""
    settings = services.settings
    table = Table("what", "finding", show_header=False, box=None, pad_edge=False)
    table.add_row(
        "clinloop",
        f"{__version__}, Python {platform.python_version()}, {platform.system()} {platform.machine()}, {os.cpu_count()} cores",
    )
    free = shutil.disk_usage(
        settings.state if settings.state.exists() else settings.state.parent if settings.state.parent.exists() else "/"
    ).free
    table.add_row("state", f"{settings.state} ({free / 1e9:.0f} GB free)")
    works = True
    try:
        sandbox, reason = backends.choose(
            settings, image=settings.image or "cpu", accept_no_isolation=services.accept_no_isolation
        )
        probe = sandbox.probe()
        table.add_row(
            "sandbox",
            f"{sandbox.name}" + ("" if sandbox.isolates else " (isolates nothing: accepted by you)") + f": {reason}",
        )
        for resource, tier in probe.tiers.items():
            table.add_row(f"  {resource}", tier)
        table.add_row("image", _image(sandbox, settings.image or "cpu"))
    except SandboxUnavailable as refusal:
        works = False
        table.add_row("sandbox", f"[red]none:[/red] {refusal}")
    table.add_row("weights", str(settings.weights) if settings.weights else "none: models start from random weights")
    table.add_row("ledger key", f"{services.store.key_fingerprint} (note it elsewhere: clinloop verify --key)")
    level = guarantee.level()
    table.add_row("guarantee", f"[bold]{level.code} {level.name}[/bold]: {level.meaning}")
    out.print(table, soft_wrap=False)
    return works


def _image(sandbox: Sandbox, image: str) -> str:
    environment = sandbox.find_environment(image)
    if environment is None:
        return f"{image}: not built yet; the first run builds it (a few GB are downloaded once)"
    shown = ", ".join(
        f"{name} {version}"
        for name, version in environment.packages.items()
        if name in ("torch", "torchvision", "timm", "numpy")
    )
    return f"{image} {environment.digest[:12]}: {shown or f'{len(environment.packages)} packages'}"
