"""Where a request comes from: this machine and which user of it, another machine, or something that a proxy does not tell."""

from __future__ import annotations

import ipaddress
import pwd
import socket
import time
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, NamedTuple

from starlette.datastructures import Headers
from starlette.types import Scope

from clinloop.access import UNKNOWN, Client, user_client
from clinloop.guarantee import Connection
from clinloop.settings import Settings
from clinloop.web.socket_owner import Address, owner

WIRE = "clinloop.wire"
"""Where a connection carries what was found out when it was opened (state of the ASGI scope)."""
_FORWARDING = ("x-forwarded-for", "forwarded", "x-real-ip", "x-forwarded-host", "x-forwarded-proto", "via")
_OVERFLOW_UID = 65_534
"""What the kernel shows for a user that has no number in this user namespace."""
_CLIENT_S = 30.0
"""Seconds for which the groups of a user are kept."""


class Wire(NamedTuple):
    """What is known of a TCP connection."""

    uid: int | None
    """User of the socket at the other end, on this machine; None = not found."""
    is_own: bool
    """The address at the other end is one of this machine."""


class Peer(NamedTuple):
    """Who is at the other end of a request."""

    connection: Connection
    client: Client
    address: str
    """For limits and the log."""
    is_direct: bool = True
    """Nothing stands between this server and the client."""
    is_https: bool = False
    """The proxy says that it was reached over TLS."""


def wire(client: tuple[str, int] | None, server: tuple[str, int | None] | None) -> Wire:
    """Ask the kernel about a connection; while it is open, its other end has one owner."""
    if client is None or server is None or server[1] is None:
        return Wire(None, is_own=False)
    address = _address(client[0])
    own = _address(server[0])
    if address is None or own is None:
        return Wire(None, is_own=False)
    if not is_own(address):
        return Wire(None, is_own=False)
    return Wire(owner((address, client[1]), (own, server[1])), is_own=True)


def peer(scope: Scope, settings: Settings) -> Peer:
    """Return who sends a request; X-Forwarded-For counts only on a connection of the reverse proxy's user."""
    client: tuple[str, int] | None = scope.get("client")
    state: Mapping[str, Any] = scope.get("state", {})
    found = state.get(WIRE) or wire(client, scope.get("server"))
    address = client[0] if client else "unknown"
    headers = Headers(scope=scope)
    forwarded = any(name in headers for name in _FORWARDING)
    if found.is_own and found.uid is not None and found.uid == _uid_of(settings.proxy_user):
        said = _address(",".join(headers.getlist("x-forwarded-for")).rpartition(",")[2].strip())
        is_https = headers.get("x-forwarded-proto", "").strip().lower() == "https"
        if said is None or is_own(said):
            return Peer("http", UNKNOWN, str(said or address), is_direct=False, is_https=is_https)
        return Peer("remote", UNKNOWN, str(said), is_direct=False, is_https=is_https)
    if forwarded:
        return Peer("http", UNKNOWN, address, is_direct=False)
    if not found.is_own:
        return Peer("remote", UNKNOWN, address)
    if found.uid is None or found.uid == _OVERFLOW_UID:
        return Peer("http", UNKNOWN, address)
    return Peer("http", _client(found.uid, int(time.monotonic() / _CLIENT_S)), address)


def is_own(address: Address) -> bool:
    """Tell whether an address is one of this machine's: only those can be bound."""
    if address.is_loopback:
        return True
    if address.is_unspecified or address.is_multicast:
        return False
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.bind((str(address), 0))
    except OSError:
        return False
    return True


def _address(text: str) -> Address | None:
    """Return an address without its zone, and IPv4 written as IPv6 as what it is; None for anything else."""
    try:
        found = ipaddress.ip_address(text.partition("%")[0].strip("[]"))
    except ValueError:
        return None
    mapped = found.ipv4_mapped if isinstance(found, ipaddress.IPv6Address) else None
    return mapped or found


@lru_cache(maxsize=64)
def _client(uid: int, _period: int) -> Client:
    return user_client(uid)


@lru_cache(maxsize=4)
def _uid_of(name: str) -> int | None:
    try:
        return int(name) if name.isdecimal() else pwd.getpwnam(name).pw_uid if name else None
    except KeyError:
        return None
