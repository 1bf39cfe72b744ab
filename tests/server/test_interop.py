"""The original's client and Store on this server: plain, behind nginx, on demand, over pipes.

The configuration files are those that are shipped; only paths and ports in them are replaced. nginx and
systemd's tools are the real ones.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from borgstore.backends import errors as original
from borgstore.backends.rest import REST, get_rest_backend
from borgstore.store import ItemInfo, Store

from mountstore.server import deploy
from mountstore.server.auth import hash_password
from tests import services
from tests.server.serving import BOOT, DEADLINE_S, PROJECT, Client, environment, serving

CONFIG = {"config": {"levels": [0]}, "data": {"levels": [2]}, "": {"levels": [0]}}
USER, PASSWORD = "me", "right: a/b@c"
QUOTED = "right%3A%20a%2Fb%40c"
DEPLOY = Path(deploy.__file__).parent


def exercise(url: str) -> None:
    """All of the original's Store that reaches a server, and each of its errors."""
    store = Store(url, config=CONFIG)
    with pytest.raises(original.BackendDoesNotExist):
        store.destroy()
    store.create()
    with store:
        values = {f"{number:08x}": os.urandom(number * 997) for number in range(20)}
        for key, value in values.items():
            store.store(f"data/{key}", value)
        store.store("config/main", b"\0" * (3 << 20))
        for key, value in values.items():
            assert store.load(f"data/{key}") == value
        assert store.load("config/main") == b"\0" * (3 << 20)
        assert [info.name for info in store.list("data")] == sorted(values)
        assert all(isinstance(info, ItemInfo) for info in store.list("data"))
        key, value = "00000013", values["00000013"]
        name = f"data/{key}"
        assert store.info(name).size == len(value)
        assert store.info(name).mtime > 1_700_000_000
        assert not store.info("data/ffffffff").exists
        for offset, size in ((0, 10), (5, 0), (0, 0), (5, None), (-10, None), (-10, 3), (-5000, 100)):
            assert store.load(name, offset=offset, size=size) == value[offset:][:size]
        assert store.load(name, offset=1 << 30, size=5) == b""
        assert store.load(name, offset=-(1 << 30)) == value
        assert store.hash(name, "sha256") == hashlib.sha256(value).hexdigest()
        with pytest.raises(original.ObjectNotFound):
            store.load("data/ffffffff")
        with pytest.raises(original.ObjectNotFound):
            store.delete("data/ffffffff")
        with pytest.raises(ValueError, match="algorithm"):
            store.hash(name, "none")
        store.move(name, delete=True)
        assert key not in {info.name for info in store.list("data")}
        assert [info.name for info in store.list("data", deleted=True)] == [key]
        store.move(name, undelete=True)
        assert store.load(name) == value
        pieces = [(key, 1, 10), ("00000012", -5, 5), (key, 0, 0)]
        content = value[1:11] + values["00000012"][-5:]
        assert store.gather(pieces, namespace="data") == content
        made = store.defrag(pieces, algorithm="sha256", namespace="data")
        assert made == hashlib.sha256(content).hexdigest()
        assert store.load(f"data/{made}") == content
        with pytest.raises(original.ReadRangeError):
            store.gather([(key, len(value), 1)], namespace="data")
        with pytest.raises(original.ReadRangeError):
            store.defrag([(key, 0, len(value) + 1)], target="x" * 8, namespace="data")
        assert store.quota() == {"limit": -1, "usage": -1}
        store.delete(name)
        assert not store.info(name).exists
    with pytest.raises(original.BackendAlreadyExists):
        Store(url, config=CONFIG).create()


def test_plain_with_a_password(tmp_path: Path, store_url: str) -> None:
    env = {"MOUNTSTORE_SERVE_PASSWORD": PASSWORD}
    with serving(store_url, tmp_path, "--user", USER, env=env, create=False) as served:
        place = f"127.0.0.1:{served.port}"
        exercise(f"http://{USER}:{QUOTED}@{place}")
        with pytest.raises(Exception, match="401"):
            Store(f"http://{USER}:wrong@{place}", config=CONFIG).destroy()
        # What the server stored is a store of the original, too.
        with (
            Store(store_url, config=CONFIG) as local,
            Store(f"http://{USER}:{QUOTED}@{place}", config=CONFIG) as it,
        ):
            names = [info.name for info in it.list("data")]
            assert [info.name for info in local.list("data")] == names
            assert all(local.load(f"data/{name}") == it.load(f"data/{name}") for name in names)
            local.store("data/0badcafe", b"written by the original")
            assert it.load("data/0badcafe") == b"written by the original"
        Store(f"http://{USER}:{QUOTED}@{place}", config=CONFIG).destroy()


