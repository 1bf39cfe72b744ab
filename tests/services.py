"""Real servers from Debian for the tests: Redis and nginx, on free loopback ports, with data of their own.

Each is a context manager; tests/stores/conftest.py makes fixtures of them. A server dies with the process
that started it, is ended by its pid, and leaves nothing behind. They are installed by scripts/test.
"""

from __future__ import annotations

import contextlib
import datetime
import ipaddress
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.servers import free_port

START_DEADLINE_S = 30.0

# The child asks to be killed with its parent before it becomes the server.
_BOOT = """
import ctypes, os, signal, sys
ctypes.CDLL(None).prctl(1, signal.SIGKILL, 0, 0, 0)
if os.getppid() != int(sys.argv[1]):
    sys.exit(1)
os.execv(sys.argv[2], sys.argv[2:])
"""


@dataclass
class Service:
    """A running server: its port, its folder (data, log) and the process behind it."""

    name: str
    port: int
    folder: Path
    process: subprocess.Popen[bytes] = field(repr=False)

    def end(self) -> None:
        """Kill it, as a crash would, and wait for its end."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.process.pid, signal.SIGKILL)
        self.process.wait(timeout=30)

    def pause(self) -> None:
        """Freeze it: connections are accepted by the kernel, and nothing answers."""
        os.kill(self.process.pid, signal.SIGSTOP)

    def resume(self) -> None:
        os.kill(self.process.pid, signal.SIGCONT)


@contextlib.contextmanager
def redis_server(*options: str) -> Iterator[Service]:
    """A Redis without persistence; `options` are added to its command line, PORT being its port."""

    def command(port: int, folder: Path) -> list[str]:
        given = [str(port) if option == "PORT" else option for option in options]
        plain = ["--bind", "127.0.0.1", "--port", str(port), "--dir", str(folder)]
        return [found("redis-server"), *plain, "--save", "", "--daemonize", "no", *given]

    with running("redis-server", command) as service:
        yield service


@contextlib.contextmanager
def nginx(servers: Callable[[int, Path], str]) -> Iterator[Service]:
    """An nginx whose `http` block holds what `servers(port, folder)` says; one of them listens on port."""

    def command(port: int, folder: Path) -> list[str]:
        paths = "".join(
            f"{name}_temp_path {folder}/{name};\n"
            for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        )
        user = "user root;\n" if not os.getuid() else ""
        (folder / "nginx.conf").write_text(
            f"{user}daemon off;\nmaster_process off;\nworker_processes 1;\npid {folder}/pid;\n"
            f"error_log {folder}/log;\nevents {{ worker_connections 512; }}\n"
            f"http {{\naccess_log {folder}/access;\ndefault_type application/octet-stream;\n{paths}"
            f"{servers(port, folder)}\n}}\n"
        )
        return [
            found("nginx"),
            "-p",
            str(folder),
            "-e",
            str(folder / "log"),
            "-c",
            str(folder / "nginx.conf"),
        ]

    with running("nginx", command) as service:
        yield service


def certificate(folder: Path) -> tuple[Path, Path]:
    """A certificate for 127.0.0.1, signed by itself, and its key, as PEM files."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "mountstore tests")])
    now = datetime.datetime.now(datetime.UTC)
    signed = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=2))
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False
        )
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    certificate_file, key_file = folder / "certificate.pem", folder / "key.pem"
    certificate_file.write_bytes(signed.public_bytes(serialization.Encoding.PEM))
    key_file.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    return certificate_file, key_file


def wait_until(probe: Callable[[], bool]) -> None:
    """Return when `probe` says so."""
    deadline = time.monotonic() + START_DEADLINE_S
    while not probe():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.02)


def found(name: str) -> str:
    found = shutil.which(name, path=os.environ.get("PATH", "") + ":/usr/sbin:/usr/local/sbin")
    if found is None:
        package = {"nginx": "nginx-light", "sshd": "openssh-server"}.get(name, name)
        raise RuntimeError(f"{name} is not installed; run: apt-get install --no-install-recommends {package}")
    return found


@contextlib.contextmanager
def running(name: str, command: Callable[[int, Path], Sequence[str]]) -> Iterator[Service]:
    with tempfile.TemporaryDirectory(prefix=f"mountstore-{name}-", ignore_cleanup_errors=True) as scratch:
        folder = Path(scratch)
        service: Service | None = None
        # Another process may take the port between our look and the server's bind: then look again.
        for _attempt in range(3):
            port = free_port()
            log = folder / "output"
            with log.open("ab") as output:
                process = subprocess.Popen(
                    [sys.executable, "-S", "-E", "-c", _BOOT, str(os.getpid()), *command(port, folder)],
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                )
            service = Service(name, port, folder, process)
            if _listens(service):
                break
            service.end()
        else:
            said = "".join(
                path.read_text(errors="replace") for path in (log, folder / "log") if path.exists()
            )
            raise RuntimeError(f"{name} does not start:\n{said[-3000:]}")
        try:
            yield service
        finally:
            service.end()


def _listens(service: Service) -> bool:
    deadline = time.monotonic() + START_DEADLINE_S
    while service.process.poll() is None and time.monotonic() < deadline:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", service.port), timeout=1):
            return service.process.poll() is None
        time.sleep(0.02)
    return False
