"""What there is to attack, belonging to the user who attacks."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from tests.sandbox.places import PLAIN_UID, plain_helper


class World:
    """Files, listeners and a process; close it. Not in pytest's own folder, which every session closes to others."""

    def __init__(self, user: str) -> None:
        helper = plain_helper() if user == "plain" else None
        owner = PLAIN_UID if helper else os.getuid()
        self.user = user
        self.folder = folder = Path(tempfile.mkdtemp(prefix="harness-attack-"))
        self.sockets = [socket.create_server(("127.0.0.1", 0))]
        for _ in range(2):
            self.sockets.append(socket.socket(type=socket.SOCK_DGRAM))
            self.sockets[-1].bind(("127.0.0.1", 0))
        threading.Thread(target=_name_server, args=(self.sockets[2],), daemon=True).start()
        (folder / "outside").mkdir()
        (folder / "home").mkdir(mode=0o700)
        for name in ("secret", "outside/old", "home/key", "readable"):
            (folder / name).write_text("a secret")
            (folder / name).chmod(0o600)
        abstract = f"\0{folder.name}"
        for address in (str(folder / "unix"), abstract):
            self.sockets.append(socket.socket(socket.AF_UNIX))
            self.sockets[-1].bind(address)
            self.sockets[-1].listen(50)
        for path in [folder, *folder.rglob("*")]:
            os.chown(path, owner, owner) if os.getuid() == 0 else None
        sleep = ["setpriv", f"--reuid={owner}", f"--regid={owner}", "--clear-groups", "sleep", "1000"]
        self.victim = subprocess.Popen(
            sleep if user == "plain" else sleep[-2:], env={"HARNESS_SECRET": "x", **os.environ}
        )
        while Path(f"/proc/{self.victim.pid}/comm").read_text() != "sleep\n":
            time.sleep(0.005)  # still on its way to being sleep
        self.names: dict[str, Any] = {
            "SECRET": str(folder / "secret"),
            "OUTSIDE": str(folder / "outside"),
            "HOME": str(folder / "home"),
            "READABLE": str(folder / "readable"),
            "TCP": self.sockets[0].getsockname()[1],
            "UDP": self.sockets[1].getsockname()[1],
            "DNS": self.sockets[2].getsockname()[1],
            "UNIX": str(folder / "unix"),
            "ABSTRACT": abstract,
            "VICTIM": self.victim.pid,
            "PARENT": helper.pid if helper else os.getpid(),
            "ADDRESS": 0,
        }

    def prelude(self) -> str:
        with open(f"/proc/{self.victim.pid}/maps") as maps:
            self.names["ADDRESS"] = int(maps.readline().split("-")[0], 16)
        return "".join(f"{name} = {value!r}\n" for name, value in self.names.items())

    def state(self) -> list[tuple[str, int, str]]:
        """Every file of the world with its mode and content."""
        files = sorted(path for path in self.folder.rglob("*") if path.is_file())
        return [(str(path), path.stat().st_mode, path.read_text()) for path in files]

    def close(self) -> None:
        self.victim.kill()
        self.victim.wait()
        for each in self.sockets:
            each.close()
        shutil.rmtree(self.folder)


def _name_server(line: socket.socket) -> None:
    """Answers every question with one address, 192.0.2.7, until the socket is closed."""
    while True:
        try:
            query, asker = line.recvfrom(512)
        except OSError:
            return
        answer = bytes([0xC0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 192, 0, 2, 7])
        line.sendto(query[:2] + bytes([0x81, 0x80, 0, 1, 0, 1, 0, 0, 0, 0]) + query[12:] + answer, asker)
