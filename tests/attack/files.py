"""Files, devices and procfs."""

from __future__ import annotations

from tests.attack.programs import SYSCALL, Attack, tries

FILES: dict[str, Attack] = {
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
    "open_devices": Attack(tries("os.open('/dev/ptmx', os.O_RDWR)", "os.open('/dev/zero', os.O_RDWR)")),
    "read_by_procfs": Attack(
        tries("open('/proc/self/root' + SECRET).read()", "open(f'/proc/{os.getpid()}/cwd/../..' + SECRET).read()")
    ),
    "read_environment_of_others": Attack(tries("open(f'/proc/{VICTIM}/environ').read().index('HARNESS_SECRET')")),
    "read_environment_of_parent": Attack(
        tries("open(f'/proc/{os.getppid()}/status').read()", "open('/proc/self/environ')")
    ),
    "list_processes": Attack(tries("os.listdir('/proc').index(str(VICTIM))", "open(f'/proc/{VICTIM}/cmdline').read()")),
    "own_memory_by_procfs": Attack(tries("open('/proc/self/mem', 'rb')", "open('/proc/self/maps')")),
    "reloaded_module": Attack(tries("importlib.reload(os)\nos.listdir(HOME)", head="import importlib, os")),
    "posix_module": Attack(tries("posix.open(SECRET, posix.O_RDONLY)", head="import posix")),
    "raw_open": Attack(SYSCALL + "breach('openat', call(257, 56, -100, SECRET.encode(), 0, 0))"),
}
