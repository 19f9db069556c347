"""How one bubblewrap job is started: its command line by descriptor, its mounts, and what happens between fork and exec."""

from __future__ import annotations

import os
import platform
import resource
import signal
import subprocess
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from pathlib import Path

from clinloop.sandbox import cgroups, linux
from clinloop.sandbox.base import Job, Mount, basic_environment
from clinloop.sandbox.seccomp import build_filter
from clinloop.sandbox.sources import SANDBOX_UID, Source, Sources

_STAGE = "/tmp"  # noqa: S108 - covered by a tmpfs of the job's own mount namespace; nothing is created in the host's
_OPEN_FILES = 65_536
_COMMAND = 'ulimit -u {pids} 2>/dev/null || ulimit -p {pids} 2>/dev/null; exec "$@"'
"""Runs inside, in sh: caps processes where no control group does, and makes a missing command exit status 127 of the job."""
_FILES = {
    "/etc/passwd": f"sandbox:x:{SANDBOX_UID}:{SANDBOX_UID}::/tmp:/bin/sh\n",
    "/etc/group": f"sandbox:x:{SANDBOX_UID}:\n",
    "/etc/hosts": "127.0.0.1 localhost sandbox\n::1 localhost\n",
}
_NAMESPACES = (
    "--unshare-user",
    "--disable-userns",
    "--unshare-pid",
    "--unshare-ipc",
    "--unshare-uts",
    "--unshare-net",
    "--unshare-cgroup-try",
)
_LOCKDOWN = ("--hostname", "sandbox", "--die-with-parent", "--new-session", "--cap-drop", "ALL", "--clearenv")


class Launch:
    """The open descriptors of one start; use as a context manager around Popen.

    As root the mount sources are cloned, id-mapped to the sandbox uid and attached below a tmpfs of the job's own mount namespace: that uid may
    not walk the 0700 folders in which they lie, and bwrap's --ro-bind-fd resolves the path again. Without root they are passed by descriptor.
    """

    def __init__(self, job: Job, *, is_root: bool, own_folders: Sequence[Path], devices: Sequence[Path] = ()) -> None:
        self._job, self._is_root, self._devices = job, is_root, devices
        self._stack = ExitStack()
        self._sources = Sources(self._stack, own_folders)
        self._passed = list[int]()
        self._trees = list[Source]()

    def __enter__(self) -> Launch:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def popen(self, bwrap: str, *, output: int, status: int, groups: Sequence[Path]) -> subprocess.Popen[bytes]:
        """Start bwrap with an empty environment, which nothing inside can read the server's from.

        Raises:
            OSError: a mount source, a namespace or a control group was refused; the message says which call.
        """
        report, report_write = os.pipe2(os.O_CLOEXEC)
        self._stack.callback(os.close, report)
        arguments = self._data("\0".join(self._arguments(status)).encode() + b"\0")
        command = ("/bin/sh", "-c", _COMMAND.format(pids=self._job.limits.pids), "job", *self._job.argv)
        try:
            return subprocess.Popen(
                [bwrap, "--args", str(arguments), "--", *command],
                env={},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                pass_fds=(*self._passed, status),
                preexec_fn=lambda: self._enter(groups, report_write),  # noqa: PLW1509 - its steps are system calls only
            )
        except subprocess.SubprocessError as error:
            os.set_blocking(report, False)
            with suppress(BlockingIOError):
                raise OSError(0, os.read(report, 2000).decode(errors="replace")) from error
            raise
        finally:
            os.close(report_write)

    def _enter(self, groups: Sequence[Path], report: int) -> None:
        """Between fork and exec: join the groups, set limits, build the mounts, drop to the sandbox uid."""
        try:
            cgroups.join(groups)
            linux.end_first_on_a_full_host()
            limits = self._job.limits
            largest = max(limits.out_bytes, limits.tmp_bytes, limits.shm_bytes)
            for kind, value in {
                resource.RLIMIT_CORE: 0,
                resource.RLIMIT_NOFILE: _OPEN_FILES,
                resource.RLIMIT_FSIZE: largest,
            }.items():
                hard = resource.getrlimit(kind)[1]
                capped = value if hard == resource.RLIM_INFINITY else min(value, hard)
                resource.setrlimit(kind, (capped, capped))
            os.umask(0o022)
            signal.pthread_sigmask(signal.SIG_SETMASK, ())
            for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGCHLD):
                signal.signal(number, signal.SIG_DFL)
            if self._is_root:
                linux.enter_private_mounts(_STAGE)
                for index, (tree, is_folder) in enumerate(self._trees):
                    place = Path(_STAGE) / str(index)
                    place.mkdir() if is_folder else place.touch()
                    linux.attach(tree, str(place))
                os.setgroups([])
                os.setresgid(SANDBOX_UID, SANDBOX_UID, SANDBOX_UID)
                os.setresuid(SANDBOX_UID, SANDBOX_UID, SANDBOX_UID)
            linux.die_with_parent()
        except BaseException as error:
            os.write(report, str(error).encode())
            raise

    def _arguments(self, status: int) -> list[str]:
        job, uid = self._job, str(SANDBOX_UID)
        arguments = [*_NAMESPACES, "--uid", uid, "--gid", uid, *_LOCKDOWN]
        for key, value in basic_environment(job, home="/tmp").items():  # noqa: S108 - the sandbox's own
            arguments += ["--setenv", key, value]
        arguments += ["--ro-bind", "/usr", "/usr"]
        for name in ("bin", "sbin", "lib", "lib32", "lib64"):
            top = Path("/", name)
            if top.is_symlink():
                arguments += ["--symlink", f"usr/{name}", f"/{name}"]
            elif top.is_dir():
                arguments += ["--ro-bind", f"/{name}", f"/{name}"]
        for name in ("/etc/ld.so.cache", "/etc/alternatives"):
            arguments += ["--ro-bind-try", name, name]
        arguments += ["--proc", "/proc", "--dev", "/dev"]
        for device in map(str, self._devices):  # before /dev becomes read-only, which devices do not mind
            arguments += ["--dev-bind-try", device, device]
        for target, size in {"/dev/shm": job.limits.shm_bytes, "/tmp": job.limits.tmp_bytes}.items():  # noqa: S108
            arguments += ["--size", str(size), "--perms", "1777", "--tmpfs", target]
        for target, text in _FILES.items():
            arguments += ["--perms", "0444", "--ro-bind-data", str(self._data(text.encode())), target]
        for mount in job.mounts:
            arguments += self._mount(mount)
        arguments += ["--chdir", job.workdir, "--remount-ro", "/dev", "--remount-ro", "/"]
        return [
            *arguments,
            "--seccomp",
            str(self._data(build_filter(platform.machine(), lists_interfaces=len(job.gpus) > 1))),
            "--json-status-fd",
            str(status),
        ]

    def _mount(self, mount: Mount) -> list[str]:
        if not self._is_root:
            source = self._sources.open(mount)
            self._passed.append(source.fd)
            return ["--bind-fd" if mount.writable else "--ro-bind-fd", str(source.fd), mount.target]
        self._trees.append(self._sources.clone(mount))
        return ["--bind" if mount.writable else "--ro-bind", f"{_STAGE}/{len(self._trees) - 1}", mount.target]

    def _data(self, content: bytes) -> int:
        fd = self._keep(os.memfd_create("clinloop"))
        os.write(fd, content)
        os.lseek(fd, 0, os.SEEK_SET)
        self._passed.append(fd)
        return fd

    def _keep(self, fd: int) -> int:
        self._stack.callback(os.close, fd)
        return fd