@pytest.mark.parametrize("store", ["sqlite:{}/db", "memory:"])
def test_over_other_stores(tmp_path: Path, store: str) -> None:
    with serving(store.format(tmp_path), tmp_path, create=False) as served:
        exercise(f"http://127.0.0.1:{served.port}")


def test_the_errors_of_quota_and_permissions(tmp_path: Path, store_url: str) -> None:
    with serving(store_url, tmp_path, "--quota", "1000") as served, backend(served.port) as rest:
        rest.store("data/x", bytes(900))
        with pytest.raises(original.QuotaExceeded):
            rest.store("data/y", bytes(101))
        with pytest.raises(original.QuotaExceeded):
            rest.store("data/y", bytes(10 << 20))
        assert rest.quota() == {"limit": 1000, "usage": 900}
    options = ("--permissions", "borgbackup-no-delete")
    with serving(store_url, tmp_path, *options, create=False) as served, backend(served.port) as rest:
        rest.store("data/y", b"new")
        refused: list[tuple[Callable[..., Any], tuple[Any, ...]]] = [
            (rest.store, ("data/y", b"again")),
            (rest.delete, ("data/y",)),
            (rest.store, ("keys/x", b"1")),
            (rest.move, ("data/y", "data/z")),
        ]
        for verb, arguments in refused:
            with pytest.raises(original.PermissionDenied):
                verb(*arguments)
        assert rest.load("data/y") == b"new"


def backend(port: int) -> REST:
    rest = get_rest_backend(f"http://127.0.0.1:{port}")
    assert isinstance(rest, REST)
    return rest


# -- over pipes, as borgstore starts it -------------------------------------------------------------


