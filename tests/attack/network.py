"""The network: DNS is a name server of the world, which answers whoever asks it."""

from __future__ import annotations

from tests.attack.programs import SYSCALL, Attack, tries

NETWORK: dict[str, Attack] = {
    "tcp_connect": Attack(tries("socket.create_connection(('127.0.0.1', TCP))", head="import socket")),
    "tcp_listen": Attack(tries("socket.create_server(('127.0.0.1', 0))", head="import socket")),
    "udp_send": Attack(
        tries("socket.socket(type=socket.SOCK_DGRAM).sendto(b'x', ('127.0.0.1', UDP))", head="import socket")
    ),
    "unix_connect": Attack(tries("socket.socket(socket.AF_UNIX).connect(UNIX)", head="import socket")),
    "abstract_connect": Attack(tries("socket.socket(socket.AF_UNIX).connect(ABSTRACT)", head="import socket")),
    "dns": Attack(tries("socket.getaddrinfo('localhost', 80)", head="import socket")),
    "dns_by_raw_udp": Attack(
        tries(
            "line = socket.socket(type=socket.SOCK_DGRAM)\n"
            "line.settimeout(5)\n"
            "query = bytes.fromhex('abcd01000001000000000000') + b'\\7harness\\4test\\0\\0\\1\\0\\1'\n"
            "line.sendto(query, ('127.0.0.1', DNS))\n"
            "assert line.recv(512).endswith(bytes([192, 0, 2, 7]))",
            head="import socket",
        )
    ),
    "netlink": Attack(tries("socket.socket(socket.AF_NETLINK, socket.SOCK_RAW)", head="import socket")),
    "socket_by_syscall": Attack(SYSCALL + "breach('socket', call(41, 198, 2, 1, 0))"),
}
