"""From which user of this machine, or from which other machine, a request comes, and what may be claimed of it."""

from __future__ import annotations

import os
import socket
import subprocess
from collections.abc import Generator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from clinloop.access import UNKNOWN, Client, own_client, running_groups, user_client
from clinloop.services import Services, local_agent
from clinloop.settings import Settings
from clinloop.web import socket_owner
from clinloop.web.peer import WIRE, Peer, Wire, is_own, peer, wire

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="becoming a second user needs root")
B, PROXY = 54_312, 54_313
"""User of a client and of a reverse proxy; numbers without names."""


@contextmanager
def connection(listen: str, to: str, family: int = socket.AF_INET) -> Generator[socket.socket]:
    """Yield the server's end of a connection over TCP."""
    with closing(socket.socket(socket.AF_INET6 if ":" in listen else socket.AF_INET)) as listener:
        listener.bind((listen, 0))
        listener.listen()
        with closing(socket.socket(family)) as client:
            client.connect((to, listener.getsockname()[1]))
            served, _ = listener.accept()
            with closing(served):
                yield served


@pytest.mark.parametrize(
    ("listen", "to", "family"),
    [
        ("127.0.0.1", "127.0.0.1", socket.AF_INET),
        ("127.0.0.1", "::ffff:127.0.0.1", socket.AF_INET6),
        ("::1", "::1", socket.AF_INET6),
        ("127.0.0.2", "127.0.0.2", socket.AF_INET),
    ],
)
def test_the_user_at_the_other_end_is_found(listen: str, to: str, family: int) -> None:
    with connection(listen, to, family) as served:
        found = wire(served.getpeername()[:2], served.getsockname()[:2])
    assert found == Wire(os.geteuid(), is_own=True)
    assert wire(served_end := ("127.0.0.1", 1), ("127.0.0.1", 2)) == Wire(None, is_own=True), served_end


