"""URLs of stores on other machines: sftp."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mountstore.errors import BadUrl
from mountstore.registry.urls import Url, quote_path

if TYPE_CHECKING:
    from mountstore.store import ObjectStore


def open_sftp(url: Url, **options: Any) -> ObjectStore:
    from mountstore.backends.sftp import SftpStore

    url.allow("durable")
    host, path = _host_and_path(url)
    chosen: dict[str, Any] = {"user": url.username, "port": url.port, "durable": url.flag("durable", True)}
    return SftpStore(host, path, **{**chosen, **options})


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
    path = url.path.removeprefix("/")
    if not path:
        raise BadUrl(
            f"a path is missing: {url.scheme}://HOST/PATH starts at the home folder, "
            f"{url.scheme}://HOST//PATH at the root"
        )
    if "\0" in path:
        raise BadUrl("a path cannot hold a NUL character")
    return url.host, path
