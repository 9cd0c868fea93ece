"""Attacks on the sandbox: small programs that print BREACH when they get through.

Each is preceded by assignments of the names of its world (see test_attacks.World): SECRET, a file of the attacking
user's; OUTSIDE, a folder of theirs; HOME, a folder of theirs closed to others, with a file `key`; TCP, UDP, UNIX,
ABSTRACT, places where somebody listens; VICTIM, a process of theirs with a secret in its environment; READABLE, a file
of theirs that the policy lets the code read.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Attack:
    """needs_root: without walls it works for root only. opened: limits under which it gets through even behind the
    walls, for attacks on a limit; None: it is shown to work by running it without walls."""

    source: str
    needs_root: bool = False
    opened: dict[str, Any] | None = None
    limits: dict[str, Any] = field(default_factory=dict)


def tries(*statements: str, head: str = "import os", error: str = "OSError") -> str:
    """A program that tries each statement by itself."""
    lines = [head]
    for statement in statements:
        body = "\n".join("    " + line for line in statement.splitlines())
        lines.append(f"try:\n{body}\n    print('BREACH', {statement!r})\nexcept {error}:\n    pass")
    return "\n".join(lines)


SYSCALL = """
import ctypes, os, platform
libc = ctypes.CDLL(None, use_errno=True)
ARM = platform.machine() == 'aarch64'
def call(x86, arm, *args):
    args = [ctypes.c_long(a) if isinstance(a, int) else a for a in args]
    return libc.syscall(ctypes.c_long(arm if ARM else x86), *args)
def breach(name, result):
    if result >= 0:
        print('BREACH', name, result)
