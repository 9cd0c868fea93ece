"""A seccomp filter: the system calls that model-written code has no business with fail with EPERM.

It is a list of what is denied. Numbers newer than the tables fail with ENOSYS, so that a new kernel adds no hole.
"""

from __future__ import annotations

import ctypes
import errno

from . import kernel

# name: (x86_64, aarch64); None where the processor lacks the call.
DENIED: dict[str, tuple[int | None, int | None]] = {
    # network (socketpair is judged below)
    "socket": (41, 198),
    # other processes
    "ptrace": (101, 117), "process_vm_readv": (310, 270), "process_vm_writev": (311, 271), "kcmp": (312, 272),
    "process_madvise": (440, 440), "process_mrelease": (448, 448), "pidfd_getfd": (438, 438),
    "move_pages": (279, 239), "migrate_pages": (256, 238), "setpriority": (141, 140), "ioprio_set": (251, 30),
    "perf_event_open": (298, 241),
    # namespaces and mounts
    "unshare": (272, 97), "setns": (308, 268), "mount": (165, 40), "umount2": (166, 39), "pivot_root": (155, 41),
    "chroot": (161, 51), "move_mount": (429, 429), "open_tree": (428, 428), "fsopen": (430, 430),
    "fsconfig": (431, 431), "fsmount": (432, 432), "fspick": (433, 433), "mount_setattr": (442, 442),
    "name_to_handle_at": (303, 264), "open_by_handle_at": (304, 265), "statmount": (457, 457), "listmount": (458, 458),
    # parts of the kernel with a long record of holes
    "keyctl": (250, 219), "add_key": (248, 217), "request_key": (249, 218), "bpf": (321, 280),
    "userfaultfd": (323, 282), "io_uring_setup": (425, 425), "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427), "io_setup": (206, 0), "io_submit": (209, 2), "modify_ldt": (154, None),
    "personality": (135, 92), "lookup_dcookie": (212, 18),
    # memory and queues that no limit counts, or that outlive the run
    "memfd_create": (319, 279), "memfd_secret": (447, 447), "shmget": (29, 194), "shmat": (30, 196),
    "shmctl": (31, 195), "semget": (64, 190), "semop": (65, 193), "semctl": (66, 191), "semtimedop": (220, 192),
    "msgget": (68, 186), "msgsnd": (69, 189), "msgrcv": (70, 188), "msgctl": (71, 187), "mq_open": (240, 180),
    "mq_unlink": (241, 181),
    # watching files that cannot be read
    "inotify_add_watch": (254, 27), "fanotify_init": (300, 262), "fanotify_mark": (301, 263),
    # the machine
    "swapon": (167, 224), "swapoff": (168, 225), "reboot": (169, 142), "kexec_load": (246, 104),
    "kexec_file_load": (320, 294), "init_module": (175, 105), "finit_module": (313, 273), "delete_module": (176, 106),
    "iopl": (172, None), "ioperm": (173, None), "settimeofday": (164, 170), "clock_settime": (227, 112),
    "clock_adjtime": (305, 266), "adjtimex": (159, 171), "acct": (163, 89), "quotactl": (179, 60),
    "quotactl_fd": (443, 443), "syslog": (103, 116), "sethostname": (170, 161), "setdomainname": (171, 162),
    "vhangup": (153, 58),
}  # fmt: skip

# Landlock leaves these open on files that the user owns: by path anywhere, by descriptor those that may be read.
CHANGE_OWN_FILES: dict[str, tuple[int | None, int | None]] = {
    "chmod": (90, None), "fchmodat": (268, 53), "fchmodat2": (452, 452), "chown": (92, None), "lchown": (94, None),
    "fchownat": (260, 54), "utime": (132, None), "utimes": (235, None), "futimesat": (261, None),
    "setxattr": (188, 5), "lsetxattr": (189, 6), "removexattr": (197, 14), "lremovexattr": (198, 15),
    "utimensat": (280, 88), "fchmod": (91, 52), "fchown": (93, 55), "fsetxattr": (190, 7), "fremovexattr": (199, 16),
}  # fmt: skip

SIGNALS: dict[str, tuple[int, int]] = {
    "rt_sigqueueinfo": (129, 138), "rt_tgsigqueueinfo": (297, 240), "pidfd_send_signal": (424, 424),
}  # fmt: skip

NAMESPACE_FLAGS = 0x7E020000
CLONE, CLONE3, SOCKETPAIR, IOCTL, FCNTL, PRLIMIT = (56, 220), (435, 435), (53, 199), (16, 29), (72, 25), (302, 261)
SCHED_OF_PID = ((203, 122), (144, 119), (142, 118), (314, 274))  # setaffinity, setscheduler, setparam, setattr
KILL, TKILL, TGKILL, PIDFD_OPEN = (62, 129), (200, 130), (234, 131), (434, 434)
FIRST = 1
"""The zygote, in a namespace of its own; elsewhere the machine's init. Nobody's but ours to signal."""
LAST_KNOWN = 462
X32_BIT = 0x40000000

