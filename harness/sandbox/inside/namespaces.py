"""Private namespaces: an own root folder with a few read-only places, no network, no sight of other processes."""

from __future__ import annotations

import os

from . import kernel

# Not /dev/zero: mapped, it is shared memory of no file, which seccomp refuses.
DEVICES = ("/dev/null", "/dev/full", "/dev/random", "/dev/urandom")
SCRATCH = "/scratch"
OLD = "/.old"


def _write(path: str, text: str) -> None:
    """Raises OSError."""
    with open(path, "w") as file:
        file.write(text)


def enter_user(privileged: bool) -> None:
    """Enters a new user namespace; the next child starts a new process namespace.

    privileged: we may map every user (so that the code can run as another one); otherwise only ourselves.
    Raises SetupError or OSError.
    """
    uid, gid, me = os.geteuid(), os.getegid(), os.getpid()
    if not privileged:
        kernel.unshare(kernel.CLONE_NEWUSER | kernel.CLONE_NEWPID, "user and process namespaces")
        _write("/proc/self/setgroups", "deny")
        _write("/proc/self/uid_map", f"{uid} {uid} 1")
        _write("/proc/self/gid_map", f"{gid} {gid} 1")
        return
    # Only a process outside may write more than its own line.
    ready, go = os.pipe()
    writer = os.fork()
    if writer == 0:
        status = 1
        try:
            os.close(go)
            if os.read(ready, 1):
                for kind in ("uid_map", "gid_map"):
                    with open(f"/proc/self/{kind}") as file:
                        lines = [line.split() for line in file]
                    _write(f"/proc/{me}/{kind}", "".join(f"{first} {first} {count}\n" for first, _, count in lines))
                status = 0
        finally:
            os._exit(status)
    os.close(ready)
    try:
        kernel.unshare(kernel.CLONE_NEWUSER | kernel.CLONE_NEWPID, "user and process namespaces")
        os.write(go, b"x")
    finally:
        os.close(go)
        _, status = os.waitpid(writer, 0)
    if status:
        raise kernel.SetupError("map of users for the user namespace: not permitted")


def _bind(path: str, attributes: int) -> None:
    """Shows a file or folder of the old root at the same place of the new one, read-only."""
    source = OLD + path
    if os.path.isdir(source):
        os.makedirs(path, exist_ok=True)
    else:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        os.close(os.open(path, os.O_CREAT | os.O_WRONLY, 0o644))
    kernel.mount(source, path, None, kernel.MS_BIND | kernel.MS_REC)
    kernel.restrict_mount(path, kernel.ATTR_RDONLY | kernel.ATTR_NOSUID | attributes, recursive=True)


def enter_root(read: list[str], scratch_mb: int, uid: int | None) -> None:
    """In the child of enter_user: new mount, network, IPC and UTS namespaces, and a root of our own.

    read: real paths to show; the scratch folder (scratch_mb MiB of memory, owned by uid) becomes the working folder.
    Raises SetupError or OSError.
    """
    kernel.unshare(
        kernel.CLONE_NEWNS | kernel.CLONE_NEWNET | kernel.CLONE_NEWIPC | kernel.CLONE_NEWUTS | kernel.CLONE_NEWCGROUP,
        "mount, network, IPC, UTS and cgroup namespaces",
    )
    os.umask(0o022)
    safe = kernel.MS_NOSUID | kernel.MS_NODEV
    kernel.mount("none", "/", None, kernel.MS_REC | kernel.MS_PRIVATE)
    kernel.mount("tmpfs", "/tmp", "tmpfs", safe, "size=1m,mode=755")
    os.mkdir("/tmp" + OLD)
    kernel.pivot_root("/tmp", "/tmp" + OLD)
    os.chdir("/")

    os.mkdir(SCRATCH)
    kernel.mount("tmpfs", SCRATCH, "tmpfs", safe, f"size={scratch_mb}m,nr_inodes=10000,mode=700")
    if uid is not None:
        os.chown(SCRATCH, uid, uid)
    for path in read:
        _bind(path, kernel.ATTR_NODEV)
    for path in DEVICES:
        _bind(path, kernel.ATTR_NOEXEC)
    if not os.path.exists("/tmp"):  # what is read may lie there
        os.symlink(SCRATCH, "/tmp")
    for name in ("bin", "sbin", "lib", "lib32", "lib64"):
        if os.path.islink(f"{OLD}/{name}") and not os.path.lexists(f"/{name}"):
            os.symlink(os.readlink(f"{OLD}/{name}"), f"/{name}")

    kernel.unmount(OLD)
    os.rmdir(OLD)
    kernel.restrict_mount("/", kernel.ATTR_RDONLY, recursive=False)
    os.chdir(SCRATCH)
