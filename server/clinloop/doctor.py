"""`clinloop doctor`: what is installed, which sandbox will be used, what is enforced how, and what may be claimed."""

from __future__ import annotations

import json
import os
import platform
import shutil
from collections import Counter
from collections.abc import Iterator, Mapping
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
from clinloop.guarantee import Connection, Finding, Standing
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


class Row(NamedTuple):
    """One line of what is installed; a name that begins with spaces belongs to the line above."""

    what: str
    finding: str
    problem: bool = False
    """Training runs cannot start because of it."""


class Claim(NamedTuple):
    """What may be claimed about the test set of one dataset, where that is not what holds for all."""

    dataset: str
    text: str
    warnings: tuple[str, ...]
    """What the custodian still has to do about its seal."""


class Examination(NamedTuple):
    """Everything that is to be said; the terminal and the page show the same."""

    rows: tuple[Row, ...]
    tried: Tried
    standing: Standing
    """Of an unsealed dataset."""
    claims: tuple[Claim, ...]

    @property
    def works(self) -> bool:
        """Training runs can start."""
        return not any(row.problem for row in self.rows)

    @property
    def how(self) -> str:
        """How the client is served, in words."""
        return HOW[self.tried.connection]


HOW: Mapping[str, str] = {
    "stdio": "on standard input and output",
    "socket": "over the service's socket",
    "http": "over HTTP from this machine",
    "remote": "over HTTP from another machine",
}
"""How a client is served, in words."""


def find(services: Services, tried: Tried) -> Examination:
    """Return the examination; asks the container engine and the GPUs, so it may take seconds."""
    connection, findings = tried.connection, tried.findings
    standing = guarantee.standing(connection, findings)
    claims: list[Claim] = []
    for name in Dataset.list_names(services.settings.state):
        sealed = guarantee.standing(connection, findings, services.seal(name))
        differs = sealed.reason != standing.reason or sealed.level != standing.level
        warnings = tuple(seal_warnings(Dataset.load(services.settings.state, name).folder))
        if differs or warnings:
            claims.append(Claim(name, sealed.text if differs else "", warnings))
    return Examination(tuple(_rows(services)), tried, standing, tuple(claims))


def _rows(services: Services) -> Iterator[Row]:
    settings = services.settings
    yield Row(
        "clinloop",
        f"{__version__}, Python {platform.python_version()}, {platform.system()} {platform.machine()}, {os.cpu_count()} cores",
    )
    free = shutil.disk_usage(
        settings.state if settings.state.exists() else settings.state.parent if settings.state.parent.exists() else "/"
    ).free
    yield Row("state", f"{settings.state} ({free / 1e9:.0f} GB free)")
    try:
        sandbox, reason = backends.choose(
            settings, image=settings.image or "cpu", accept_no_isolation=services.accept_no_isolation
        )
        probe = sandbox.probe()
        accepted = "" if sandbox.isolates else " (isolates nothing: accepted by you)"
        yield Row("sandbox", f"{sandbox.name}{accepted}: {reason}")
        for resource, tier in probe.tiers.items():
            yield Row(f"  {resource}", tier)
        yield Row("image", _image(sandbox, settings.image or "cpu"))
    except SandboxUnavailable as refusal:
        yield Row("sandbox", f"none: {refusal}", problem=True)
    yield Row("cpu slots", _slots(services))
    for what, finding in _gpus(services):
        yield Row(what, finding)
    yield Row("http", http_line(services))
    yield Row("weights", str(settings.weights) if settings.weights else "none: models start from random weights")
    yield Row("ledger key", f"{services.store.key_fingerprint} (note it elsewhere: clinloop verify --key)")


def examine(services: Services, tried: Tried, out: Console) -> bool:
    """Print the examination; True when training runs can start."""
    found = find(services, tried)
    table = Table("what", "finding", show_header=False, box=None, pad_edge=False)
    for row in found.rows:
        table.add_row(row.what, f"[red]{escape(row.finding)}[/red]" if row.problem else escape(row.finding))
    out.print(table, soft_wrap=False)
    heading = f"\n[bold]What a client reaches[/bold] that runs as {escape(tried.client.name)} and is served {found.how}"
    out.print(heading, highlight=False)
    table = Table("what", "reachable", "found", "to do", box=None, pad_edge=False)
    for finding in tried.findings:
        where = f"{finding.how} ({finding.where})" if finding.where else finding.how
        is_reachable = "[red]yes[/red]" if finding.is_reachable else "no"
        table.add_row(finding.what, is_reachable, escape(where), finding.fix)
    out.print(table)
    level = found.standing.level
    out.print(f"\n[bold]Guarantee {level.code} {level.name}[/bold]: ", end="", highlight=False)
    out.print(f"{level.meaning} {found.standing.reason}", highlight=False)
    for claim in found.claims:
        if claim.text:
            out.print(f"Dataset {claim.dataset}: {escape(claim.text)}", highlight=False)
        for line in claim.warnings:
            out.print(f"  {line}", style="yellow", highlight=False, markup=False, soft_wrap=True)
    return found.works


def _slots(services: Services) -> str:
    """Say how many runs without GPUs train at once, and how many do and wait now."""
    number = services.settings.slots
    why = "" if services.settings.runs_at_once else f" (cores / limits.cpus = {services.settings.limits.cpus:g})"
    found = [row for row in services.store.line() if row.lane != "gpu"]
    taken = sum(bool(row.units) for row in found)
    return f"{number} for runs and {number} for smoke tests{why}; {taken} taken, {len(found) - taken} waiting"


def _gpus(services: Services) -> list[tuple[str, str]]:
    """Return the rows about GPUs: how many a run gets, then each with who has it."""
    found = gpus.find(services.settings)
    if not found.gpus:
        return [("gpus", f"none: {found.problem}")]
    leased = services.store.leased_units()
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
