"""The system-call filter of a sandbox, assembled as classic BPF: a deny-list, socket families and protocols, no 32-bit calls.

Source: seccomp(2); the list is that of docker's default profile turned round, plus the calls that reach other processes' memory,
kernel keys, io_uring and new namespaces.
"""

from __future__ import annotations

import errno
import struct

_ALLOW, _KILL, _ERRNO = 0x7FFF0000, 0x80000000, 0x00050000
_LOAD, _EQUAL, _AT_LEAST, _ANY_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_NUMBER, _ARCH, _ARGUMENTS = 0, 4, 16
"""Offsets in struct seccomp_data; argument n starts at 16 + 8 n and its low word comes first on both architectures."""

ARCHITECTURES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
_X32_BIT = 0x40000000
NEW_NAMESPACES = 0x7E020080
"""CLONE_NEWNS | NEWCGROUP | NEWUTS | NEWIPC | NEWUSER | NEWPID | NEWNET | NEWTIME."""
FAMILIES = {"AF_UNIX": 1, "AF_INET": 2, "AF_INET6": 10}
AF_NETLINK = 16
"""Only for jobs with several GPUs: NCCL, by which their processes meet, lists network interfaces first. With protocol 0, which is routing."""
PROTOCOLS = {"default": 0, "PF_UNIX": 1, "IPPROTO_TCP": 6, "IPPROTO_UDP": 17}
TERMINAL_INPUT = {"TIOCSTI": 0x5412, "TIOCLINUX": 0x541C}

# name: (x86_64, aarch64); None = the architecture has no such call
DENIED: dict[str, tuple[int | None, int | None]] = {
    # other processes
    "ptrace": (101, 117), "process_vm_readv": (310, 270), "process_vm_writev": (311, 271), "kcmp": (312, 272), "pidfd_getfd": (438, 438),
    "process_madvise": (440, 440),
    # large kernel surfaces that training does not need
    "io_uring_setup": (425, 425), "io_uring_enter": (426, 426), "io_uring_register": (427, 427), "userfaultfd": (323, 282),
    "perf_event_open": (298, 241), "bpf": (321, 280), "fanotify_init": (300, 262), "memfd_secret": (447, 447), "modify_ldt": (154, None),
    # keys
    "add_key": (248, 217), "request_key": (249, 218), "keyctl": (250, 219),
    # namespaces and mounts
    "unshare": (272, 97), "setns": (308, 268), "mount": (165, 40), "umount2": (166, 39), "pivot_root": (155, 41), "chroot": (161, 51),
    "open_tree": (428, 428), "move_mount": (429, 429), "fsopen": (430, 430), "fsconfig": (431, 431), "fsmount": (432, 432),
    "fspick": (433, 433), "mount_setattr": (442, 442), "statmount": (457, 457), "listmount": (458, 458), "open_tree_attr": (467, 467),
    "name_to_handle_at": (303, 264), "open_by_handle_at": (304, 265), "quotactl": (179, 60), "quotactl_fd": (443, 443),
    "swapon": (167, 224), "swapoff": (168, 225),
    # the machine
    "syslog": (103, 116), "reboot": (169, 142), "kexec_load": (246, 104), "kexec_file_load": (320, 294), "init_module": (175, 105),
    "finit_module": (313, 273), "delete_module": (176, 106), "acct": (163, 89), "settimeofday": (164, 170), "clock_settime": (227, 112),
    "clock_adjtime": (305, 266), "adjtimex": (159, 171), "iopl": (172, None), "ioperm": (173, None), "vhangup": (153, 58),
}  # fmt: skip
_SPECIAL = {"clone": (56, 220), "clone3": (435, 435), "socket": (41, 198), "socketpair": (53, 199), "ioctl": (16, 29)}


def families(*, lists_interfaces: bool) -> dict[str, int]:
    """Return the socket families that a job may use."""
    return FAMILIES | ({"AF_NETLINK": AF_NETLINK} if lists_interfaces else {})


def build_filter(machine: str, *, lists_interfaces: bool = False) -> bytes:
    """Return the filter for a machine of ARCHITECTURES as an array of struct sock_filter in native byte order.

    A call of another architecture (int 0x80) kills the process; an x32 call and clone3, whose flags BPF cannot read, get ENOSYS, after which
    libc uses clone.
    """
    column = list(ARCHITECTURES).index(machine)
    special = {name: numbers[column] for name, numbers in _SPECIAL.items()}
    program = [
        _statement(_LOAD, _ARCH),
        _jump(_EQUAL, ARCHITECTURES[machine], 1, 0),
        _statement(_RETURN, _KILL),
        _statement(_LOAD, _NUMBER),
    ]
    if machine == "x86_64":
        program += [_jump(_AT_LEAST, _X32_BIT, 0, 1), _refuse(errno.ENOSYS)]
    for numbers in DENIED.values():
        if (number := numbers[column]) is not None:
            program += _when(number, [_refuse(errno.EPERM)])
    program += _when(special["clone3"], [_refuse(errno.ENOSYS)])
    program += _when(
        special["clone"], [_argument(0), _jump(_ANY_BIT, NEW_NAMESPACES, 0, 1), _refuse(errno.EPERM), _allow()]
    )
    terminal = [_jump(_EQUAL, number, len(TERMINAL_INPUT) - at, 0) for at, number in enumerate(TERMINAL_INPUT.values())]
    program += _when(special["ioctl"], [_argument(1), *terminal, _allow(), _refuse(errno.EPERM)])
    allowed = families(lists_interfaces=lists_interfaces)
    known = [*_only(0, allowed, errno.EAFNOSUPPORT), *_only(2, PROTOCOLS, errno.EPROTONOSUPPORT), _allow()]
    program += _when(special["socket"], known) + _when(special["socketpair"], known)
    return b"".join([*program, _allow()])


def _when(number: int, then: list[bytes]) -> list[bytes]:
    """Run `then`, which must return, for one call; the call number stays loaded for the next test."""
    return [_jump(_EQUAL, number, 0, len(then)), *then]


def _only(argument: int, values: dict[str, int], error: int) -> list[bytes]:
    """Fall through when the argument is one of `values`, else fail the call."""
    tests = [_jump(_EQUAL, value, len(values) - at, 0) for at, value in enumerate(values.values())]
    return [_argument(argument), *tests, _refuse(error)]


def _statement(code: int, value: int) -> bytes:
    return struct.pack("=HBBI", code, 0, 0, value)


def _jump(code: int, value: int, if_true: int, if_false: int) -> bytes:
    return struct.pack("=HBBI", code, if_true, if_false, value)


def _argument(index: int) -> bytes:
    return _statement(_LOAD, _ARGUMENTS + 8 * index)


def _refuse(error: int) -> bytes:
    return _statement(_RETURN, _ERRNO | error)


def _allow() -> bytes:
    return _statement(_RETURN, _ALLOW)