@pytest.mark.parametrize(
    ("listen", "to", "family"),
    [
        ("127.0.0.1", "127.0.0.1", socket.AF_INET),
        ("::1", "::1", socket.AF_INET6),
        ("127.0.0.1", "::ffff:127.0.0.1", socket.AF_INET6),
    ],
)
def test_where_the_kernel_answers_no_question_its_tables_say_the_same(
    listen: str, to: str, family: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(socket_owner, "_NETLINK_SOCK_DIAG", 31)  # a protocol of netlink that no kernel has
    test_the_user_at_the_other_end_is_found(listen, to, family)


@pytest.mark.parametrize("tables", [(), socket_owner.TABLES])
def test_a_listening_or_closed_socket_is_nobodys_end(tables: tuple[Path, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket_owner, "TABLES", tables)
    with closing(socket.create_server(("127.0.0.1", 0))) as listener:
        here = listener.getsockname()
        assert wire(here, ("127.0.0.1", 9)) == Wire(None, is_own=True)
        client = socket.create_connection(here)
        served, there = listener.accept()
        with closing(served):
            assert wire(there, here) == Wire(os.geteuid(), is_own=True)
            served.shutdown(socket.SHUT_WR)
            assert client.recv(1) == b""  # half closed: the client's end is open
            assert wire(there, here) == Wire(os.geteuid(), is_own=True)
            client.close()
            assert wire(there, here) == Wire(None, is_own=True)


@needs_root
def test_another_user_at_the_other_end_is_found_with_the_groups_that_its_processes_have() -> None:
    code = 'exec 3<>"/dev/tcp/127.0.0.1/$0"; cat'
    with closing(socket.create_server(("127.0.0.1", 0))) as listener:
        command = ["bash", "-c", code, str(listener.getsockname()[1])]
        with subprocess.Popen(
            command, user=B, group=B, extra_groups=[54_390], stdin=subprocess.PIPE, cwd="/"
        ) as process:
            served, _ = listener.accept()
            with closing(served):
                assert wire(served.getpeername(), served.getsockname()) == Wire(B, is_own=True)
            assert {B, 54_390} <= user_client(B).groups
            assert process.stdin is not None
            process.stdin.close()
    assert 54_390 not in running_groups(B)


def request(services: Services, *, uid: int | None = B, own: bool = True, **headers: str) -> Peer:
    """Return what is made of a request over a connection of which so much is known."""
    scope: dict[str, Any] = {
        "type": "http",
        "client": ("127.0.0.1" if own else "203.0.113.9", 50_000),
        "server": ("127.0.0.1", 8765),
        "headers": [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()],
        "state": {WIRE: Wire(uid, own)},
    }
    return peer(scope, services.settings)


def with_settings(services: Services, **given: Any) -> Services:
    return Services(Settings.model_validate(services.settings.model_dump() | given), accept_no_isolation=True)


def level(services: Services, found: Peer) -> tuple[str, str]:
    standing = services.for_client(found.connection, found.client).standing("moles")
    return standing.level.code, standing.reason


def test_a_known_user_of_this_machine_gets_the_level_of_what_it_reaches(services: Services) -> None:
    found = request(services, uid=os.geteuid())
    assert (found.connection, found.client.uid) == ("http", os.geteuid())
    assert level(services, found)[0] == "L0"
    other = request(services)
    assert other.client == user_client(B)
    assert "client's user reaches" in level(services, other)[1] or level(services, other)[0] == "L2"


def test_a_user_that_is_not_found_gets_no_more_than_the_server_s_own(services: Services) -> None:
    for uid in (None, 65_534):
        found = request(services, uid=uid)
        assert found.client == UNKNOWN
        assert level(services, found)[0] == "L0"
        assert "not known as which user" in level(services, found)[1]


def test_another_machine_gets_l3_only_where_the_custodian_declares_it(services: Services) -> None:
    found = request(services, uid=None, own=False)
    assert (found.connection, found.address) == ("remote", "203.0.113.9")
    code, reason = level(services, found)
    assert code == "L0"
    assert "remote_agents" in reason
    assert level(with_settings(services, remote_agents=True), found) == ("L3", "")


def test_only_the_proxy_s_user_says_where_a_client_comes_from(services: Services) -> None:
    declared = with_settings(services, proxy_user=str(PROXY), remote_agents=True)
    far = request(declared, uid=PROXY, x_forwarded_for="10.9.9.9, 203.0.113.7", x_forwarded_proto="https")
    assert (far.connection, far.address, far.is_https) == ("remote", "203.0.113.7", True)
    assert level(declared, far)[0] == "L3"
    for spoofed in (
        request(declared, uid=B, x_forwarded_for="203.0.113.7", x_forwarded_proto="https"),  # another user
        request(declared, uid=None, x_forwarded_for="203.0.113.7"),
        request(declared, uid=None, own=False, x_forwarded_for="203.0.113.7"),  # another machine
        request(services, uid=PROXY, x_forwarded_for="203.0.113.7"),  # not declared
        request(declared, uid=PROXY, x_forwarded_for="203.0.113.7, 127.0.0.1"),  # the proxy saw this machine
        request(declared, uid=PROXY, x_forwarded_for="nonsense"),
        request(declared, uid=PROXY),
        request(declared, uid=B, via="1.1 proxy"),
    ):
        assert spoofed.client == UNKNOWN
        assert spoofed.connection == "http"
        assert not spoofed.is_direct
        assert level(declared, spoofed)[0] == "L0"
    assert not request(declared, uid=B, x_forwarded_proto="https").is_https


def test_an_address_is_of_this_machine_when_it_can_be_bound() -> None:
    import ipaddress

    assert all(is_own(ipaddress.ip_address(text)) for text in ("127.0.0.1", "127.3.4.5", "::1"))
    assert not any(is_own(ipaddress.ip_address(text)) for text in ("203.0.113.9", "2001:db8::1", "0.0.0.0", "::"))


def test_users_without_a_token_are_owners_of_their_tasks(services: Services) -> None:
    assert local_agent(own_client()).name == ""
    assert local_agent(Client(B, B, frozenset([B]), "anna")).name == "user:anna"
    assert local_agent(UNKNOWN).name == "user:unknown"
    assert not local_agent(UNKNOWN).sees("user:anna")
