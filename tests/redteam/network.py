"""Section B: the network and ways between processes."""

from __future__ import annotations

import contextlib

from .case import Case
from .stage import Stage


def _datagrams(stage: Stage) -> str:
    """Say whether a datagram arrived on the host."""
    stage.datagrams.setblocking(False)
    with contextlib.suppress(BlockingIOError):
        return f"REACHED the host: {stage.datagrams.recv(100)!r}"
    return ""


def _connections(stage: Stage) -> str:
    stage.listener.setblocking(False)
    with contextlib.suppress(BlockingIOError):
        connection, place = stage.listener.accept()
        connection.close()
        return f"REACHED the host from {place}"
    return ""


def _socket_in_out(stage: Stage) -> str:
    """A socket file beside the checkpoint: the server's walk over /out skips it and does not hang."""
    run = stage.smoke("import socket\nsocket.socket(socket.AF_UNIX).bind('/out/socket')\n" + stage.CHECKPOINT)
    left = sorted(path.name for path in stage.folder(run).out.iterdir())
    return "ignored" if run.status == "succeeded" and "socket" not in left else f"{run} {left}"


CASES = [
    Case(
        number="B16",
        title="connect by TCP to the host and to the internet",
        expected="refused",
        probe="""
places = [*map(tuple, FACTS["tcp"]), ("1.1.1.1", 443), ("10.0.0.1", 80), ("172.17.0.1", 2375)]
return refused(*(lambda place=place: socket.create_connection(place, 1.5) for place in places))
""",
        witness=_connections,
    ),
    Case(
        number="B17",
        title="send datagrams to the host and to a name server",
        expected="refused",
        probe="""
def send(place):
    socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b"escaped", place)
for place in FACTS["udp"]:  # to its own loopback it may
    try:
        send(tuple(place))
    except OSError:
        pass
return refused(lambda: send(("1.1.1.1", 53)), lambda: send(("8.8.8.8", 53)))
""",
        witness=_datagrams,
    ),
    Case(
        number="B18",
        title="resolve a name (an exfiltration channel by itself)",
        expected="refused",
        probe="return refused(*(lambda name=name: socket.getaddrinfo(name, 443) for name in ('pypi.org', 'secret.example.com', 'host.docker.internal', 'metadata.google.internal')))",
    ),
    Case(
        number="B19",
        title="leave by IPv6",
        expected="refused",
        probe="return refused(*(lambda place=place: socket.create_connection((place, 443), 1.5) for place in ('2606:4700:4700::1111', 'fd00::1', '::ffff:1.1.1.1')))",
    ),
    Case(
        number="B20",
        title="ask the cloud's metadata service",
        expected="refused",
        probe="return refused(*(lambda place=place: socket.create_connection((place, 80), 1.5) for place in ('169.254.169.254', 'fd00:ec2::254', '100.100.100.200')))",
    ),
    Case(
        number="B21",
        title="reach the hypervisor by AF_VSOCK",
        expected="refused",
        probe="return refused(*(lambda kind=kind: socket.socket(40, kind) for kind in (1, 2, 5)))",
    ),
    Case(
        number="B22",
        title="open netlink, packet, crypto, Bluetooth, TIPC, raw and SCTP sockets",
        expected="refused",
        probe="""
kinds = [(16, 3, 0), (16, 3, 15), (17, 3, 0), (38, 5, 0), (31, 3, 1), (30, 1, 0), (2, 3, 1), (2, 1, 132), (10, 3, 58), (29, 3, 1), (44, 3, 0)]
return refused(*(lambda kind=kind: socket.socket(*kind) for kind in kinds))
""",
    ),
    Case(
        number="B23",
        title="call the kernel by the 32-bit entry, past a filter of 64-bit calls",
        expected="killed",
        probe="""
if not X86:
    os.kill(os.getpid(), 31)
page = mmap.mmap(-1, 4096, prot=7)
page.write(bytes.fromhex("b866000000bb01000000cd80c3"))  # socketcall(SYS_SOCKET)
address = ctypes.addressof(ctypes.c_char.from_buffer(page))
return f"REACHED {ctypes.CFUNCTYPE(ctypes.c_int)(address)()}"
""",
    ),
    Case(
        number="B24",
        title="set up io_uring, userfaultfd, perf and BPF",
        expected="refused",
        probe="""
blank = ctypes.create_string_buffer(256)
return refused(lambda: syscall(425, 425, 8, blank), lambda: syscall(323, 282, 0), lambda: syscall(298, 241, blank, 0, -1, -1, 0),
    lambda: syscall(321, 280, 0, blank, 48), lambda: syscall(250, 219, 0, -3, 0), lambda: syscall(248, 217, b"user", b"x", b"y", 1, -3))
""",
    ),
    Case(
        number="B25",
        title="find a socket of Docker, Podman, munge, ssh-agent or D-Bus",
        expected="absent",
        probe="""
names = ["/var/run/docker.sock", "/run/docker.sock", "/run/podman/podman.sock", "/run/munge/munge.socket.2", "/run/dbus/system_bus_socket", "/run/containerd/containerd.sock"]
names += [os.environ[name] for name in ("SSH_AUTH_SOCK", "DBUS_SESSION_BUS_ADDRESS", "DOCKER_HOST") if name in os.environ]
for folder, folders, files in os.walk("/"):
    folders[:] = [name for name in folders if os.path.join(folder, name) not in ("/proc", "/sys", "/usr")]
    for name in files:
        try:
            if stat.S_ISSOCK(os.lstat(os.path.join(folder, name)).st_mode):
                return f"REACHED {folder}/{name}"
        except OSError:
            pass
return absent(names)
""",
    ),
    Case(
        number="B26",
        title="meet another run, or the host, at an abstract unix socket",
        expected="refused",
        probe="return refused(*(lambda name=name: socket.socket(socket.AF_UNIX).connect('\\0' + name) for name in FACTS['abstract']))",
    ),
    Case(
        number="B27",
        title="leave a socket in /out for the server to walk over",
        expected="ignored",
        attack=_socket_in_out,
    ),
    Case(
        number="B28",
        title="push characters into the terminal",
        expected="refused",
        probe="return refused(*(lambda number=number: call('ioctl', 0, ctypes.c_ulong(number), b'x') for number in (0x5412, 0x541C, 0x100005412)))",
    ),
    Case(
        number="B29",
        title="meet another run in System V or POSIX shared memory",
        expected="absent",
        probe="""
segments = refused(lambda: call("shmget", FACTS["shm_key"], 4096, 0), lambda: call("semget", FACTS["shm_key"], 1, 0), lambda: call("msgget", FACTS["shm_key"], 0))
return absent(["/dev/shm/neighbour", "/dev/mqueue/neighbour"]) if segments == "refused" else segments
""",
    ),
]
