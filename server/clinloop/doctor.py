"""`clinloop doctor`: what is installed, which sandbox will be used, what is enforced how, and what may be claimed."""

from __future__ import annotations

import json
import os
import platform
import shutil
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from clinloop import __version__, exposure, guarantee
from clinloop.access import Client, own_client, server_pid
from clinloop.datasets.dataset import Dataset
from clinloop.datasets.sealed import seal_warnings
from clinloop.errors import SandboxUnavailable
from clinloop.guarantee import Connection, Finding
from clinloop.sandbox import backends, gpus
from clinloop.sandbox.base import Sandbox
from clinloop.services import Services


class Tried(NamedTuple):
    """What a client's user was found to reach."""

    client: Client
    connection: Connection
    findings: tuple[Finding, ...]


def attempt(services: Services, client: Client | None, socket: Path) -> Tried:
    """Let a process of the client's user (None: this one's) try to reach what it must not; as root for another user."""
    exposure.hide_memory()  # as the server does
    state = services.settings.state
    grounds = services.grounds()._replace(
        server_uid=state.stat().st_uid if state.exists() else os.geteuid(),
        server_pid=os.getpid() if client is None else server_pid(socket),
        is_thorough=True,
    )
    user = client or own_client()
    return Tried(user, "stdio" if client is None else "socket", exposure.attempt(user, grounds))


def examine(services: Services, tried: Tried, out: Console) -> bool:
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
    for what, finding in _gpus(services):
        table.add_row(what, escape(finding))
    table.add_row("http", escape(http_line(services)))
    table.add_row("weights", str(settings.weights) if settings.weights else "none: models start from random weights")
    table.add_row("ledger key", f"{services.store.key_fingerprint} (note it elsewhere: clinloop verify --key)")
    out.print(table, soft_wrap=False)
    _guarantee(services, tried, out)
    return works


def _guarantee(services: Services, tried: Tried, out: Console) -> None:
    connection, findings = tried.connection, tried.findings
    how = "over the service's socket" if connection == "socket" else "on standard input and output"
    heading = f"\n[bold]What a client reaches[/bold] that runs as {escape(tried.client.name)} and is served {how}"
    out.print(heading, highlight=False)
    table = Table("what", "reachable", "found", "to do", box=None, pad_edge=False)
    for finding in findings:
        found = f"{finding.how} ({finding.where})" if finding.where else finding.how
        is_reachable = "[red]yes[/red]" if finding.is_reachable else "no"
        table.add_row(finding.what, is_reachable, escape(found), finding.fix)
    out.print(table)
    standing = guarantee.standing(connection, findings)
    out.print(f"\n[bold]Guarantee {standing.level.code} {standing.level.name}[/bold]: ", end="", highlight=False)
    out.print(f"{standing.level.meaning} {standing.reason}", highlight=False)
    for name in Dataset.list_names(services.settings.state):
        sealed = guarantee.standing(connection, findings, services.seal(name))
        if sealed.reason != standing.reason or sealed.level != standing.level:
            out.print(f"Dataset {name}: {escape(sealed.text)}", highlight=False)
        for line in seal_warnings(Dataset.load(services.settings.state, name).folder):
            out.print(f"  {line}", style="yellow", highlight=False, markup=False, soft_wrap=True)


def _gpus(services: Services) -> list[tuple[str, str]]:
    """Return the rows about GPUs: how many a run gets, then each with who has it."""
    found = gpus.find(services.settings)
    if not found.gpus:
        return [("gpus", f"none: {found.problem}")]
    leased = services.store.leased_gpus()
    default, most = gpus.per_run(services.settings, found), gpus.most_per_run(services.settings, found)
    rows = [("gpus", f"{len(found.gpus)}; a run gets {default} and may ask for {most}. {found.problem}".rstrip())]
    for gpu in found.gpus:
        holder = leased.get(gpu.uuid)
        state = f"leased to {holder}" if holder else "in use by other processes" if gpu.processes else "free"
        memory = f"{gpu.used_bytes / 2**30:.1f} of {gpu.memory_bytes / 2**30:.0f} GiB used"
        rows.append((f"  {gpu.uuid}", f"{gpu.name}, {memory}, {state}"))
    return rows


def http_line(services: Services) -> str:
    """Return where servers of this state folder listen over HTTP, and who has tokens for them."""
    found: list[str] = []
    for note in sorted(services.state.http.glob("*.json")):
        with suppress(OSError, ValueError, KeyError):  # it ends at this moment, or was killed
            os.kill(int(note.stem), 0)
            said = json.loads(note.read_text(encoding="utf-8"))
            found.append(f"{said['address']} (page {said['page']})")
    valid = Counter(token.role for token in services.store.tokens() if token.state == "valid")
    people = ", ".join(f"{count} {role}" for role, count in sorted(valid.items())) or "none"
    return f"{'; '.join(found) or 'no server listens'}. Valid tokens: {people}. " + (
        "Agents need one." if services.store.had_tokens("agent") else "Programs of this machine need none yet."
    )


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
