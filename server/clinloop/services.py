"""What the tools and the command line work with: settings, the store, and the sandbox that was chosen."""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from clinloop.files import secret_file
from clinloop.paths import StateFolder
from clinloop.settings import Settings
from clinloop.store.store import Store


@dataclass(frozen=True)
class Services:
    """One server's view of a state folder; any number of servers may share one."""

    settings: Settings
    accept_no_isolation: bool = False
    """The user has accepted that the agent's code can read whatever this user can read."""

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