@pytest.fixture
def as_original(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`borgstore-server-rest` is this program, as a link of that name makes it."""
    programs = tmp_path / "bin"
    programs.mkdir()
    program = programs / "borgstore-server-rest"
    program.write_text(f"#!{sys.executable}\nfrom mountstore.cli.main import main\nmain()\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    monkeypatch.setenv("PYTHONPATH", str(PROJECT))


@pytest.mark.usefixtures("as_original")
@pytest.mark.parametrize("host", ["", "user@host.example"])
def test_over_standard_input_and_output(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, host: str) -> None:
    # What stands for ssh drops the name of the host and runs the command here.
    monkeypatch.setenv("BORGSTORE_RSH", "sh -c 'shift; exec \"$@\"' rsh")
    exercise(f"rest://{host}/{tmp_path}/store")
    assert (tmp_path / "store" / "config" / "main").is_file()


# -- behind nginx, started on demand ----------------------------------------------------------------


@contextlib.contextmanager
def on_demand(name: str, folder: Path, options: str = "") -> Iterator[Path]:
    """What the shipped units do: a socket, and the service that starts when a client comes; its socket.

    systemd-socket-activate stands for the .socket unit, as there is no systemd to load it here.
    """
    unit = (DEPLOY / "mountstore@.service").read_text()
    found = re.search(r"^ExecStart=(.*)$", unit, re.MULTILINE)
    assert found
    program = f"{sys.executable} -P -m mountstore"
    line = found[1].replace("/opt/mountstore/.venv/bin/mountstore", program)
    settings = (DEPLOY / "mountstore.env").read_text().replace("/var/lib/mountstore/NAME", str(folder))
    values = dict(re.findall(r"^([A-Z]+)=(.*)$", settings, re.MULTILINE))
    line = line.replace("${STORE}", values["STORE"]).replace("$OPTIONS", options)
    path = folder / f"{name}.sock"
    activate = shutil.which("systemd-socket-activate")
    assert activate, "systemd-socket-activate is missing; run: apt-get install systemd"
    command = [activate, "-l", str(path), "-E", f"PYTHONPATH={PROJECT}"]
    for variable in ("CREDENTIALS_DIRECTORY", "MOUNTSTORE_DEBUG"):
        command += ["-E", f"{variable}={folder if variable == 'CREDENTIALS_DIRECTORY' else 0}"]
    with (folder / f"{name}.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-S", "-E", "-c", BOOT, str(os.getpid()), *command, *shlex.split(line)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env=environment(),
            start_new_session=True,
        )
    try:
        services.wait_until(path.exists)
        yield path
    finally:
        if process.poll() is None:
            os.kill(process.pid, signal.SIGTERM)
        process.wait(DEADLINE_S)


def shipped_nginx(port: int, folder: Path, sockets: Path, certificate: tuple[Path, Path]) -> str:
    text = (DEPLOY / "nginx.conf").read_text()
    for shipped, ours in (
        ("listen 443 ssl", f"listen 127.0.0.1:{port} ssl"),
        ("/etc/mountstore/tls/certificate.pem", str(certificate[0])),
        ("/etc/mountstore/tls/key.pem", str(certificate[1])),
        ("/run/mountstore/", f"{sockets}/"),
    ):
        assert shipped in text
        text = text.replace(shipped, ours)
    return text


@pytest.fixture
def short_path() -> Iterator[Path]:
    """A folder whose sockets have names of less than 108 bytes."""
    import tempfile

    with tempfile.TemporaryDirectory(prefix="ms-") as folder:
        yield Path(folder)


def test_behind_nginx_on_demand(short_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    certificate = services.certificate(short_path)
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(certificate[0]))
    (short_path / "mountstore-password").write_text(hash_password(PASSWORD))
    with (
        on_demand("one", short_path, f"--user {USER}") as path,
        services.nginx(lambda port, folder: shipped_nginx(port, folder, short_path, certificate)) as nginx,
    ):
        url = f"https://{USER}:{QUOTED}@127.0.0.1:{nginx.port}/repos/one"
        exercise(url)
        threads = [threading.Thread(target=load, args=(url,)) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        check_through_nginx(nginx.port, path, certificate)


def load(url: str) -> None:
    with Store(url, config=CONFIG) as store:
        for info in store.list("data"):
            assert len(store.load(f"data/{info.name}")) == info.size


def check_through_nginx(port: int, path: Path, certificate: tuple[Path, Path]) -> None:
    """What nginx passes on is what was asked; names that are none reach nothing."""
    import base64
    import ssl

    context = ssl.create_default_context(cafile=str(certificate[0]))
    basic = "Basic " + base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()

    def connect() -> Client:
        sock = socket.create_connection(("127.0.0.1", port), timeout=DEADLINE_S)
        return Client(context.wrap_socket(sock, server_hostname="127.0.0.1"), basic)

    def status(target: str, **more: Any) -> int:
        with connect() as client:
            return client.ask("GET", target, **more).status

    assert status("/repos/one/data/") == 200
    assert status("/repos/one/data/", accept="") == 406
    assert status("/repos/two/data/") == 502
    assert status("/repos/one/HEALTH", accept="") == 200
    for target in (
        "/",
        "/repos/",
        "/repos/one",
        "/data/",
        "/repos/ONE/data/",
        "/repos/%6fne/data/",
        "/repos/one/METRICS",
        "/repos/one//METRICS",
        "/repos/.one/data/",
        "/repos//one/data/",
        "/repos/two/../one/data/x",
    ):
        assert status(target) in (404, 502), target
    for target in (
        "/repos/one/../one/data/",
        "/repos/one/%2e%2e/data/",
        "/repos/one/data%2fx",
        "/repos/one/x%0d%0aHost:%20y",
        "/repos/one/%00",
    ):
        assert status(target) in (400, 404), target
    with connect() as client:
        assert client.ask("POST", "/repos/one/data/chunks", "X-Nothing: 1", body=b"1").status == 200
        client.send(client.head("POST", "/repos/one/data/chunks", "Transfer-Encoding: chunked"))
        client.send(b"5\r\nhello\r\n6\r\n world\r\n0\r\n\r\n")
        assert client.answer().status == 200
        assert client.ask("GET", "/repos/one/data/chunks").body == b"hello world"
        large = os.urandom(5 << 20)
        assert client.ask("POST", "/repos/one/data/large", body=large).status == 200
        assert client.ask("GET", "/repos/one/data/large").body == large
    direct = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    direct.connect(str(path))
    with Client(direct, basic) as client:
        assert client.ask("GET", "/METRICS", accept="").status == 200


def test_the_units_are_right(tmp_path: Path) -> None:
    """systemd reads them without a complaint, and calls the service well confined."""
    for name in ("mountstore@.socket", "mountstore@.service"):
        text = (DEPLOY / name).read_text()
        (tmp_path / name).write_text(text.replace("/opt/mountstore/.venv/bin/mountstore", sys.executable))
    units = [str(tmp_path / name) for name in ("mountstore@one.socket", "mountstore@one.service")]
    verified = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", *units],
        env={**os.environ, "SYSTEMD_UNIT_PATH": f"{tmp_path}:"},
        capture_output=True,
        timeout=DEADLINE_S,
        check=False,
    )
    complaints = [line for line in verified.stderr.decode().splitlines() if "mountstore" in line]
    assert (verified.returncode, complaints) == (0, [])
    judged = subprocess.run(
        [
            "systemd-analyze",
            "security",
            "--offline=yes",
            "--threshold=20",
            str(tmp_path / "mountstore@.service"),
        ],
        capture_output=True,
        timeout=DEADLINE_S,
        check=False,
    )
    assert judged.returncode == 0, judged.stdout.decode()


def test_systemd_is_told_when_it_is_ready(short_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as told:
        told.bind(str(short_path / "notify"))
        told.settimeout(DEADLINE_S)
        with serving("memory:", short_path, env={"NOTIFY_SOCKET": str(short_path / "notify")}) as served:
            assert told.recv(100) == b"READY=1"
            assert served.end() == 0
            assert told.recv(100) == b"STOPPING=1"
