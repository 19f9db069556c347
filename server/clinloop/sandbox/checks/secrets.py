"""Checks of what a job must not reach: files, processes, kernel, network, other jobs."""

from __future__ import annotations

import os
import platform
import socket
import time
from pathlib import Path

from clinloop.sandbox import seccomp
from clinloop.sandbox.base import Mount
from clinloop.sandbox.checks.bench import Bench, expect

_ATTEMPT = """
import os, socket, ctypes, errno
def attempt(name, act):
    try:
        print("REACHED", name, act())
    except OSError as error:
        print("refused", name, errno.errorcode.get(error.errno, error))
"""
_CANARY = "canary-7f3a91"


def _expect_refused(log: str, count: int) -> None:
    expect("REACHED" not in log and log.count("refused") == count, log[-1500:])


def network_is_unreachable(bench: Bench) -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as datagrams,
    ):
        datagrams.bind(("127.0.0.1", 0))
        datagrams.settimeout(0.2)
        ended = bench.run(
            f"{_ATTEMPT}\n"
            f"attempt('host', lambda: socket.create_connection(('127.0.0.1', {server.getsockname()[1]}), 2))\n"
            "for place in (('1.1.1.1', 443), ('169.254.169.254', 80), ('2606:4700:4700::1111', 443)):\n"
            " attempt(place, lambda: socket.create_connection(place, 2))\n"
            "attempt('udp', lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'x', ('1.1.1.1', 53)))\n"
            "attempt('dns', lambda: socket.getaddrinfo('pypi.org', 443))\n"
            f"socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'x', ('127.0.0.1', {datagrams.getsockname()[1]}))"
        )
        _expect_refused(ended.log, 6)
        try:
            expect(not datagrams.recv(10), "a datagram reached the host")
        except TimeoutError:
            return


def other_socket_families_are_refused(bench: Bench) -> None:
    families = {
        "AF_NETLINK": (16, 2),
        "AF_PACKET": (17, 3),
        "AF_ALG": (38, 5),
        "AF_VSOCK": (40, 1),
        "AF_BLUETOOTH": (31, 3),
        "AF_TIPC": (30, 1),
    }
    lines = "\n".join(
        f"attempt({name!r}, lambda: socket.socket({family}, {kind}))" for name, (family, kind) in families.items()
    )
    ended = bench.run(
        f"{_ATTEMPT}\n{lines}\nattempt('SCTP', lambda: socket.socket(2, 1, 132))\nattempt('raw', lambda: socket.socket(2, 3, 1))"
    )
    _expect_refused(ended.log, len(families) + 2)


def localhost_works_inside(bench: Bench) -> None:
    ended = bench.run(
        "import socket\ns = socket.create_server(('localhost', 0))\nsocket.create_connection(s.getsockname())\nsocket.socketpair()"
    )
    expect(ended.exit.code == 0, ended.log)


def own_name_leads_to_itself(bench: Bench) -> None:
    """Processes of one job meet by the name of their machine: torchrun does."""
    ended = bench.run("import socket; print(socket.gethostbyname(socket.gethostname()))")
    expect(ended.log == "127.0.0.1\n", ended.log)


def sockets_of_the_host_are_unreachable(bench: Bench) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(f"\0{_CANARY}")
        server.listen()
        ended = bench.run(
            f"{_ATTEMPT}\nattempt('abstract', lambda: socket.socket(socket.AF_UNIX).connect('\\0{_CANARY}'))\n"
            "for path in ('/var/run/docker.sock', '/run/docker.sock', '/run/dbus/system_bus_socket', '/run/munge/munge.socket.2'):\n"
            " attempt(path, lambda: os.stat(path))"
        )
    _expect_refused(ended.log, 5)


def two_jobs_do_not_meet(bench: Bench) -> None:
    code = (
        f"{_ATTEMPT}\nimport time\ns = socket.socket(socket.AF_UNIX); s.bind('\\0{_CANARY}-job'); s.listen()\n"
        "libc = ctypes.CDLL(None); print('shm', libc.shmget(4711, 4096, 0o1666) >= 0)\nopen('/tmp/x', 'w').close(); open('/dev/shm/x', 'w').close()\n"
        "print('ready'); time.sleep(60)"
    )
    with bench.running(bench.job(code)) as first:
        bench.wait_for_log(first, "ready\n")
        ended = bench.run(
            f"{_ATTEMPT}\nlibc = ctypes.CDLL(None, use_errno=True)\ndef shm():\n"
            " if libc.shmget(4711, 4096, 0) < 0: raise OSError(ctypes.get_errno(), 'shm')\n"
            f"attempt('abstract', lambda: socket.socket(socket.AF_UNIX).connect('\\0{_CANARY}-job'))\nattempt('shm', shm)\n"
            "attempt('tmp', lambda: os.stat('/tmp/x')); attempt('dev', lambda: os.stat('/dev/shm/x'))"
        )
    _expect_refused(ended.log, 4)


