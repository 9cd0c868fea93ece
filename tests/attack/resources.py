"""Disk, processes, memory and processor time: each attack gets through where its limit is higher."""

from __future__ import annotations

from tests.attack.programs import SYSCALL, Attack, tries

PRIVATE_MAP = "mmap.mmap(-1, {}, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)"
FOUR = """
for i in range(4):
    if os.fork() == 0:
        try:
            m = {}
            for at in range(0, 200 << 20, 4096): m[at] = 1
            {}
            time.sleep(1)
            os._exit(0)
        finally:
            os._exit(1)
for i in range(4):
    if os.wait()[1]: raise OSError
"""
SPIN = """
import signal, time
{}
while time.process_time() < 1.6:
    try:
        while time.process_time() < 1.6: pass
    except BaseException: pass
print('BREACH')
"""
SHORT_TIME = {"limits": {"cpu_seconds": 0.5, "wall_seconds": 20}, "opened": {"cpu_seconds": 20}}

RESOURCES: dict[str, Attack] = {
    "fill_the_disk": Attack(
        tries(
            "for i in range(64):\n    open(f'f{i}', 'wb').write(bytes(1 << 20))\n    time.sleep(0.02)",
            head="import time",
        ),
        limits={"scratch_mb": 8, "memory_mb": 512},
        opened={"scratch_mb": 100, "memory_mb": 512},
    ),
    # processes
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
    # memory
    "memory_bomb": Attack(
        tries("x = bytearray(2 << 30)", error="MemoryError"),
        limits={"memory_mb": 512},
        opened={"memory_mb": 4096},
    ),
    "memory_bomb_by_mmap": Attack(
        tries(PRIVATE_MAP.format("2 << 30"), head="import mmap", error="(OSError, MemoryError)"),
        limits={"memory_mb": 512},
        opened={"memory_mb": 4096},
    ),
    "memory_bomb_into_swap": Attack(
        tries(
            f"kept = []\nfor i in range(16):\n    kept.append({PRIVATE_MAP.format('64 << 20')})\n"
            "    for at in range(0, 64 << 20, 4096): kept[-1][at] = 1\n    kept[-1].madvise(21)  # MADV_PAGEOUT",
            head="import mmap",
            error="(OSError, MemoryError)",
        ),
        limits={"memory_mb": 512},
        opened={"memory_mb": 4096},
    ),
    "memory_of_many_processes": Attack(
        tries(FOUR.format(PRIVATE_MAP.format("200 << 20"), "").strip("\n"), head="import mmap, os, time"),
        limits={"memory_mb": 512},
        opened={"memory_mb": 2048},
    ),
    "shared_memory_of_many_processes": Attack(
        tries(FOUR.format("mmap.mmap(-1, 200 << 20)", "").strip("\n"), head="import mmap, os, time"),
        limits={"memory_mb": 512},
    ),
    "shared_memory_let_go_of": Attack(
        tries(FOUR.format("mmap.mmap(-1, 200 << 20)", "m.madvise(4)").strip("\n"), head="import mmap, os, time"),
        limits={"memory_mb": 512},
    ),
    "shared_memory_by_a_device": Attack(tries("mmap.mmap(os.open('/dev/zero', 2), 4096)", head="import mmap, os")),
    # processor time and the clock
    "busy_loop_with_caught_exceptions": Attack(SPIN.format(""), **SHORT_TIME),
    "busy_loop_with_caught_signals": Attack(
        SPIN.format("for number in (signal.SIGXCPU, signal.SIGTERM): signal.signal(number, lambda *a: None)"),
        **SHORT_TIME,
    ),
    "busy_loop_in_c": Attack("if sum(range(10 ** 8)):\n    print('BREACH')", **SHORT_TIME),
    "busy_children_at_once": Attack(
        "import os, time\nfor i in range(4):\n    if os.fork() == 0:\n        while time.process_time() < 0.4: pass\n"
        "        os._exit(0)\nfor i in range(4): os.wait()\nprint('BREACH')",
        **SHORT_TIME,
    ),
    "busy_children_in_turn": Attack(
        "import os, time\nfor i in range(16):\n    if os.fork() == 0:\n        while time.process_time() < 0.1: pass\n"
        "        os._exit(0)\n    os.wait()\nprint('BREACH')",
        **SHORT_TIME,
    ),
    "busy_children_nobody_waits_for": Attack(
        tries(
            "signal.signal(signal.SIGCHLD, signal.SIG_IGN)\nfor i in range(16):\n    if os.fork() == 0:\n"
            "        while time.process_time() < 0.1: pass\n        os._exit(0)\n"
            "    with contextlib.suppress(ChildProcessError): os.wait()",
            head="import contextlib, os, signal, time",
        ),
        limits={"cpu_seconds": 0.5, "wall_seconds": 20},
    ),
    "busy_children_nobody_waits_for_by_libc": Attack(
        # struct sigaction with SIG_IGN first, at an address whose low half is zero
        SYSCALL + "libc.mmap.restype = ctypes.c_void_p\n"
        "at = libc.mmap(ctypes.c_void_p(1 << 32), ctypes.c_size_t(4096), 3, 0x32, -1, ctypes.c_size_t(0))\n"
        "assert at == 1 << 32\n"
        "ctypes.c_uint64.from_address(at).value = 1\n"
        "breach('rt_sigaction', call(13, 134, 17, at, 0, 8))"
    ),
    "sleep": Attack(
        "import time\ntime.sleep(1.2)\nprint('BREACH')", limits={"wall_seconds": 0.4}, opened={"wall_seconds": 10}
    ),
    "sleep_with_caught_signals": Attack(
        "import signal, time\nfor number in {*range(1, 32)} - {9, 17, 19}: signal.signal(number, lambda *a: None)\n"
        "time.sleep(1.2)\nprint('BREACH')",
        limits={"wall_seconds": 0.4},
        opened={"wall_seconds": 10},
    ),
}
