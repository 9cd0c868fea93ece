"""System calls that no honest code needs, one attack each, and those by which a process would gain powers."""

from __future__ import annotations

from tests.attack.programs import SYSCALL, Attack

# Number on x86_64, on aarch64, and arguments that the kernel's own code answers with something else than EPERM.
CALLS: dict[str, tuple[int, int, str]] = {
    "keyctl": (250, 219, "0, -3, 0"),
    "add_key": (248, 217, "0, 0, 0, 0, 0"),
    "request_key": (249, 218, "0, 0, 0, 0"),
    "bpf": (321, 280, "0, page, 1 << 20"),
    "perf_event_open": (298, 241, "page, 0, -1, -1, 1 << 20"),
    "io_uring_setup": (425, 425, "4, 1"),
    "io_uring_enter": (426, 426, "-1, 0, 0, 0, 0, 0"),
    "io_setup": (206, 0, "1, 1"),
    "userfaultfd": (323, 282, "1"),
    "memfd_create": (319, 279, "b'm', 0"),
    "personality": (135, 92, "0x40000"),
    "inotify_add_watch": (254, 27, "-1, b'/', 2"),
    "kcmp": (312, 272, "VICTIM, VICTIM, 0, 0, 0"),
    "process_madvise": (440, 440, "-1, 0, 0, 0, 0"),
    "process_vm_writev": (311, 271, "VICTIM, 1, 1, 1, 1, 0"),
    "pidfd_getfd": (438, 438, "-1, 0, 0"),
    "move_pages": (279, 239, "0, 0, 0, 0, 0, 0"),
    "ioprio_set": (251, 30, "1, 0, 0"),
    "semget": (64, 190, "0, -1, 0"),
    "msgget": (68, 186, "77, 0"),
    "mq_open": (240, 180, "b'harness-attack', 0, 0, 0"),
    "setns": (308, 268, "-1, 0"),
    "open_tree": (428, 428, "-1, 1, 0"),
    "mount_setattr": (442, 442, "-1, 0, -1, 0, 0"),
    "statmount": (457, 457, "1, 1, 1, 1"),
    "name_to_handle_at": (303, 264, "-100, b'/', page, page, 0"),
    "settimeofday": (164, 170, "1, 0"),
    "newer_than_the_list": (463, 463, "-1, 1, 0, 0, 0, 0"),
}
ROOTS_CALLS: dict[str, tuple[int, int, str]] = {
    "open_by_handle_at": (304, 265, "-1, 1, 0"),
    "pivot_root": (155, 41, "1, 1"),
    "fsopen": (430, 430, "1, 0"),
    "move_mount": (429, 429, "-1, 1, -1, 1, 0"),
    "swapon": (167, 224, "b'/none', 0"),
    "swapoff": (168, 225, "b'/none'"),
    "syslog": (103, 116, "10, 0, 0"),
    "init_module": (175, 105, "1, 1, 1"),
    "reboot": (169, 142, "0, 0, 0, 0"),
    "sethostname": (170, 161, "1, -1"),
}

KERNEL: dict[str, Attack] = {
    f"call_{name}": Attack(f"{SYSCALL}reach({name!r}, call({x86}, {arm}, {args}))", needs_root=name in ROOTS_CALLS)
    for name, (x86, arm, args) in (CALLS | ROOTS_CALLS).items()
} | {
    "raw_unshare": Attack(SYSCALL + "breach('unshare', call(272, 97, 0x10000000))"),
    "raw_mount": Attack(
        SYSCALL + "call(272, 97, 0x10020000)\n"
        "breach('mount', call(165, 40, b'tmpfs', b'/tmp', b'tmpfs', 0, 0))\n"
        "breach('umount', call(166, 39, b'/tmp', 2))",
    ),
    "raw_clone": Attack(
        SYSCALL + "pid = call(56, 220, 0x10000011, 0, 0, 0, 0)\nif pid == 0: os._exit(0)\nbreach('clone', pid)"
    ),
    "shared_memory_segment": Attack(
        SYSCALL + "at = call(29, 194, 0, 4096, 0o1600)\nbreach('shmget', at)\ncall(31, 195, at, 0, 0)"
    ),
}