def processes_of_the_host_are_invisible(bench: Bench) -> None:
    ended = bench.run(
        f"{_ATTEMPT}\nprint(sorted(int(n) for n in os.listdir('/proc') if n.isdigit()))\n"
        f"attempt('signal', lambda: os.kill({os.getpid()}, 0) if {os.getpid()} > 20 else os.kill(99999, 0))\nprint(os.getppid())"
    )
    pids = ended.log.splitlines()[0]
    expect(len(pids.split(",")) <= 4, f"visible processes: {pids}")
    expect("REACHED" not in ended.log, ended.log)


def environment_of_the_server_is_nowhere(bench: Bench) -> None:
    os.environ["CLINLOOP_CANARY"] = _CANARY
    try:
        ended = bench.run(
            "import glob\nfor path in glob.glob('/proc/[0-9]*/environ') + glob.glob('/proc/[0-9]*/cmdline'):\n"
            f" try: data = open(path, 'rb').read()\n except OSError: continue\n if {_CANARY[:7]!r}.encode() in data and 'self' not in path: print('FOUND', path)\n"
            "print(sorted(word.partition(b'=')[0].decode() for word in open('/proc/1/environ', 'rb').read().split(b'\\0') if word))"
        )
    finally:
        del os.environ["CLINLOOP_CANARY"]
    expect(not any(line.startswith("FOUND") and "environ" in line for line in ended.log.splitlines()), ended.log)
    # A container engine gives its own three; ours says that a job without GPUs gets none.
    own = ("[]", "['HOME', 'HOSTNAME', 'NVIDIA_VISIBLE_DEVICES', 'PATH']")
    expect(ended.log.splitlines()[-1] in own, f"process 1 has an environment: {ended.log[-300:]}")


def descriptors_are_not_inherited(bench: Bench) -> None:
    secret = bench.folder / "secret"
    secret.write_text(_CANARY, encoding="utf-8")
    fd = os.open(secret, os.O_RDONLY)
    os.set_inheritable(fd, True)
    try:
        ended = bench.run(
            "import os\nfor n in os.listdir('/proc/self/fd'):\n try: print(n, os.readlink('/proc/self/fd/' + n))\n except OSError: pass"
        )
    finally:
        os.close(fd)
    numbers = {line.split()[0] for line in ended.log.splitlines()}
    expect(numbers == {"0", "1", "2"}, f"open inside: {ended.log}")


def files_outside_the_mounts_do_not_exist(bench: Bench) -> None:
    secret = bench.folder / "vault" / "labels.csv"
    secret.parent.mkdir(mode=0o700)
    secret.write_text(_CANARY, encoding="utf-8")
    view = bench.folder / "view"
    view.mkdir()
    (view / "way-out").symlink_to(secret)
    paths = [str(secret), str(bench.folder), str(Path.cwd())]
    if not bench.sandbox.bare().image:  # an image has such folders of its own
        paths += ["/etc/shadow", "/etc/ssh", "/root", "/home", "/var", "/sys", "/boot", "/mnt"]
    paths = [path for path in paths if not any(Path(mount.target).is_relative_to(path) for mount in bench.job().mounts)]
    ways = [
        "/view/way-out",
        "/view/../vault",
        "/proc/1/root" + str(secret),
        "/proc/1/cwd/" + str(secret),
        "/proc/self/root" + str(secret),
    ]
    ended = bench.run(
        f"{_ATTEMPT}\nfor path in {paths + ways}: attempt(path, lambda: os.stat(path))", mounts=(Mount(view, "/view"),)
    )
    _expect_refused(ended.log, len(paths) + len(ways))


