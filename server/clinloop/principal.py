"""Who asks: a name and what it may do."""

from __future__ import annotations

from typing import Literal, NamedTuple

from clinloop.errors import Forbidden

Role = Literal["agent", "clinician", "custodian"]
ROLES: tuple[Role, ...] = ("agent", "clinician", "custodian")
_ARTICLES = {"agent": "an agent", "clinician": "a clinician", "custodian": "a custodian"}


class Principal(NamedTuple):
    """A person or an agent."""

    name: str = ""
    """Empty for clients without a token: whoever can use the state folder, on standard input and output or at the command line."""
    roles: frozenset[Role] = frozenset(ROLES)

    @property
    def label(self) -> str:
        """The name as the ledger and notes state it."""
        return self.name or "local user"

    def may(self, *roles: Role) -> bool:
        """Tell whether it has one of these roles."""
        return not self.roles.isdisjoint(roles)

    def require(self, *roles: Role, what: str) -> None:
        """Refuse what needs one of these roles.

        Raises:
            Forbidden: it has none of them.
        """
        if not self.may(*roles):
            own = ", ".join(role for role in ROLES if role in self.roles) or "none"
            raise Forbidden(f"Only {' or '.join(_ARTICLES[role] for role in roles)} may {what}; your role: {own}.")

    def sees(self, owner: str) -> bool:
        """Tell whether tasks of an owner are shown to it: an agent with a token sees its own only."""
        return not self.name or owner == self.name or self.may("clinician", "custodian")


LOCAL = Principal()
"""The command line: whoever may write the state folder."""
LOCAL_AGENT = Principal(roles=frozenset[Role](["agent"]))
"""A client without a token."""