LOAD, ALU_AND, JUMP_EQUAL, JUMP_AT_LEAST, JUMP_ANY_BIT, RETURN = 0x20, 0x54, 0x15, 0x35, 0x45, 0x06
ALLOW, FAIL, KILL_PROCESS = 0x7FFF0000, 0x00050000, 0x80000000
AT_NUMBER, AT_MACHINE, AT_ARGUMENTS = 0, 4, 16
AUDIT_ARCH = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}

Instruction = tuple[int, int, int, int]


def _argument(index: int) -> Instruction:
    """Loads the low word of an argument (both processors are little-endian)."""
    return (LOAD, 0, 0, AT_ARGUMENTS + 8 * index)


def _fail(number: int | None, error: int = errno.EPERM) -> list[Instruction]:
    return [] if number is None else [(JUMP_EQUAL, 0, 1, number), (RETURN, 0, 0, FAIL | error)]


def _judge(number: int, tests: list[Instruction]) -> list[Instruction]:
    """For one call: tests that fall through to EPERM, or jump over one more instruction to be let through."""
    body = [*tests, (RETURN, 0, 0, FAIL | errno.EPERM), (LOAD, 0, 0, AT_NUMBER)]
    return [(JUMP_EQUAL, 0, len(body), number), *body]


def _unless_equal(number: int, index: int, allowed: int) -> list[Instruction]:
    return _judge(number, [_argument(index), (JUMP_EQUAL, 1, 0, allowed)])


def _if_equal(number: int, index: int, denied: int) -> list[Instruction]:
    return _judge(number, [_argument(index), (JUMP_EQUAL, 0, 1, denied)])


def program(machine: str, signals_to: int | None, change_own_files: bool) -> list[Instruction]:
    """The filter. signals_to: the only process that may be signalled, None for no such rule (something else confines
    signals); change_own_files: whether chmod and its like may be used."""
    at = list(AUDIT_ARCH).index(machine)
    code: list[Instruction] = [
        (LOAD, 0, 0, AT_MACHINE), (JUMP_EQUAL, 1, 0, AUDIT_ARCH[machine]), (RETURN, 0, 0, KILL_PROCESS),
        (LOAD, 0, 0, AT_NUMBER),
        (JUMP_AT_LEAST, 0, 1, X32_BIT), (RETURN, 0, 0, FAIL | errno.EPERM),
        (JUMP_AT_LEAST, 0, 1, LAST_KNOWN + 1), (RETURN, 0, 0, FAIL | errno.ENOSYS),
    ]  # fmt: skip
    for denied_call in DENIED.values():
        code += _fail(denied_call[at])
    code += _fail(CLONE3[at], errno.ENOSYS)  # its flags are in memory, out of sight; libc falls back to clone
    code += _judge(CLONE[at], [_argument(0), (JUMP_ANY_BIT, 0, 1, NAMESPACE_FLAGS)])
    code += _unless_equal(SOCKETPAIR[at], 0, 1)
    for denied in (0x5412, 0x541C):  # TIOCSTI, TIOCLINUX: typing into a terminal
        code += _if_equal(IOCTL[at], 1, denied)
    for denied in (8, 15):  # F_SETOWN, F_SETOWN_EX: SIGIO to any process
        code += _if_equal(FCNTL[at], 1, denied)
    for numbers in (PRLIMIT, *SCHED_OF_PID):  # process 0 is oneself
        code += _unless_equal(numbers[at], 0, 0)
    for numbers in (KILL, TKILL, TGKILL, PIDFD_OPEN, SIGNALS["rt_sigqueueinfo"], SIGNALS["rt_tgsigqueueinfo"]):
        code += _if_equal(numbers[at], 0, FIRST)
    if not change_own_files:
        for pair in CHANGE_OWN_FILES.values():
            code += _fail(pair[at])
    if signals_to is not None:
        for pair in SIGNALS.values():
            code += _fail(pair[at])
        for numbers in (TKILL, TGKILL):
            code += _unless_equal(numbers[at], 0, signals_to)
        code += _judge(KILL[at], [_argument(0), (JUMP_EQUAL, 2, 0, signals_to), (JUMP_EQUAL, 1, 0, 0)])
    return [*code, (RETURN, 0, 0, ALLOW)]


class _Filter(ctypes.Structure):
    _fields_ = [("code", ctypes.c_uint16), ("jt", ctypes.c_uint8), ("jf", ctypes.c_uint8), ("k", ctypes.c_uint32)]


class _Program(ctypes.Structure):
    _fields_ = [("length", ctypes.c_ushort), ("filter", ctypes.POINTER(_Filter))]


def assemble(code: list[Instruction]) -> ctypes.Structure:
    """The filter as the kernel takes it."""
    return _Program(len(code), (_Filter * len(code))(*(_Filter(*instruction) for instruction in code)))


def install(filter: ctypes.Structure) -> None:
    """Puts the filter on this thread and all it starts; no_new_privs must be set. Raises SetupError."""
    kernel.seccomp_filter(filter)
