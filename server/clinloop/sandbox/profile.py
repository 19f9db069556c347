"""The system-call filter of a container, as the JSON profile that container engines read: an allow-list without what `seccomp.DENIED` names.

Source of the list: what docker's default profile allows a container without capabilities on 64-bit x86 and ARM (moby, profiles/seccomp),
less io_uring and what the bubblewrap backend's filter refuses, so that both backends refuse the same calls.
"""

from __future__ import annotations

import errno
import json
from collections.abc import Sequence
from typing import Any

from clinloop.sandbox.seccomp import DENIED, NEW_NAMESPACES, PROTOCOLS, TERMINAL_INPUT, families

_ARCHITECTURES = {"x86_64": "SCMP_ARCH_X86_64", "aarch64": "SCMP_ARCH_AARCH64"}
"""Only the native one: a 32-bit socketcall passes any test of a socket's family (moby issue 53551)."""
_ALLOWED = """
accept accept4 access alarm arch_prctl bind brk cachestat capget capset chdir chmod chown clock_getres clock_gettime clock_nanosleep close
close_range connect copy_file_range creat dup dup2 dup3 epoll_create epoll_create1 epoll_ctl epoll_pwait epoll_pwait2 epoll_wait eventfd
eventfd2 execve execveat exit exit_group faccessat faccessat2 fadvise64 fallocate fchdir fchmod fchmodat fchmodat2 fchown fchownat fcntl
fdatasync fgetxattr flistxattr flock fork fremovexattr fsetxattr fstat fstatfs fsync ftruncate futex futex_requeue futex_wait futex_waitv
futex_wake futimesat get_robust_list getcpu getcwd getdents getdents64 getegid geteuid getgid getgroups getitimer getpeername getpgid
getpgrp getpid getppid getpriority getrandom getresgid getresuid getrlimit getrusage getsid getsockname getsockopt gettid gettimeofday
getuid getxattr inotify_add_watch inotify_init inotify_init1 inotify_rm_watch io_cancel io_destroy io_getevents io_pgetevents io_setup
io_submit ioprio_get ioprio_set kill landlock_add_rule landlock_create_ruleset landlock_restrict_self lchown lgetxattr link linkat listen
listxattr llistxattr lremovexattr lseek lsetxattr lstat madvise map_shadow_stack membarrier memfd_create mincore mkdir mkdirat mknod mknodat
mlock mlock2 mlockall mmap mprotect mq_getsetattr mq_notify mq_open mq_timedreceive mq_timedsend mq_unlink mremap mseal msgctl msgget
msgrcv msgsnd msync munlock munlockall munmap nanosleep newfstatat open openat openat2 pause personality pidfd_open pidfd_send_signal pipe
pipe2 pkey_alloc pkey_free pkey_mprotect poll ppoll prctl pread64 preadv preadv2 prlimit64 process_mrelease pselect6 pwrite64 pwritev
pwritev2 read readahead readlink readlinkat readv recvfrom recvmmsg recvmsg remap_file_pages removexattr rename renameat renameat2
restart_syscall riscv_hwprobe rmdir rseq rt_sigaction rt_sigpending rt_sigprocmask rt_sigqueueinfo rt_sigreturn rt_sigsuspend
rt_sigtimedwait rt_tgsigqueueinfo sched_get_priority_max sched_get_priority_min sched_getaffinity sched_getattr sched_getparam
sched_getscheduler sched_rr_get_interval sched_setaffinity sched_setattr sched_setparam sched_setscheduler sched_yield seccomp select
semctl semget semop semtimedop sendfile sendmmsg sendmsg sendto set_robust_list set_tid_address setfsgid setfsuid setgid setgroups
setitimer setpgid setpriority setregid setresgid setresuid setreuid setrlimit setsid setsockopt setuid setxattr shmat shmctl shmdt shmget
shutdown sigaltstack signalfd signalfd4 splice stat statfs statx symlink symlinkat sync sync_file_range syncfs sysinfo tee tgkill time
timer_create timer_delete timer_getoverrun timer_gettime timer_settime timerfd_create timerfd_gettime timerfd_settime times tkill truncate
umask uname unlink unlinkat utime utimensat utimes vfork vmsplice wait4 waitid write writev
"""


def build_profile(machine: str, *, lists_interfaces: bool = False) -> str:
    """Return the profile for a machine of `seccomp.ARCHITECTURES` as JSON text.

    What is not named fails with EPERM; a call of another architecture kills the process; clone3, whose flags no filter can read, gets ENOSYS,
    after which libc uses clone.
    """
    names = sorted(set(_ALLOWED.split()) - set(DENIED))
    rules: list[dict[str, Any]] = [
        _rule(names),
        _rule(["clone"], [_compare(0, "SCMP_CMP_MASKED_EQ", NEW_NAMESPACES, 0)]),
        _rule(["clone3"], action="SCMP_ACT_ERRNO", error=errno.ENOSYS),
        *(_rule(["ioctl"], [_compare(1, "SCMP_CMP_MASKED_EQ", mask, value)]) for mask, value in _ioctls()),
    ]
    for call in ("socket", "socketpair"):
        for family in families(lists_interfaces=lists_interfaces).values():
            for protocol in PROTOCOLS.values():
                rules.append(_rule([call], [_compare(0, "SCMP_CMP_EQ", family), _compare(2, "SCMP_CMP_EQ", protocol)]))
    return json.dumps(
        {
            "defaultAction": "SCMP_ACT_ERRNO",
            "defaultErrnoRet": errno.EPERM,
            "architectures": [_ARCHITECTURES[machine]],
            "syscalls": rules,
        }
    )


def _ioctls() -> list[tuple[int, int]]:
    """Return (mask, value) pairs of which every ioctl request but those of TERMINAL_INPUT matches one.

    Requests are compared by bits of their low word, which is all that the kernel looks at; the refused ones differ in the low four bits only.
    """
    refused = sorted(TERMINAL_INPUT.values())
    stem = refused[0] & ~0xF
    assert all(value & ~0xF == stem for value in refused)
    other_stems = [(1 << bit, ~stem & (1 << bit)) for bit in range(4, 32)]
    return [*other_stems, *((0xFFFFFFFF, stem | low) for low in range(16) if stem | low not in refused)]


def _rule(
    names: Sequence[str], arguments: list[dict[str, Any]] | None = None, action: str = "SCMP_ACT_ALLOW", error: int = 0
) -> dict[str, Any]:
    rule: dict[str, Any] = {"names": [*names], "action": action, "args": arguments or []}
    return rule | ({"errnoRet": error} if error else {})


def _compare(index: int, operator: str, value: int, value_two: int = 0) -> dict[str, Any]:
    return {"index": index, "op": operator, "value": value, "valueTwo": value_two}
