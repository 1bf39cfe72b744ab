"""URLs of stores on other machines: sftp, REST over HTTP and over ssh, rclone, B2."""

from __future__ import annotations

import netrc
import os
import shlex
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mountstore.errors import BadUrl, UsageError
from mountstore.registry import factories
from mountstore.registry.buckets import bucket_of
from mountstore.registry.urls import Url, quote_path, write_query

if TYPE_CHECKING:
    from mountstore.store import ObjectStore


def open_sftp(url: Url, **options: Any) -> ObjectStore:
    from mountstore.backends.sftp import SftpStore

    url.allow("durable")
    host, path = _host_and_path(url)
    chosen: dict[str, Any] = {"user": url.username, "port": url.port, "durable": url.flag("durable", True)}
    return SftpStore(host, path, **{**chosen, **options})


def open_http(url: Url, **options: Any) -> ObjectStore:
    """A REST server, or else the read-only store: `?protocol=rest` or `http` says which, else it is asked.

    The password of a URL that names a user is that in the URL, in MOUNTSTORE_HTTP_PASSWORD, in the file
    that MOUNTSTORE_HTTP_PASSWORD_FILE names, or that of the host in ~/.netrc.
    """
    protocol = url.query.get("protocol", "http" if "listing" in url.query else "")
    if protocol not in ("", "rest", "http"):
        raise BadUrl(f"the protocol of an {url.scheme}: URL is rest or http")
    if protocol == "http" or not url.host:
        return factories.open_http(url, **_login(url), **options)
    from mountstore.backends.rest import RestStore, speaks_rest

    url.allow("ca", "listing", "protocol")
    address, ca_certs = factories.http_address(url), url.query.get("ca")
    if not protocol and not speaks_rest(address, ca_certs):
        return factories.open_http(url, **_login(url), **options)
    return RestStore.open_http(address, **{"ca_certs": ca_certs, **_login(url), **options})


def _login(url: Url) -> dict[str, str]:
    if url.username is None:
        return {}
    password = url.password or os.environ.get("MOUNTSTORE_HTTP_PASSWORD")
    file = os.environ.get("MOUNTSTORE_HTTP_PASSWORD_FILE")
    if not password and file:
        try:
            password = Path(file).read_text(encoding="utf-8").split("\n")[0]
        except (OSError, UnicodeError):
            raise UsageError(
                "the file that MOUNTSTORE_HTTP_PASSWORD_FILE names cannot be read; its first line is "
                "the password"
            ) from None
    return {"username": url.username, "password": password or _from_netrc(url) or ""}


def _from_netrc(url: Url) -> str | None:
    file = Path(os.environ.get("NETRC") or "~/.netrc").expanduser()
    if not file.is_file():
        return None
    try:
        found = netrc.netrc(file).authenticators(url.host or "")
    except (OSError, netrc.NetrcParseError):
        # What it says may quote the file.
        raise UsageError(f"{file} cannot be read; mend it, or set MOUNTSTORE_HTTP_PASSWORD") from None
    return found[2] if found is not None and found[0] == url.username else None


def open_rest(url: Url, **options: Any) -> ObjectStore:
    """A server that is started on the far side of ssh, or here if the URL has no host.

    It is mountstore's there, or else borgstore's; MOUNTSTORE_REST_COMMAND names another, to which
    `--stdio` and the URL of the folder are added.
    """
    from mountstore.backends._ssh import Peer, ssh_command
    from mountstore.backends.rest import RestStore

    url.allow()
    peer = Peer(url.host, url.username, url.port) if url.host else None
    path = _path(url)
    script = _rest_script(path)
    if peer is None:
        words, what = ["/bin/sh", "-c", script], f"rest:///{path}"
    else:
        words, what = ssh_command(peer, remote=f"sh -c {shlex.quote(script)}"), f"rest://{peer}/{path}"
    return RestStore.open_pipe(words, what, **options)


def _rest_script(path: str) -> str:
    given = os.environ.get("MOUNTSTORE_REST_COMMAND")
    plain = path.removeprefix("~/")
    ours = shlex.quote(f"file:{quote_path(plain)}")
    if given:
        return f"exec {given} --stdio {ours}"
    theirs = shlex.quote(f"FILE:{plain}")
    return (
        f"if command -v mountstore >/dev/null; then exec mountstore serve --stdio {ours}; "
        f"else exec borgstore-server-rest --stdio --backend {theirs}; fi"
    )


def open_rclone(url: Url, **options: Any) -> ObjectStore:
    from mountstore.backends.rclone import RcloneStore

    url.allow()
    remote, path = _remote(url)
    return RcloneStore(remote, path, **options)


def _remote(url: Url) -> tuple[str, str]:
    remote, colon, path = url.path.partition(":")
    if url.netloc is not None or not colon or not remote:
        raise BadUrl("a remote of rclone is written rclone:REMOTE:PATH; see: rclone listremotes")
    return remote, path.rstrip("/")


def open_b2(url: Url, **options: Any) -> ObjectStore:
    """B2 by its S3 interface. The key is that in the URL, or in B2_APPLICATION_KEY_ID and B2_APPLICATION_KEY,
    or of a profile, or what boto3 finds."""
    bucket = bucket_of(url)
    return bucket.open(**{"client": bucket.client(), **options})


def b2_canonical(url: Url) -> str:
    bucket = bucket_of(url)
    return f"b2://{bucket.name}/{quote_path(bucket.prefix)}{write_query({'endpoint': bucket.endpoint or ''})}"


def rclone_canonical(url: Url) -> str:
    remote, path = _remote(url)
    return f"rclone:{quote_path(remote)}:{quote_path(path)}"


def rest_canonical(url: Url) -> str:
    return sftp_canonical(url) if url.host else f"rest:///{quote_path(_path(url).rstrip('/'))}"


def sftp_canonical(url: Url) -> str:
    """One string for one store. A relative path is the user's, an absolute one the machine's."""
    host, path = _host_and_path(url)
    user = f"{url.username}@" if url.username else ""
    port = f":{url.port}" if url.port not in (None, 22) else ""
    host = f"[{host}]" if ":" in host else host.lower()
    return f"{url.scheme}://{user}{host}{port}/{quote_path(path.rstrip('/') or '/')}"


def _host_and_path(url: Url) -> tuple[str, str]:
    if not url.host:
        raise BadUrl(f"the host is missing: {url.scheme}://[USER@]HOST[:PORT]/PATH")
    if url.password is not None:
        raise BadUrl(
            f"a password does not belong into {url.scheme}: URLs; ssh logs in with a key "
            "(ssh-keygen, ssh-copy-id)"
        )
    return url.host, _path(url)


def _path(url: Url) -> str:
    path = url.path.removeprefix("/")
    if not path:
        raise BadUrl(
            f"a path is missing: {url.scheme}://HOST/PATH starts at the home folder, "
            f"{url.scheme}://HOST//PATH at the root"
        )
    if "\0" in path:
        raise BadUrl("a path cannot hold a NUL character")
    return path


CANONICAL: Mapping[str, Callable[[Url], str]] = {
    "sftp": sftp_canonical,
    "rest": rest_canonical,
    "rclone": rclone_canonical,
    "b2": b2_canonical,
}
"""One string for one store, of each scheme."""
