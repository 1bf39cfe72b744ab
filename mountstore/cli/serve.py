"""serve: a store for others, by REST protocol v1; and the same as `borgstore-server-rest`."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import click
import trio

from mountstore.cli.main import BORGSTORE_PROGRAM
from mountstore.errors import MountstoreError, UsageError
from mountstore.namespaces.backend import FolderTarget, NamespaceBackend
from mountstore.registry import open_store, parse, redact
from mountstore.server.auth import VARIABLE, Gate, hash_password, read_password
from mountstore.server.limits import Limits
from mountstore.server.listeners import address_of, adopt_sockets, listen_tcp, listen_unix, tls_context
from mountstore.server.metrics import Metrics
from mountstore.server.permissions import SETS, read_permissions
from mountstore.server.serve import HttpServer, serve_pipes
from mountstore.server.storage import Storage
from mountstore.server.verbs import Protocol

DEFAULT_PORT = 5618
_LIMITS = Limits()
_FILE = click.Path(path_type=Path, dir_okay=False)


def _options(command: Callable[..., None]) -> Callable[..., None]:
    for option in reversed(
        (
            click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on."),
            click.option("--port", type=click.IntRange(0, 65535), default=DEFAULT_PORT, show_default=True),
            click.option("--permissions", metavar="NAME|JSON", help=f"One of {', '.join(SETS)}."),
            click.option("--quota", type=click.IntRange(0), metavar="BYTES", help="Hold no more than this."),
            click.option("--socket-activation", is_flag=True, help="Listen on what systemd hands over."),
            click.option("--stdio", is_flag=True, help="Serve one client on standard input and output."),
        )
    ):
        command = option(command)
    return command


@click.command()
@click.argument("store", required=False)
@_options
@click.option("--socket", "socket_path", type=_FILE, help="Listen on a Unix socket instead.")
@click.option("--user", help="Let in who gives this name and the password.")
@click.option("--password-file", type=_FILE, help="A file of one line: the password, or better its hash.")
@click.option("--hash-password", "wants_hash", is_flag=True, help="Ask for a password and print its hash.")
@click.option("--tls-cert", type=_FILE, help="Certificate (chain) in PEM.")
@click.option("--tls-key", type=_FILE, help="Its key.")
@click.option("--max-connections", type=click.IntRange(1), default=_LIMITS.connections, show_default=True)
@click.option(
    "--max-body", type=click.IntRange(1), default=_LIMITS.body_bytes, show_default=True, metavar="BYTES"
)
@click.option(
    "--timeout",
    "timeout_s",
    type=click.FloatRange(0.1),
    default=_LIMITS.pause_s,
    show_default=True,
    help="Seconds that a client may be silent within a request, and that its end may take on SIGTERM.",
)
@click.option("-v", "--verbose", is_flag=True, help="Log more.")
def serve(
    store: str | None,
    wants_hash: bool,
    user: str | None,
    password_file: Path | None,
    tls_cert: Path | None,
    tls_key: Path | None,
    **given: Any,
) -> None:
    """Serve STORE to others, by the REST protocol of borgstore.

    Listens on this machine alone, unless it has a password and TLS. The password comes from
    --password-file, from the credential `mountstore-password` of systemd, or from the environment
    ($MOUNTSTORE_SERVE_PASSWORD). SIGTERM finishes what is under way. Watch it by GET /HEALTH and /METRICS.
    """
    if wants_hash:
        click.echo(hash_password(_asked_password()))
        return
    if store is None:
        raise UsageError("serve what? mountstore serve STORE")
    gate = _gate(user, password_file)
    if (tls_cert is None) != (tls_key is None):
        raise UsageError("--tls-cert and --tls-key go together")
    tls = tls_context(tls_cert, tls_key) if tls_cert is not None and tls_key is not None else None
    _serve(store, gate=gate, tls=tls, **given)


@click.command(BORGSTORE_PROGRAM)
@click.option("--backend", required=True, metavar="STORE", help="What to serve; FILE:PATH is a folder.")
@click.option("--username", help=f"Let in who gives this name, and the password in ${VARIABLE}.")
@_options
def borgstore_server_rest(backend: str, username: str | None, **given: Any) -> None:
    """What `mountstore serve` does, under the name and with the options that borgstore's clients call.

    The password is never an argument: see `mountstore serve --help`.
    """
    if backend.startswith("FILE:"):
        backend = str(Path(backend.removeprefix("FILE:")).expanduser().absolute())
    _serve(
        backend,
        gate=_gate(username, None),
        tls=None,
        socket_path=None,
        max_connections=_LIMITS.connections,
        max_body=_LIMITS.body_bytes,
        timeout_s=_LIMITS.pause_s,
        verbose=False,
        **given,
    )


def _serve(
    store: str,
    *,
    gate: Gate | None,
    tls: Any,
    host: str,
    port: int,
    permissions: str | None,
    quota: int | None,
    socket_activation: bool,
    stdio: bool,
    socket_path: Path | None,
    max_connections: int,
    max_body: int,
    timeout_s: float,
    verbose: bool,
) -> None:
    if sum((socket_activation, stdio, socket_path is not None)) > 1:
        raise UsageError("--socket-activation, --stdio and --socket exclude each other")
    if stdio and (gate is not None or tls is not None):
        raise UsageError("--stdio has one client, who has come in already: no --user, no TLS")
    _log_to_stderr(verbose)
    limits = Limits(
        connections=max_connections,
        body_bytes=max_body,
        pause_s=timeout_s,
        head_s=min(timeout_s, _LIMITS.head_s),
        drain_s=timeout_s,
    )
    metrics = Metrics()
    with _opened(store, read_permissions(permissions) if permissions else None, quota) as storage:
        protocol = Protocol(storage, gate, limits, metrics)
        if stdio:
            serve_pipes(sys.stdin.fileno(), sys.stdout.fileno(), protocol, limits=limits, metrics=metrics)
            return
        is_guarded = gate is not None and tls is not None
        if socket_activation:
            sockets = adopt_sockets(is_guarded=is_guarded)
        elif socket_path is not None:
            sockets = [listen_unix(socket_path)]
        else:
            sockets = listen_tcp(host, port, is_guarded=is_guarded)
        where = ", ".join(address_of(sock) for sock in sockets)
        click.echo(f"mountstore: serving {redact(store)} at {where}", err=True)
        try:
            server = HttpServer(protocol, limits=limits, metrics=metrics, tls=tls)
            is_done = trio.run(server.serve, sockets)
        finally:
            if socket_path is not None:
                with contextlib.suppress(FileNotFoundError):
                    socket_path.unlink()
        if not is_done:
            raise MountstoreError("some requests did not end in time and were broken off")


@contextlib.contextmanager
def _opened(store: str, permissions: Mapping[str, str] | None, quota: int | None) -> Iterator[Storage]:
    """The store as a namespace; closed at the end, unless something went wrong: threads may still use it."""
    url = parse(store)
    if url.scheme == "file":
        url.allow("durable")
        folder = FolderTarget(url.file_path(), durable=url.flag("durable", True))
        storage = Storage(NamespaceBackend(folder, permissions=permissions, quota_bytes=quota), folder)
        yield storage
        storage.close()
    else:
        inner = open_store(store)
        storage = Storage(NamespaceBackend(inner, permissions=permissions, quota_bytes=quota))
        yield storage
        storage.close()
        inner.close()


def _gate(user: str | None, password_file: Path | None) -> Gate | None:
    if user is None and password_file is None:
        return None
    if user is None:
        raise UsageError("--password-file needs --user")
    if ":" in user:
        raise UsageError("a user's name has no colon")
    password = read_password(password_file)
    if password is None:
        raise UsageError(f"--user needs a password: --password-file, systemd's credentials, or ${VARIABLE}")
    return Gate(user, password)


def _asked_password() -> str:
    if sys.stdin.isatty():
        return str(click.prompt("Password", hide_input=True, confirmation_prompt=True, err=True))
    password = sys.stdin.readline().removesuffix("\n")
    if not password:
        raise UsageError("no password came: type it, or send it as one line to standard input")
    return password


def _log_to_stderr(verbose: bool) -> None:
    level = "DEBUG" if verbose else os.environ.get("MOUNTSTORE_LOG", "warning").upper()
    logging.basicConfig(stream=sys.stderr, format="%(asctime)s %(levelname)s %(message)s")
    logging.getLogger("mountstore").setLevel(level if level in logging.getLevelNamesMapping() else "WARNING")