def mounts_are_read_only(bench: Bench) -> None:
    view = bench.folder / "view"
    view.mkdir(mode=0o777)
    (view / "file").write_text("before", encoding="utf-8")
    view.chmod(0o777)
    (view / "file").chmod(0o666)
    ended = bench.run(
        f"{_ATTEMPT}\nattempt('write', lambda: open('/view/file', 'w'))\nattempt('create', lambda: open('/view/new', 'w'))\n"
        "attempt('delete', lambda: os.unlink('/view/file'))\nattempt('rename', lambda: os.rename('/view/file', '/view/other'))\n"
        "attempt('mode', lambda: os.chmod('/view/file', 0o777))\nattempt('times', lambda: os.utime('/view/file'))\n"
        "attempt('link', lambda: os.link('/view/file', '/out/link'))",
        mounts=(Mount(view, "/view"),),
    )
    _expect_refused(ended.log, 7)
    expect((view / "file").read_text(encoding="utf-8") == "before", "the file was changed")


def privileges_are_gone(bench: Bench) -> None:
    ended = bench.run("print(open('/proc/self/status').read())")
    facts = dict(line.split(":\t", 1) for line in ended.log.splitlines() if ":\t" in line)
    expect(
        all(int(facts[name], 16) == 0 for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")),
        f"capabilities are left: {facts}",
    )
    expect(facts["NoNewPrivs"] == "1" and facts["Seccomp"] == "2", "no filter, or set-uid programs work")
    expect("0" not in facts["Uid"].split(), "the job runs as root")


def dangerous_system_calls_are_refused(bench: Bench) -> None:
    column = list(seccomp.ARCHITECTURES).index(platform.machine())
    calls = {name: numbers[column] for name, numbers in seccomp.DENIED.items() if numbers[column] is not None}
    ended = bench.run(
        "import ctypes, errno\nlibc = ctypes.CDLL(None, use_errno=True)\n"
        f"for name, number in {calls}.items():\n"
        " ctypes.set_errno(0)\n if libc.syscall(number, 0, 0, 0, 0, 0, 0) != -1 or ctypes.get_errno() not in (errno.EPERM, errno.ENOSYS): print(name, ctypes.get_errno())\n"
        "print('done')"
    )
    expect(ended.log == "done\n", f"not refused: {ended.log}")


def new_namespaces_are_refused(bench: Bench) -> None:
    clone, clone3 = (56, 435) if platform.machine() == "x86_64" else (220, 435)
    flags = {"NEWUSER": 0x10000000, "NEWNS": 0x20000, "NEWPID": 0x20000000, "NEWNET": 0x40000000}
    ended = bench.run(
        "import ctypes, os\nlibc = ctypes.CDLL(None, use_errno=True)\n"
        f"for name, flag in {flags}.items():\n pid = libc.syscall({clone}, flag | 17, 0, 0, 0, 0)\n"
        " if pid == 0: os._exit(0)\n print(pid, ctypes.get_errno())\n"
        f"print(libc.syscall({clone3}, 0, 0), ctypes.get_errno())"
    )
    expect(ended.log == "-1 1\n" * 4 + "-1 38\n", f"clone and clone3 returned {ended.log!r}")


def calls_of_another_architecture_end_the_job(bench: Bench) -> None:
    if platform.machine() != "x86_64":
        return
    ended = bench.run(
        "import ctypes, mmap\npage = mmap.mmap(-1, 4096, prot=7)\npage.write(bytes.fromhex('b814000000cd80c3'))\n"  # mov eax, 20; int 0x80
        "address = ctypes.addressof(ctypes.c_char.from_buffer(page))\nprint(ctypes.CFUNCTYPE(ctypes.c_int)(address)())"
    )
    expect(ended.exit.code == 128 + 31, f"int 0x80 ended as {ended.exit}: {ended.log}")


def terminal_input_cannot_be_forged(bench: Bench) -> None:
    ended = bench.run(
        f"{_ATTEMPT}\nimport fcntl\nfor call in (0x5412, 0x541C, 0x100005412): attempt(call, lambda: libc(call))".replace(
            "attempt(call, lambda: libc(call))",
            "print(ctypes.CDLL(None, use_errno=True).ioctl(0, ctypes.c_ulong(call), b'x'), ctypes.get_errno())",
        )
    )
    expect(ended.log == "-1 1\n" * 3, f"ioctl returned {ended.log!r}")


def deadline_cannot_be_evaded(bench: Bench) -> None:
    job = bench.job(
        "import os, signal\nfor pid in (1, os.getppid()):\n try: os.kill(pid, 9); os.kill(pid, 19)\n except OSError: pass\nwhile True: pass"
    )
    with bench.running(job):
        bench.sandbox.wait(job.name, 0.5)
        began = time.monotonic()
        bench.sandbox.stop(job.name)
        expect(time.monotonic() - began < 2, "stop took more than 2 s")
