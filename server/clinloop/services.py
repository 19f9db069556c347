"""What the tools and the command line work with: settings, the store, and the sandbox that was chosen."""

from __future__ import annotations

import os
import secrets
import time
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from clinloop import exposure, guarantee
from clinloop.access import UNKNOWN, Client, own_client
from clinloop.datasets import vault
from clinloop.files import secret_file
from clinloop.guarantee import Connection, Seal, Standing
from clinloop.paths import StateFolder
from clinloop.principal import LOCAL, LOCAL_AGENT, Principal
from clinloop.settings import Settings
from clinloop.store.rows import TaskRow
from clinloop.store.store import Store
from clinloop.store.tokens import RESERVED

_STANDING_S = 10.0
"""Seconds for which a computed level is kept: owners and groups change seldom, tool calls are many."""


@dataclass(frozen=True)
class Services:
    """One server's view of a state folder; any number of servers may share one."""

    settings: Settings
    accept_no_isolation: bool = False
    """The user has accepted that the agent's code can read whatever this user can read."""

    connection: Connection = "stdio"
    """How the client of these services talks to the server."""
    client: Client = field(default_factory=own_client)
    """The user that the client runs as."""
    principal: Principal = LOCAL
    """Who asks, and what it may do."""
    _standings: dict[str, tuple[float, Standing]] = field(
        default_factory=dict[str, tuple[float, Standing]], compare=False, repr=False
    )

    def for_client(self, connection: Connection, client: Client, principal: Principal | None = None) -> Services:
        """Return the same server's services for a client at the other end of a connection."""
        made = replace(self, connection=connection, client=client, principal=principal or self.principal, _standings={})
        made.__dict__.update(store=self.store)
        return made

    def for_principal(self, principal: Principal) -> Services:
        """Return the same services for somebody else."""
        made = replace(self, principal=principal)
        made.__dict__.update(store=self.store)
        return made

    def task(self, task_id: str) -> TaskRow:
        """Return a task that the principal sees.

        Raises:
            Unknown: no such task, or another agent's; the text lists those that it sees.
        """
        return self.store.task(task_id, self.principal)

    def tasks(self) -> list[TaskRow]:
        """Return the tasks that the principal sees, newest first."""
        return [task for task in self.store.tasks() if self.principal.sees(task.owner)]

    def grounds(self, dataset: str = "") -> exposure.Grounds:
        """Return what the client must not reach; without a dataset, the originals of all of them are part of it."""
        folder = self.settings.state / "datasets"
        folders = [folder / dataset] if dataset else sorted(folder.glob("[!.]*"))
        return exposure.Grounds(
            state=self.settings.state,
            cache=self.settings.cache,
            originals=(*self.settings.data_roots, *(path for each in folders for path in vault.originals(each))),
            engine_sockets=tuple(
                dict.fromkeys((self.settings.engine.removeprefix("unix://"), *exposure.ENGINE_SOCKETS))
            ),
            server_uid=os.geteuid(),
        )

    def standing(self, dataset: str = "") -> Standing:
        """Return the guarantee level of this connection, for a dataset or, without one, for an unsealed one; kept for some seconds."""
        until, kept = self._standings.get(dataset, (0.0, None))
        if kept is None or until < time.monotonic():
            kept = self._standing(dataset)
            self._standings[dataset] = (time.monotonic() + _STANDING_S, kept)
        return kept

    def _standing(self, dataset: str) -> Standing:
        if self.connection == "remote" and self.settings.remote_agents:
            return guarantee.standing("remote", (), self.seal(dataset))
        if self.connection == "remote" or self.client == UNKNOWN:
            return guarantee.not_established(self.connection, self.seal(dataset))
        findings = exposure.compute(self.client, self.grounds(dataset))
        return guarantee.standing(self.connection, findings, self.seal(dataset))

    def seal(self, dataset: str) -> Seal:
        """Return what is known of a dataset's seal."""
        folder = self.settings.state / "datasets" / dataset
        if not dataset or not folder.is_dir():
            return Seal()
        try:
            found = vault.seal_state(folder)
        except OSError:  # what is not known is not claimed
            return Seal()
        return Seal(found.is_sealed, found.originals_readable)

    def record_standing(self, task: TaskRow) -> None:
        """Write the level of this connection into the ledger of a task, unless the newest entry says the same.

        What a clinician or custodian could reach says nothing about the agent, so it is not written.
        """
        if not self.principal.may("agent"):
            return
        event = self.standing(task.dataset).as_event(self.connection)
        recorded = [row.detail for row in self.store.ledger(f"task:{task.id}") if row.event == "guarantee"]
        if recorded[-1:] != [event]:
            self.store.record(f"task:{task.id}", "guarantee", event)

    @cached_property
    def store(self) -> Store:
        """The store of the state folder."""
        return Store(self.settings.state)

    @property
    def state(self) -> StateFolder:
        """Paths of the state folder."""
        return StateFolder(self.settings.state)

    @cached_property
    def key(self) -> bytes:
        """Secret of this instance, made at first use."""
        return secret_file(self.state.key, lambda: secrets.token_bytes(32))

    @property
    def launch_settings(self) -> dict[str, Any]:
        """What a supervisor needs to know of this server."""
        return {"settings": self.settings.model_dump(mode="json"), "accept_no_isolation": self.accept_no_isolation}


def local_agent(client: Client) -> Principal:
    """Return the agent at a connection without a token: each user of this machine by itself, and root and the server's own user as whoever
    may write the state folder anyway."""
    if client.uid in (0, os.geteuid()):
        return LOCAL_AGENT
    return Principal(f"{RESERVED}{client.name}", LOCAL_AGENT.roles)
