"""What the server listens on: an address, a Unix socket, what systemd hands over; and with which TLS.

Nothing but the machine itself may reach a server that has no password and no encryption.
"""

from __future__ import annotations

import contextlib
import errno
import ipaddress
import os
import socket
import ssl
import stat
from collections.abc import Mapping
from pathlib import Path

from mountstore.errors import MountstoreError, UsageError

_FIRST_FD = 3
_BACKLOG = 512


def listen_tcp(host: str, port: int, *, is_guarded: bool) -> list[socket.socket]:
    """Sockets listening on all addresses of `host`. `is_guarded`: there is a password, and TLS.

    Raises UsageError for an address that others reach, unless it is guarded.
    """
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError, OverflowError):
        raise UsageError(f"{host!r}, port {port}: not an address to listen on") from None
    listening: list[socket.socket] = []
    try:
        for family, kind, protocol, _, address in dict.fromkeys(found):
            check_reach(str(address[0]), is_guarded=is_guarded)
            sock = socket.socket(family, kind, protocol)
            listening.append(sock)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            # All addresses of a name have one port, also where the system chooses it.
            bound = (address[0], listening[0].getsockname()[1] if len(listening) > 1 else port, *address[2:])
            sock.bind(bound)
            sock.listen(_BACKLOG)
    except OSError as error:
        _close(listening)
        raise MountstoreError(f"cannot listen on {host} port {port}: {error.strerror}") from None
    except BaseException:
        _close(listening)
        raise
    return listening


def listen_unix(path: Path) -> socket.socket:
    """A Unix socket at `path`, for its owner and group. One that a dead server left there is replaced."""
    with contextlib.suppress(FileNotFoundError):
        if not stat.S_ISSOCK(path.lstat().st_mode):
            raise UsageError(f"{path} is there, and no socket; name another path")
        if _answers(path):
            raise MountstoreError(f"{path}: a server listens there already")
        path.unlink()
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    before = os.umask(0o117)
    try:
        sock.bind(str(path))
        sock.listen(_BACKLOG)
    except OSError as error:
        sock.close()
        raise MountstoreError(f"cannot listen on {path}: {error.strerror or error}") from None
    finally:
        os.umask(before)
    return sock


def adopt_sockets(
    *, is_guarded: bool, environment: Mapping[str, str] = os.environ, pid: int | None = None
) -> list[socket.socket]:
    """The listening sockets that systemd hands over (sd_listen_fds(3)). Raises UsageError."""
    ours = str(os.getpid() if pid is None else pid)
    count = environment.get("LISTEN_FDS", "")
    if not count.isdecimal() or not int(count) or environment.get("LISTEN_PID", ours) != ours:
        raise UsageError("--socket-activation: no sockets were handed over; let a .socket unit start this")
    adopted = [socket.socket(fileno=os.dup(_FIRST_FD + number)) for number in range(int(count))]
    try:
        for number, sock in enumerate(adopted):
            os.close(_FIRST_FD + number)
            if sock.type != socket.SOCK_STREAM or not _listens(sock):
                raise UsageError("--socket-activation wants listening stream sockets: Accept=no in the unit")
            if sock.family != socket.AF_UNIX:
                check_reach(sock.getsockname()[0], is_guarded=is_guarded)
    except BaseException:
        _close(adopted)
        raise
    return adopted


def check_reach(address: str, *, is_guarded: bool) -> None:
    """Raises UsageError if others reach this address and the server is not guarded."""
    if not is_guarded and not ipaddress.ip_address(address.partition("%")[0]).is_loopback:
        raise UsageError(
            f"{address} can be reached from other machines: give --user, --password-file, --tls-cert and "
            "--tls-key, or listen on 127.0.0.1 behind a reverse proxy"
        )


def tls_context(certificate: Path, key: Path) -> ssl.SSLContext:
    """TLS 1.2 or newer with this certificate. Raises UsageError."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_COMPRESSION
    context.set_alpn_protocols(["http/1.1"])
    try:
        # Without the callback a key that is encrypted would ask for its password at the terminal.
        context.load_cert_chain(certificate, key, password=_no_password)
    except FileNotFoundError:
        missing = certificate if not certificate.exists() else key
        raise UsageError(f"{missing}: no such file") from None
    except ssl.SSLError:
        raise UsageError(f"{certificate} and {key} are not a certificate and its key, in PEM") from None
    except OSError as error:
        raise UsageError(f"{certificate}, {key}: {error.strerror}") from None
    return context


def _no_password() -> str:
    raise UsageError("the key of --tls-key is encrypted; give one that is not, readable by the server alone")


def address_of(sock: socket.socket) -> str:
    """Where a listening socket can be reached, for people and for programs."""
    name = sock.getsockname()
    if sock.family == socket.AF_UNIX:
        return f"unix:{name if isinstance(name, str) else name.decode(errors='replace')}"
    host = f"[{name[0]}]" if ":" in name[0] else name[0]
    return f"{host}:{name[1]}"


def _listens(sock: socket.socket) -> bool:
    return bool(sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN))


def _answers(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(str(path))
        except OSError as error:
            return error.errno not in (errno.ECONNREFUSED, errno.ENOENT)
        return True


def _close(socks: list[socket.socket]) -> None:
    for sock in socks:
        sock.close()
