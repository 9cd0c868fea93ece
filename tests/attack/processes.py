"""Other processes, other programs, other users."""

from __future__ import annotations

from tests.attack.programs import SYSCALL, Attack, tries

PROCESSES: dict[str, Attack] = {
    "signal_others": Attack(tries("os.kill(VICTIM, 0)", "os.kill(PARENT, 0)", "os.kill(os.getppid(), 0)")),
    "kill_others": Attack(tries("os.kill(VICTIM, 9)")),
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
    "become_root": Attack(
        tries("os.setresuid(0, 0, 0)", "os.setgroups([0])", "os.setresgid(0, 0, 0)"), needs_root=True
    ),
    "privileges_by_programs": Attack(
        SYSCALL + "breach('no_new_privs', 0 if libc.prctl(39, 0, 0, 0, 0) == 0 else -1)",
    ),
}
