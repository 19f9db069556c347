"""Serve over HTTP until SIGTERM or SIGINT; runs go on without the server."""

from __future__ import annotations

import os
import socket
from ipaddress import ip_address

import uvicorn
from rich.console import Console

from clinloop import exposure
from clinloop.errors import BadInput, NotNow
from clinloop.services import Services
from clinloop.web.app import build


def serve_http(services: Services, address: str, console: Console) -> None:
    """Serve at HOST:PORT.

    Raises:
        BadInput: no address, or not a loopback address and no token exists.
        NotNow: the port is taken.
    """
    host, port = _parsed(address)
    if not _is_loopback(host) and not services.store.has_tokens("agent"):
        raise BadInput(
            f"{host} can be reached from other machines, and there is no agent's token: make one first (clinloop token create --role agent "
            "--name NAME), or serve on 127.0.0.1. Put a reverse proxy with TLS in front; tokens must not travel in the clear."
        )
    os.umask(0o077)
    exposure.hide_memory()
    listener = _listen(host, port)
    port = listener.getsockname()[1]
    hosts = [f"{name}:{port}" for name in {host, "127.0.0.1", "localhost"}] + list(services.settings.allowed_hosts)
    made = build(services, hosts)
    page = services.settings.page_url or f"http://{host}:{port}"
    console.print(f"Agents: {page}/mcp", highlight=False)
    if not any(services.store.has_tokens(role) for role in ("clinician", "custodian")):
        console.print(f"Page: {page}/sign-in?key={made.state.sign_in.link_key}", highlight=False, soft_wrap=True)
    else:
        console.print(f"Page: {page} (sign in with a token: clinloop token create)", highlight=False)
    config = uvicorn.Config(
        made, log_level="info", proxy_headers=False, server_header=False, timeout_graceful_shutdown=5, access_log=False
    )
    uvicorn.Server(config).run(sockets=[listener])


def _parsed(address: str) -> tuple[str, int]:
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal() or int(port) > 65535:
        raise BadInput(f"--http {address}: give HOST:PORT, e.g. 127.0.0.1:8765.")
    return host.strip("[]"), int(port)


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        raise NotNow(f"Cannot listen on {host}:{port} ({error.strerror}); choose another port.") from error
    listener.listen(512)
    listener.set_inheritable(False)
    return listener
