"""Which user owns the other end of a TCP connection of this machine: asked of the kernel over netlink, or looked up in its tables."""

from __future__ import annotations

import ipaddress
import socket
import struct
from pathlib import Path

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
End = tuple[Address, int]
"""Address and port."""

TABLES = (Path("/proc/net/tcp"), Path("/proc/net/tcp6"))
"""All TCP sockets of this network namespace."""
_OPEN = (1, 8)
"""States of the client's end: open, or open although the server has ended its half (TCP_ESTABLISHED, TCP_CLOSE_WAIT)."""

# Source: linux/netlink.h, linux/sock_diag.h and linux/inet_diag.h. Numbers are in the byte order of this machine, ports and addresses in that
# of the network.
_NETLINK_SOCK_DIAG, _SOCK_DIAG_BY_FAMILY, _NLM_F_REQUEST = 4, 20, 1
_HEADER = struct.Struct("=IHHII")
"""nlmsghdr: length, type, flags, sequence number, port."""
_REQUEST = struct.Struct("=BBBxI2s2s16s16sIII")
"""inet_diag_req_v2: family, protocol, extensions, states, ports, addresses, interface and cookie."""
_ANSWER = struct.Struct("=BBBB2s2s16s16sIIIIIIII")
"""inet_diag_msg: family, state, timer, retransmissions, ports, addresses, interface, cookie, expiry, two queues, user, inode."""
_NO_COOKIE = 0xFFFFFFFF
_ALL_STATES = 0xFFFFFFFF
_ANSWER_S = 1.0


def owner(client: End, server: End) -> int | None:
    """Return the uid of the socket at the client's end; None when this network namespace has none."""
    found = _asked(client, server)
    return found if found is not None else _listed(client, server)


def _asked(client: End, server: End) -> int | None:
    """Ask for exactly this socket; the tables, which the kernel writes anew for each reader, take milliseconds.

    None: there is none, the kernel cannot be asked, or its answer is about another socket (a listening one, or one that is closing).
    """
    family = socket.AF_INET if client[0].version == 4 else socket.AF_INET6
    ports = struct.pack("!H", client[1]), struct.pack("!H", server[1])
    addresses = (end[0].packed.ljust(16, b"\0") for end in (client, server))
    question = _REQUEST.pack(family, socket.IPPROTO_TCP, 0, _ALL_STATES, *ports, *addresses, 0, _NO_COOKIE, _NO_COOKIE)
    header = _HEADER.pack(_HEADER.size + len(question), _SOCK_DIAG_BY_FAMILY, _NLM_F_REQUEST, 1, 0)
    try:
        with socket.socket(socket.AF_NETLINK, socket.SOCK_DGRAM, _NETLINK_SOCK_DIAG) as kernel:
            kernel.settimeout(_ANSWER_S)
            kernel.sendto(header + question, (0, 0))
            answer = kernel.recv(4096)
    except OSError:
        return None
    if len(answer) < _HEADER.size + _ANSWER.size or _HEADER.unpack_from(answer)[1] != _SOCK_DIAG_BY_FAMILY:
        return None
    _, state, _, _, source, target, *_, uid, _ = _ANSWER.unpack_from(answer, _HEADER.size)
    return uid if state in _OPEN and (source, target) == ports else None


def _listed(client: End, server: End) -> int | None:
    """Look a socket up in the tables of this network namespace."""
    ends = [(_as_listed(*client), _as_listed(*server))]
    if client[0].version == 4:  # a socket of IPv6 that speaks IPv4
        ends.append((_as_listed(_mapped(client[0]), client[1]), _as_listed(_mapped(server[0]), server[1])))
    for table in TABLES:
        try:
            listed = table.read_bytes()
        except OSError:
            continue
        for local, remote in ends:
            found = listed.find(b" %s %s " % (local, remote))
            if found < 0:
                continue
            columns = listed[found : listed.find(b"\n", found)].split()
            if int(columns[2], 16) in _OPEN:
                return int(columns[6])
    return None


def _as_listed(address: Address, port: int) -> bytes:
    """Return an end as /proc/net/tcp writes it: 32-bit words in the order of bytes of this machine, then the port."""
    words = struct.unpack(f"={len(address.packed) // 4}I", address.packed)
    return ("".join(f"{word:08X}" for word in words) + f":{port:04X}").encode()


def _mapped(address: Address) -> ipaddress.IPv6Address:
    return ipaddress.IPv6Address(b"\0" * 10 + b"\xff\xff" + address.packed[-4:])
