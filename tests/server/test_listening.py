"""Where a server listens, whom it lets in, and how it ends: real processes, real sockets."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import hmac
import os
import secrets
import signal
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from borgstore.server.rest import BorgStoreRESTRequestHandler

from mountstore.server.auth import Gate, hash_password, read_password
from tests.server.serving import (
    BOOT,
    DEADLINE_S,
    MEDIA_TYPE,
    Client,
    Served,
    command,
    environment,
    refused,
    serving,
    wait_for,
)
from tests.services import certificate

PASSWORD = "correct horse: battery stäple"


def basic(user: str, password: str) -> str:
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


@pytest.fixture
def password_file(tmp_path: Path) -> Path:
    path = tmp_path / "password"
    path.write_text(hash_password(PASSWORD) + "\n")
    return path


# -- the password -----------------------------------------------------------------------------------


def test_name_and_password_let_in(tmp_path: Path, password_file: Path) -> None:
    options = ("--user", "me", "--password-file", str(password_file))
    right = basic("me", PASSWORD)
    with serving("memory:", tmp_path, *options, authorization=right) as served, served.connect() as client:
        assert client.ask("POST", "/data/x", body=b"1").status == 200
        assert client.ask("GET", "/data/x").body == b"1"
        for wrong in (
            "",
            basic("me", "wrong"),
            basic("you", PASSWORD),
            basic("me", ""),
            basic("", PASSWORD),
            basic("me", PASSWORD + "\n"),
            basic("me", "x" * 5000),
            f"Bearer {basic('me', PASSWORD).split()[1]}",
            "Basic",
            "Basic ====",
            "Basic bWU=",
            f"Basic  {base64.b64encode(b'me').decode()}",
        ):
            client.authorization = wrong
            assert client.ask("GET", "/data/x").status == 401, wrong
        client.authorization = basic("me", PASSWORD).replace("Basic", "bAsIc")
        assert client.ask("GET", "/data/x").status == 200


@pytest.fixture
def compared(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    """What was done to decide: each scrypt, with the length of its salt, and each comparison in constant
    time, with the length of what it compares to, on which alone its time depends."""
    done: list[tuple[str, int]] = []
    scrypt, compare = hashlib.scrypt, hmac.compare_digest

    def scrypted(password: bytes, *, salt: bytes, **options: int) -> bytes:
        done.append(("scrypt", len(salt)))
        return scrypt(password, salt=salt, **options)

    def compares(given: Any, kept: Any) -> bool:
        done.append(("compare", len(kept)))
        return compare(given, kept)

    monkeypatch.setattr(hashlib, "scrypt", scrypted)
    monkeypatch.setattr(hmac, "compare_digest", compares)
    monkeypatch.setattr(secrets, "compare_digest", compares)
    return done


def test_who_guesses_learns_nothing_from_the_work(compared: list[tuple[str, int]]) -> None:
    """The same is done for a right password, a wrong one of any length and an unknown name. The original
    does not look at the password of an unknown name, and compares passwords instead of hashes."""
    guesses = [("me", PASSWORD), ("me", "x"), ("me", "x" * 999), ("you", PASSWORD), ("", ""), ("mei", "x")]

    def works(admits: Callable[[str], bool]) -> list[list[tuple[str, int]]]:
        found = []
        for user, password in guesses:
            compared.clear()
            assert admits(basic(user, password)) == ((user, password) == guesses[0])
            found.append([*compared])
        return found

    text = hash_password(PASSWORD)
    ours = works(lambda authorization: Gate("me", text).admits(authorization.encode()))
    assert ours == [[("compare", 0), ("scrypt", 16), ("compare", 2), ("compare", 32)]] * len(guesses)
    server = SimpleNamespace(username="me", password="x" * 30)  # it compares text of ASCII alone
    guesses[0] = ("me", server.password)

    def original(authorization: str) -> bool:
        handler: Any = SimpleNamespace(server=server, headers={"Authorization": authorization})
        return bool(BorgStoreRESTRequestHandler._check_auth(handler))

    theirs = works(original)
    assert theirs[0] == [("compare", 2), ("compare", 30)]
    assert theirs[-1] == [("compare", 2)]


def test_a_second_guess_is_no_shorter(compared: list[tuple[str, int]]) -> None:
    """What was right once is known again without scrypt; what was wrong is not."""
    gate = Gate("me", hash_password(PASSWORD))
    for user, password, hashes in [
        ("me", "x", 1),
        ("me", "x", 1),
        ("me", PASSWORD, 1),
        ("me", PASSWORD, 0),
        ("me", "x", 1),
        ("you", PASSWORD, 1),
    ]:
        compared.clear()
        gate.admits(basic(user, password).encode())
        assert [work for work, _ in compared].count("scrypt") == hashes


@pytest.mark.parametrize("kind", ["file", "hash", "variable", "credential"])
def test_where_a_password_comes_from(tmp_path: Path, kind: str) -> None:
    env, options = {}, ["--user", "me"]
    if kind in ("file", "hash"):
        path = tmp_path / "password"
        path.write_text(hash_password(PASSWORD) if kind == "hash" else f"{PASSWORD}\n")
        options += ["--password-file", str(path)]
    elif kind == "variable":
        env["MOUNTSTORE_SERVE_PASSWORD"] = PASSWORD
    else:
        credentials = tmp_path / "credentials"
        credentials.mkdir()
        (credentials / "mountstore-password").write_text(hash_password(PASSWORD))
        env["CREDENTIALS_DIRECTORY"] = str(credentials)
    with serving("memory:", tmp_path, *options, env=env, authorization=basic("me", PASSWORD)) as served:
        assert served.ask("GET", "/").status == 200
        served.authorization = basic("me", "wrong")
        assert served.ask("GET", "/").status == 401
        assert PASSWORD not in served.said()
        assert PASSWORD.encode() not in Path(f"/proc/{served.pid}/cmdline").read_bytes()


def test_hash_password_prints_a_hash_that_a_file_may_hold(tmp_path: Path) -> None:
    made = [
        subprocess.run(
            command("serve", "--hash-password"),
            input=f"{PASSWORD}\n".encode(),
            capture_output=True,
            env=environment(),
            timeout=DEADLINE_S,
            check=True,
        ).stdout.decode()
        for _ in range(2)
    ]
    assert made[0] != made[1]
    (tmp_path / "password").write_text(made[0])
    text = read_password(tmp_path / "password", {})
    assert text == made[0].strip()
    assert text is not None
    assert PASSWORD not in text
    assert Gate("me", text).admits(basic("me", PASSWORD).encode())
    assert not Gate("me", text).admits(basic("me", "wrong").encode())


@pytest.mark.parametrize(
    "text",
    ["", "\n", "two\nlines", "scrypt:14:8:1:salt:hash", "scrypt:40:8:1:AAAA:AAAA", "scrypt:x", "scrypt:"],
)
def test_a_password_file_that_is_wrong(tmp_path: Path, text: str) -> None:
    path = tmp_path / "password"
    path.write_text(text)
    said = refused("memory:", "--user", "me", "--password-file", str(path))
    assert str(path) in said


# -- addresses --------------------------------------------------------------------------------------


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1"])
def test_others_are_let_in_only_with_password_and_tls(tmp_path: Path, password_file: Path, host: str) -> None:
    certificate_file, key_file = certificate(tmp_path)
    password = ("--user", "me", "--password-file", str(password_file))
    tls = ("--tls-cert", str(certificate_file), "--tls-key", str(key_file))
    for options in ((), password, tls):
        said = refused("memory:", "--host", host, "--port", "0", *options)
        assert "127.0.0.1" in said


def test_with_password_and_tls_it_listens_everywhere(tmp_path: Path, password_file: Path) -> None:
    certificate_file, key_file = certificate(tmp_path)
    context = ssl.create_default_context(cafile=str(certificate_file))
    password = ("--user", "me", "--password-file", str(password_file))
    options = (*password, "--tls-cert", str(certificate_file), "--tls-key", str(key_file))
    listening = ("--host", "0.0.0.0", "--port", "0")
    authorization = basic("me", PASSWORD)
    with serving(
        "memory:", tmp_path, *options, tls=context, authorization=authorization, listening=listening
    ) as served:
        assert served.ask("POST", "/data/x", body=b"1").status == 200


@pytest.mark.parametrize(
    "options",
    [
        ("--user", "me"),
        ("--password-file", "/dev/null"),
        ("--user", "m:e", "--password-file", "/dev/null"),
        ("--tls-cert", "/nowhere"),
        ("--tls-cert", "/nowhere", "--tls-key", "/nowhere"),
        ("--tls-cert", "/etc/passwd", "--tls-key", "/etc/passwd"),
        ("--permissions", "unheard-of"),
        ("--permissions", '{"": "x"}'),
        ("--permissions", "[]"),
        ("--stdio", "--socket", "/tmp/x"),
        ("--stdio", "--socket-activation"),
        ("--socket-activation",),
        ("--host", "no such host"),
        ("--socket", "/etc/passwd"),
    ],
)
def test_what_makes_no_sense_is_refused_in_one_line(options: tuple[str, ...]) -> None:
    said = refused("memory:", *options, env={"LISTEN_FDS": ""})
    assert said.count("\n") == 1
    assert "Traceback" not in said


def test_a_port_that_is_taken(tmp_path: Path) -> None:
    with serving("memory:", tmp_path) as served:
        done = subprocess.run(
            command("serve", "memory:", "--port", str(served.port)),
            capture_output=True,
            env=environment(),
            timeout=DEADLINE_S,
            check=False,
        )
        assert done.returncode == 1
        assert b"cannot listen on 127.0.0.1 port" in done.stderr


def test_a_unix_socket(tmp_path: Path, store_url: str) -> None:
    path = tmp_path / "socket"
    with serving(store_url, tmp_path, listening=("--socket", str(path))) as served:
        assert path.stat().st_mode & 0o777 == 0o660
        assert served.ask("POST", "/data/x", body=b"1").status == 200
        said = subprocess.run(
            command("serve", "memory:", "--socket", str(path)),
            capture_output=True,
            env=environment(),
            timeout=DEADLINE_S,
            check=False,
        )
        assert b"listens there already" in said.stderr
        os.kill(served.pid, signal.SIGKILL)
        served.process.wait(DEADLINE_S)
    with serving(store_url, tmp_path, create=False, listening=("--socket", str(path))) as served:
        assert served.ask("GET", "/data/x").body == b"1"
        assert served.end() == 0
    assert not path.exists()


# -- TLS --------------------------------------------------------------------------------------------


@pytest.fixture
def encrypted(tmp_path: Path, password_file: Path) -> tuple[tuple[str, ...], ssl.SSLContext]:
    certificate_file, key_file = certificate(tmp_path)
    options = ("--tls-cert", str(certificate_file), "--tls-key", str(key_file))
    return options, ssl.create_default_context(cafile=str(certificate_file))


def test_tls(tmp_path: Path, store_url: str, encrypted: tuple[tuple[str, ...], ssl.SSLContext]) -> None:
    options, context = encrypted
    data = os.urandom(5 << 20)
    with serving(store_url, tmp_path, *options, tls=context) as served:
        with served.connect() as client:
            for number in range(3):
                assert client.ask("POST", f"/data/{number}", body=data).status == 200
                assert client.ask("GET", f"/data/{number}").body == data
            client.send(client.head("GET", "/data/0", "Range: bytes=0-9") * 3)
            for _ in range(3):
                assert client.answer().body == data[:10]
        threads = [threading.Thread(target=served.ask, args=("GET", "/data/0")) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()


def test_old_tls_and_no_tls_are_refused(
    tmp_path: Path, encrypted: tuple[tuple[str, ...], ssl.SSLContext]
) -> None:
    options, context = encrypted
    with serving("memory:", tmp_path, *options, "--timeout", "1", tls=context) as served:
        plain = Client(socket.create_connection(("127.0.0.1", served.port), timeout=DEADLINE_S))
        with plain:
            plain.send(plain.head("GET", "/"))
            received = b""
            with contextlib.suppress(ConnectionResetError):
                while data := plain.sock.recv(1000):
                    received += data
            assert b"HTTP" not in received
        silent = Client(socket.create_connection(("127.0.0.1", served.port), timeout=DEADLINE_S))
        with silent:
            silent.send(b"\x16")
            assert silent.is_closed()
        assert served.ask("GET", "/").status == 200


# -- the end ----------------------------------------------------------------------------------------


def test_sigterm_finishes_what_is_under_way(tmp_path: Path, store_url: str) -> None:
    data = os.urandom(8 << 20)
    with serving(store_url, tmp_path) as served:
        idle, uploading, loading = (served.connect() for _ in range(3))
        assert idle.ask("POST", "/data/x", body=data).status == 200
        uploading.send(
            uploading.head("POST", "/data/y", "Expect: 100-continue", f"Content-Length: {len(data)}")
        )
        assert uploading.answer().status == 100
        loading.send(loading.head("GET", "/data/x"))
        assert loading.sock.recv(1, socket.MSG_PEEK)
        served.terminate()
        assert idle.is_closed()
        wait_for(lambda: not listens(served))
        uploading.send(data)
        answer = uploading.answer()
        assert (answer.status, answer.closes) == (200, True)
        assert loading.answer().body == data
        assert served.process.wait(DEADLINE_S) == 0
    with serving(store_url, tmp_path, create=False) as served:
        assert served.ask("GET", "/data/y").body == data


def listens(served: Served) -> bool:
    try:
        served.connect().sock.close()
    except ConnectionRefusedError:
        return False
    return True


@pytest.mark.parametrize("second", [True, False])
def test_what_does_not_end_in_time_is_broken_off(tmp_path: Path, store_url: str, second: bool) -> None:
    timeout = "60" if second else "1"
    with serving(store_url, tmp_path, "--timeout", timeout) as served:
        client = served.connect()
        client.send(client.head("POST", "/data/y", "Expect: 100-continue", "Content-Length: 5"))
        assert client.answer().status == 100
        served.terminate()
        wait_for(lambda: not listens(served))
        if second:
            served.terminate()
        assert client.is_closed()
        assert served.process.wait(DEADLINE_S) in (0, 1)
    with serving(store_url, tmp_path, create=False) as served:
        assert served.ask("GET", "/data/y").status == 404


def test_a_request_that_fails_ends_nothing(tmp_path: Path) -> None:
    """A store that breaks: its error is the log's, and the client's is one line without a path."""
    (tmp_path / "store").mkdir()
    with serving(f"file://{tmp_path}/store", tmp_path) as served, served.connect() as client:
        assert client.ask("POST", "/data/x", body=b"1").status == 200
        (tmp_path / "store" / "data" / "x").unlink()
        (tmp_path / "store" / "data").rmdir()
        (tmp_path / "store" / "data").symlink_to("data")
        answer = client.ask("POST", "/data/x", body=b"1")
        assert answer.status >= 400
        assert str(tmp_path).encode() not in answer.body
        assert client.ask("GET", "/data/none").status == 404
        assert served.ask("GET", "/HEALTH").status == 200


# -- standard input and output ----------------------------------------------------------------------


def test_one_client_on_standard_input_and_output(tmp_path: Path, store_url: str) -> None:
    process = subprocess.Popen(
        command("serve", store_url, "--stdio", "--quota", "2000"),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=environment(),
    )
    ours, theirs = socket.socketpair()
    assert process.stdin is not None
    assert process.stdout is not None
    with process, ours, theirs:
        reading = threading.Thread(target=pump, args=(process.stdout.fileno(), theirs))
        reading.start()
        client = PipeClient(ours, process.stdin.fileno())
        assert client.ask("POST", "/?cmd=create").status == 200
        for size in (0, 1, 1000):
            assert client.ask("POST", f"/data/{size % 2}", body=b"x" * size).status == 200
        # What is refused is read to its end, however large: there is only this connection.
        assert client.ask("POST", "/data/y", body=bytes(5 << 20)).status == 507
        assert client.ask("GET", "/data/1").body == b"x"
        process.stdin.close()
        assert process.wait(DEADLINE_S) == 0
        reading.join()


class PipeClient(Client):
    def __init__(self, sock: socket.socket, writing: int) -> None:
        super().__init__(sock)
        self._writing = writing

    def send(self, data: bytes) -> None:
        data = data.replace(b"Host: test\r\n", b"", 1)  # as the original's client has it
        while data:
            data = data[os.write(self._writing, data) :]


def pump(fd: int, sock: socket.socket) -> None:
    while data := os.read(fd, 1 << 16):
        sock.sendall(data)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_an_idle_one(store_url: str, number: signal.Signals) -> None:
    with subprocess.Popen(
        command("serve", store_url, "--stdio"),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=environment(),
        bufsize=0,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(b"POST /?cmd=create HTTP/1.1\r\n" + f"Accept: {MEDIA_TYPE}\r\n\r\n".encode())
        assert process.stdout.read(12) == b"HTTP/1.1 200"
        os.kill(process.pid, number)
        assert process.wait(DEADLINE_S) == 0


def test_under_the_name_of_the_original(tmp_path: Path) -> None:
    """A link `borgstore-server-rest` to this program takes that program's options, and serves FILE:PATH."""
    link = tmp_path / "borgstore-server-rest"
    link.write_text(f"#!{sys.executable}\nimport sys\nfrom mountstore.cli.main import main\nmain()\n")
    link.chmod(0o755)
    process = subprocess.run(
        [
            sys.executable,
            "-S",
            "-E",
            "-c",
            BOOT,
            str(os.getpid()),
            str(link),
            "--stdio",
            "--backend",
            "FILE:st/ore",
        ],
        input=b"POST /?cmd=create HTTP/1.1\r\nAccept: application/vnd.x.borgstore.rest.v1\r\n\r\n",
        capture_output=True,
        env=environment(),
        cwd=tmp_path,
        timeout=DEADLINE_S,
        check=True,
    )
    assert process.stdout.startswith(b"HTTP/1.1 200")
    assert (tmp_path / "st" / "ore").is_dir()