"""

ATTACKS: dict[str, Attack] = {
    # files
    "read_shadow": Attack(tries("open('/etc/shadow').read()"), needs_root=True),
    "read_passwd": Attack(tries("open('/etc/passwd').read()")),
    "read_secret_file": Attack(tries("open(SECRET).read()")),
    "read_home": Attack(tries("open(HOME + '/key').read()", "os.listdir(HOME)")),
    "list_host_folders": Attack(tries(*(f"os.listdir({path!r})" for path in ("/home", "/etc", "/var", "/proc")))),
    "read_by_symlink": Attack(tries("os.symlink(SECRET, 'link')\nopen('link').read()")),
    "read_by_hard_link": Attack(tries("os.link(SECRET, 'linked')\nopen('linked').read()"), needs_root=True),
    "read_by_dotdot": Attack(tries("open('../' * 20 + SECRET[1:]).read()")),
    "read_by_open_folder": Attack(tries("os.open('etc/passwd', os.O_RDONLY, dir_fd=os.open('/', os.O_PATH))")),
    "read_by_chroot_back": Attack(tries("os.chroot('.')\nos.chroot('..')"), needs_root=True),
    "write_outside": Attack(tries("open(OUTSIDE + '/new', 'w')", "os.mkdir(OUTSIDE + '/folder')")),
    "write_by_symlink": Attack(tries("os.symlink(OUTSIDE, 'out')\nopen('out/new', 'w')")),
    "change_file": Attack(tries("open(SECRET, 'r+').write('x')", "os.truncate(SECRET, 0)")),
    "delete_file": Attack(tries("os.unlink(OUTSIDE + '/old')")),
    "rename_file": Attack(tries("os.rename(OUTSIDE + '/old', OUTSIDE + '/older')")),
    "change_mode": Attack(
        tries("os.chmod(SECRET, 0o666)", "os.utime(SECRET)", "os.chown(SECRET, os.getuid(), os.getgid())")
    ),
    "change_mode_of_readable": Attack(
        tries(
            "os.chmod(READABLE, 0o666)",
            "os.fchmod(os.open(READABLE, os.O_RDONLY), 0o666)",
            "os.utime(os.open(READABLE, os.O_RDONLY))",
            "os.chown(READABLE, -1, os.getgid())",
            "open(READABLE, 'a')",
            "os.open(READABLE, os.O_RDONLY | os.O_TRUNC)",
        )
    ),
    "write_shared_memory_folder": Attack(
        tries("open('/dev/shm/harness-attack', 'w')\nos.unlink('/dev/shm/harness-attack')")
    ),
    "change_the_library": Attack(tries("import json\nopen(json.__file__, 'r+')"), needs_root=True),
    "device_node": Attack(tries("os.mknod('null', 0o20666, os.makedev(1, 3))"), needs_root=True),
    "fill_the_disk": Attack(
        tries(
            "for i in range(64):\n    open(f'f{i}', 'wb').write(bytes(1 << 20))\n    time.sleep(0.02)",
            head="import time",
        ),
        limits={"scratch_mb": 8, "memory_mb": 512},
        opened={"scratch_mb": 100, "memory_mb": 512},
    ),
    # the environment and other processes' data
    "read_environment_of_others": Attack(tries("open(f'/proc/{VICTIM}/environ').read().index('HARNESS_SECRET')")),
    "read_environment_of_parent": Attack(
        tries("open(f'/proc/{os.getppid()}/status').read()", "open('/proc/self/environ')")
    ),
    "list_processes": Attack(tries("os.listdir('/proc').index(str(VICTIM))", "open(f'/proc/{VICTIM}/cmdline').read()")),
    "own_memory_by_procfs": Attack(tries("open('/proc/self/mem', 'rb')", "open('/proc/self/maps')")),
    # network
    "tcp_connect": Attack(tries("socket.create_connection(('127.0.0.1', TCP))", head="import socket")),
    "tcp_listen": Attack(tries("socket.create_server(('127.0.0.1', 0))", head="import socket")),
    "udp_send": Attack(
        tries("socket.socket(type=socket.SOCK_DGRAM).sendto(b'x', ('127.0.0.1', UDP))", head="import socket")
    ),
    "unix_connect": Attack(tries("socket.socket(socket.AF_UNIX).connect(UNIX)", head="import socket")),
    "abstract_connect": Attack(tries("socket.socket(socket.AF_UNIX).connect(ABSTRACT)", head="import socket")),
    "dns": Attack(tries("socket.getaddrinfo('localhost', 80)", head="import socket")),
    "netlink": Attack(tries("socket.socket(socket.AF_NETLINK, socket.SOCK_RAW)", head="import socket")),
    "socket_by_syscall": Attack(SYSCALL + "breach('socket', call(41, 198, 2, 1, 0))"),
    # other processes
    "signal_others": Attack(tries("os.kill(VICTIM, 0)", "os.kill(PARENT, 0)", "os.kill(os.getppid(), 0)")),
    "signal_by_pidfd": Attack(
        tries("signal.pidfd_send_signal(os.pidfd_open(VICTIM), 0)", head="import os, signal"),
    ),
    "ptrace": Attack(SYSCALL + "breach('ptrace', call(101, 117, 0x4206, VICTIM, 0, 0))", needs_root=True),
    "read_memory_of_others": Attack(
        SYSCALL + "here = ctypes.create_string_buffer(8)\n"
        "class V(ctypes.Structure): _fields_ = [('at', ctypes.c_void_p), ('size', ctypes.c_size_t)]\n"
        "local, remote = V(ctypes.addressof(here), 8), V(ADDRESS, 8)\n"
        "breach('process_vm_readv', call(310, 270, VICTIM, ctypes.byref(local), 1, ctypes.byref(remote), 1, 0))",
        needs_root=True,
    ),
    "limits_of_others": Attack(
        tries(
            "resource.prlimit(VICTIM, resource.RLIMIT_NOFILE, (100, 4096))",
            "os.sched_setaffinity(VICTIM, os.sched_getaffinity(0))",
            "os.setpriority(os.PRIO_PROCESS, VICTIM, 1)",
            head="import os, resource",
        )
    ),
    "fork_bomb": Attack(
        tries("for i in range(150):\n    if os.fork() == 0:\n        time.sleep(30)", head="import os, time"),
        limits={"processes": 8},
        opened={"processes": 400, "memory_mb": 8192},
    ),
    "thread_bomb": Attack(
        "import threading, time\n"
        "try:\n    for i in range(150):\n        threading.Thread(target=time.sleep, args=(1,), daemon=True).start()\n"
        "    print('BREACH')\nexcept RuntimeError:\n    pass",
        limits={"processes": 8, "memory_mb": 4096},
        opened={"processes": 400, "memory_mb": 4096},
    ),
    "start_programs": Attack(
        tries(
            "subprocess.run(['/bin/sh', '-c', 'true'], check=True)",
            "subprocess.run(['/usr/bin/id'], check=True, stdout=subprocess.DEVNULL)",
            head="import subprocess",
        )
    ),
    "start_own_program": Attack(
        tries(
            "open('run', 'w').write('#!' + sys.executable + '\\n')\nos.chmod('run', 0o700)\n"
            "subprocess.run(['./run'], check=True)",
            head="import os, subprocess, sys",
        )
    ),
    "escape_by_new_interpreter": Attack(
        tries(
            "subprocess.run([sys.executable, '-I', '-S', '-c', f'open({SECRET!r})'], check=True, stderr=-3)",
            head="import os, subprocess, sys",
            error="(OSError, subprocess.CalledProcessError)",
        )
    ),
    # power
    "become_root": Attack(
        tries("os.setresuid(0, 0, 0)", "os.setgroups([0])", "os.setresgid(0, 0, 0)"), needs_root=True
    ),
    "privileges_by_programs": Attack(
        SYSCALL + "breach('no_new_privs', 0 if libc.prctl(39, 0, 0, 0, 0) == 0 else -1)",
    ),
    "raw_unshare": Attack(SYSCALL + "breach('unshare', call(272, 97, 0x10000000))"),
    "raw_mount": Attack(
        SYSCALL + "call(272, 97, 0x10020000)\n"
        "breach('mount', call(165, 40, b'tmpfs', b'/tmp', b'tmpfs', 0, 0))\n"
        "breach('umount', call(166, 39, b'/tmp', 2))",
    ),
    "raw_clone": Attack(
        SYSCALL + "pid = call(56, 220, 0x10000011, 0, 0, 0, 0)\nif pid == 0: os._exit(0)\nbreach('clone', pid)"
    ),
    "kernel_surface": Attack(
        SYSCALL + "page = ctypes.create_string_buffer(256)\n"
        "for name, x86, arm, args in [('keyctl', 250, 219, (0, -3, 0)), ('io_uring_setup', 425, 425, (1, page)),\n"
        "    ('bpf', 321, 280, (0, page, 48)), ('userfaultfd', 323, 282, (1,)),\n"
        "    ('memfd_create', 319, 279, (b'm', 0)),\n"
        "    ('shmget', 29, 194, (0, 4096, 0o600)), ('personality', 135, 92, (0x0040000,)),\n"
        "    ('inotify_add_watch', 254, 27, (call(294, 26, 0), b'/', 2)),\n"
        "    ('kcmp', 312, 272, (VICTIM, VICTIM, 0, 0, 0)),\n"
        "    ('mq_open', 240, 180, (b'harness-attack', 0o100, 0o600, 0)),\n"
        "    ('statmount', 457, 457, (page, page, 256, 0)),\n"
        "    ('name_to_handle_at', 303, 264, (-100, b'/', page, page, 0)), ('setns', 308, 268, (0, 0))]:\n"
        "    breach(name, call(x86, arm, *args))"
    ),
    "memory_bomb": Attack(
        tries("x = bytearray(2 << 30)", error="MemoryError"),
        limits={"memory_mb": 512},
        opened={"memory_mb": 4096},
    ),
    "memory_bomb_by_mmap": Attack(
        tries("mmap.mmap(-1, 2 << 30)", head="import mmap", error="(OSError, MemoryError)"),
        limits={"memory_mb": 512},
        opened={"memory_mb": 4096},
    ),
    "memory_of_many_processes": Attack(
        tries(
            "for i in range(4):\n    if os.fork() == 0:\n        x = b'x' * (200 << 20)\n        time.sleep(1.5)\n"
            "        os._exit(0)\nfor i in range(4):\n    assert os.wait()[1] == 0",
            head="import os, time",
        ),
        limits={"memory_mb": 512},
        opened={"memory_mb": 2048},
    ),
    # ways round what Python offers
    "reloaded_module": Attack(tries("importlib.reload(os)\nos.listdir(HOME)", head="import importlib, os")),
    "posix_module": Attack(tries("posix.open(SECRET, posix.O_RDONLY)", head="import posix")),
    "raw_open": Attack(SYSCALL + "breach('openat', call(257, 56, -100, SECRET.encode(), 0, 0))"),
    "keyrings": Attack(SYSCALL + "breach('keyctl', call(250, 219, 0, -3, 0))"),
    "bpf": Attack(
        SYSCALL + "breach('bpf', call(321, 280, 0, (ctypes.c_uint32 * 32)(2, 4, 4, 1), 128))", needs_root=True
    ),
    "io_uring": Attack(
        SYSCALL + "breach('io_uring_setup', call(425, 425, 4, ctypes.create_string_buffer(120)))", needs_root=True
    ),
    "perf_event": Attack(
        SYSCALL + "breach('perf_event_open', call(298, 241, (ctypes.c_uint64 * 16)(1, 0, 0), 0, -1, -1, 0))",
        needs_root=True,
    ),
    "anonymous_file": Attack(SYSCALL + "breach('memfd_create', call(319, 279, b'x', 0))"),
    "shared_memory": Attack(
        SYSCALL + "at = call(29, 194, 0, 4096, 0o1600)\nbreach('shmget', at)\ncall(31, 195, at, 0, 0)"
    ),
}
