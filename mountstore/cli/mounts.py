"""mount, umount, sync, status; and `mount.mountstore`, as mount(8) calls it."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import click

from mountstore.cli import fstab
from mountstore.cli.output import escape
from mountstore.cli.waiting import GivenUp, describe, describe_file, loss_lines, not_in_store, wait_for
from mountstore.daemon.control import reach, running
from mountstore.daemon.detach import Readiness, detach
from mountstore.daemon.mounttab import FSTYPE, mount_at, resolve, unmount
from mountstore.daemon.request import MountRequest, check_mountpoint, is_dead
from mountstore.daemon.runtime import RuntimeRecord, records
from mountstore.errors import MountError, MountstoreError, UsageError

DEFAULT_STORE = "sqlite:"
_LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR")


class _Read(click.ParamType[Any]):
    """An option read by the same function as its twin after `-o`."""

    def __init__(self, name: str, read: Callable[[str], Any]) -> None:
        self.name = name
        self._read = read

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        try:
            return self._read(value) if isinstance(value, str) else value
        except UsageError as error:
            self.fail(str(error), param, ctx)


_SECONDS = _Read("seconds", fstab.seconds)
_PATH = _Read("path", fstab.absolute)
_SIZE = _Read("size", fstab.byte_size)


@click.command()
@click.argument("places", metavar="[STORE] MOUNTPOINT", nargs=-1, required=True)
@click.option("-f", "--foreground", is_flag=True, help="Stay in the foreground, and log to stderr.")
@click.option("-r", "--read-only", is_flag=True, default=None, help="Refuse every change.")
@click.option(
    "--uid", type=_Read("user", fstab.user_id), help="Owner of what has none in the store [default: you]."
)
@click.option(
    "--gid", type=_Read("group", fstab.group_id), help="Group of what has none in the store [default: yours]."
)
@click.option(
    "--umask", type=_Read("octal", fstab.octal), help="Mode of what has none in the store [default: 022]."
)
@click.option(
    "--file-mode",
    type=_Read("octal", fstab.octal),
    help="Mode of files that have none in the store [default: by --umask].",
)
@click.option(
    "--dir-mode",
    type=_Read("octal", fstab.octal),
    help="Mode of directories that have none in the store [default: by --umask].",
)
@click.option("--xattr", is_flag=True, default=None, help="Keep user, security and trusted attributes.")
@click.option("--acl", is_flag=True, default=None, help="Keep POSIX ACLs, and let the kernel enforce them.")
@click.option("--dev", is_flag=True, default=None, help="Allow device nodes; for root.")
@click.option(
    "--atime",
    is_flag=True,
    default=None,
    help="Record that a file was read, as relatime does; else its access time changes by utimensat alone.",
)
@click.option(
    "--allow-other",
    is_flag=True,
    default=None,
    help="Let other users in, as far as modes allow. Without it the mount is its owner's alone.",
)
@click.option("--ttl", "ttl_s", type=_SECONDS, help="Ask for a listing again when it is older [default: 10].")
@click.option(
    "--fsync",
    type=click.Choice(["remote", "local"]),
    help="fsync returns when the store has the data, or the local disk [default: remote].",
)
@click.option(
    "--checkpoint",
    "checkpoint_s",
    type=_SECONDS,
    help="Upload a file that stays open this often [default: 30].",
)
@click.option(
    "--upload-delay",
    "upload_delay_s",
    type=_SECONDS,
    help="Upload a file when it has been closed and left alone for so long [default: 1].",
)
@click.option(
    "--attrs",
    type=click.Choice(["auto", "stored", "listed"]),
    help="Ask objects for modes, owners and times where a directory's marker tells of some (auto), always"
    " (stored), or never (listed) [default: auto].",
)
@click.option(
    "--state-dir",
    type=_PATH,
    help="Journal, index and log [default: a directory for this store in ~/.local/state/mountstore].",
)
@click.option(
    "--cache",
    "cache_dir",
    type=_PATH,
    help="Keep what was read and written in a folder of this directory [default: ~/.cache/mountstore; no"
    " cache for stores on this machine, of which it would be a mere copy, and for those that cannot say which"
    " version they read].",
)
@click.option(
    "--cache-size",
    type=_SIZE,
    help="How much: 10G, 500M [default: a tenth of what is free there, at most 10G].",
)
@click.option("--no-cache", "cache", flag_value=False, default=None, help="Keep nothing on the disk.")
@click.option("--log-file", type=_PATH, help="Log here [default: daemon.log in the state directory].")
@click.option("-v", "--verbose", is_flag=True, help="Log more; MOUNTSTORE_LOG=debug does the same.")
@click.option(
    "-o", "options", metavar="OPT[,OPT...]", multiple=True, help="The same, and mount(8)'s, as in fstab."
)
def mount(
    places: tuple[str, ...], foreground: bool, verbose: bool, options: tuple[str, ...], **given: Any
) -> None:
    """Make STORE a directory: its objects are files below MOUNTPOINT.

    Without STORE, the embedded default store, sqlite:, is mounted. Returns when the mount works; the
    daemon goes on in the background until `mountstore umount`, which waits until the store has
    everything. MOUNTPOINT is an empty directory. The mount is always nosuid,
    and nodev without --dev.
    """
    if len(places) > 2:
        raise UsageError("mount takes a store and a mount point: mountstore mount [STORE] MOUNTPOINT")
    if len(places) == 1 and ":" in places[0] and not os.path.isdir(places[0]):
        raise UsageError(f"where to? mountstore mount {escape(_redact(places[0]))} MOUNTPOINT")
    url, mountpoint = places if len(places) == 2 else (DEFAULT_STORE, places[0])
    fields = _configured(url) | fstab.parse_options(options)
    fields |= {name: value for name, value in given.items() if value is not None}
    request = MountRequest(url=url, mountpoint=resolve(mountpoint), log_level=_log_level(verbose), **fields)
    _mount(request, foreground=foreground)


@click.command()
@click.argument("mountpoint")
@click.option(
    "--timeout",
    "timeout_s",
    type=_SECONDS,
    help="Give up after this long [default: after 30 s without progress].",
)
@click.option("--force", is_flag=True, help="Then unmount all the same; the journal keeps what is missing.")
def umount(mountpoint: str, timeout_s: float | None, force: bool) -> None:
    """Upload what is pending, then end the mount.

    Returns 0 when the store has everything and the daemon has ended. While files are open, it says so
    and stays mounted. If the store cannot be reached it says what is missing there, and stays mounted
    unless --force; nothing is lost either way: the next mount of the same store goes on.
    """
    path = resolve(mountpoint)
    connection = reach(path)
    if connection is None:
        _clean_up(path)
        return
    with connection:
        try:
            done = wait_for(connection, "umount", timeout_s)
            connection.wait_for_end()
            _tell_what_happened(done)
            return
        except GivenUp as given_up:
            status = given_up.status
    if not force:
        still = "stays mounted" if mount_at(path) else "is unmounted, and the daemon keeps trying"
        raise MountError(f"{path} {still}: {not_in_store(status)}; --force ends it all the same")
    connection = reach(path)
    if connection is not None:
        with connection:
            for _, told in connection.ask("umount", force=True):
                status = told
            connection.wait_for_end()
    if status["pending_count"]:
        raise MountError(f"{path} is unmounted: {not_in_store(status)}")


@click.command()
@click.argument("mountpoint")
@click.option(
    "--timeout",
    "timeout_s",
    type=_SECONDS,
    help="Give up after this long [default: after 30 s without progress].",
)
def sync(mountpoint: str, timeout_s: float | None) -> None:
    """Wait until the store has everything that was written below MOUNTPOINT so far."""
    path = resolve(mountpoint)
    connection = reach(path)
    if connection is None:
        raise _not_running(path)
    with connection:
        try:
            _tell_what_happened(wait_for(connection, "sync", timeout_s))
        except GivenUp as given_up:
            raise MountError(not_in_store(given_up.status)) from None


@click.command()
@click.argument("path", required=False)
@click.option("--json", "is_json", is_flag=True, help="One JSON object; without PATH, a list of them.")
def status(path: str | None, is_json: bool) -> None:
    """Tell what is pending, since when and why; without PATH, for every mount of yours.

    PATH is a mount point, or a file or directory in a mount: then its own state is told.
    """
    if path is not None:
        if (told := _file_status(path)) is not None:
            click.echo(json.dumps(told) if is_json else describe_file(told))
            return
        path = resolve(path)
        connection = reach(path)
        if connection is None:
            raise _not_running(path)
        with connection:
            (_, told), *_ = connection.ask("status")
        click.echo(json.dumps(told) if is_json else describe(told))
        return
    all_told = []
    for record, connection in running():
        if connection is None:
            all_told.append({**asdict(record), "phase": "dead"})
            continue
        with connection:
            (_, told), *_ = connection.ask("status")
            all_told.append(told)
    if is_json:
        click.echo(json.dumps(all_told))
    elif not all_told:
        click.echo("nothing is mounted")
    else:
        click.echo("\n".join(describe(told) for told in all_told))
    if any(told["phase"] == "dead" for told in all_told):
        raise click.exceptions.Exit(1)


def _file_status(path: str) -> dict[str, Any] | None:
    """The state of one file in a mount; None if this is no path below one."""
    folder, name = os.path.split(os.path.abspath(path))
    path = os.path.join(os.path.realpath(folder), name)
    mountpoint = os.path.dirname(path)
    while (entry := mount_at(mountpoint)) is None and mountpoint != "/":
        mountpoint = os.path.dirname(mountpoint)
    if not name or mount_at(path) is not None or entry is None or entry.fstype != FSTYPE:
        return None
    connection = reach(mountpoint)
    if connection is None:
        raise _not_running(mountpoint)
    with connection:
        try:
            ino = os.lstat(path).st_ino
        except OSError as error:
            raise UsageError(f"{path}: {error.strerror}") from None
        (_, told), *_ = connection.ask("file", ino=ino)
    return told


@click.command("mount.mountstore", context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("url", metavar="STORE")
@click.argument("mountpoint")
@click.option("-s", "sloppy", is_flag=True, help="Tolerate unknown options.")
@click.option("-f", "fake", is_flag=True, help="Check, but do not mount.")
@click.option("-n", "_no_mtab", is_flag=True, help="Ignored: there is no mtab.")
@click.option("-v", "verbose", is_flag=True, help="Log more.")
@click.option("-t", "_fstype", metavar="TYPE", help="Ignored.")
@click.option("-N", "namespace", metavar="NAMESPACE", help="Not supported.")
@click.option("-o", "options", multiple=True, metavar="OPT[,OPT...]", help="See fstab(5).")
def _helper(
    url: str,
    mountpoint: str,
    sloppy: bool,
    fake: bool,
    _no_mtab: bool,
    verbose: bool,
    _fstype: str | None,
    namespace: str | None,
    options: tuple[str, ...],
) -> None:
    """Mount STORE for mount(8): the type in /etc/fstab is `mountstore`."""
    if namespace:
        raise UsageError("-N is not supported; run mount in that namespace (nsenter -m)")
    fields = _configured(url) | fstab.parse_options(options, sloppy=sloppy)
    request = MountRequest(url=url, mountpoint=resolve(mountpoint), log_level=_log_level(verbose), **fields)
    if fake:
        check_mountpoint(request.mountpoint)
    else:
        _mount(request, foreground=False)


def mount_helper() -> None:
    """The program `mount.mountstore`. Exits as mount(8) documents: 0, 1 for a bad call, 32 for a failure."""
    try:
        code = _helper.main(prog_name="mount.mountstore", standalone_mode=False)
        sys.exit(code or 0)
    except click.ClickException as error:
        message, code = error.format_message(), 1
    except UsageError as error:
        message, code = str(error), 1
    except (MountstoreError, OSError) as error:
        message, code = str(error), 32
    except (KeyboardInterrupt, click.Abort):
        message, code = "interrupted", 8
    click.echo(f"mount.mountstore: {escape(' '.join(message.split()))}", err=True)
    sys.exit(code)


def _configured(url: str) -> dict[str, Any]:
    """What the configuration says of the mount that a `config:NAME` names; options given win over it."""
    if not url.startswith("config:"):
        return {}
    from mountstore.config import mount_defaults
    from mountstore.registry import config_name

    readers = dict(fstab.VALUES.values())
    fields = mount_defaults(*config_name(url))
    for name, value in fields.items():
        if isinstance(value, str):
            try:
                fields[name] = readers[name](value)
            except UsageError as error:
                raise UsageError(f"{escape(url)}, {name}: {error}") from None
    return fields


def _mount(request: MountRequest, *, foreground: bool) -> None:
    def work(readiness: Readiness) -> int:
        # Only here, in the child: stores start threads, and threads do not survive a fork.
        try:
            from mountstore.daemon.serve import serve
        except ImportError as error:
            if error.name not in ("pyfuse3", "pyfuse3.__init__") and "libfuse" not in str(error):
                raise
            raise MountError(
                "FUSE is missing: apt install fuse3 libfuse3-dev, then pip install pyfuse3"
            ) from error
        return serve(request, readiness, foreground=foreground)

    if not foreground:
        detach(work, lambda note: click.echo(f"mountstore: {escape(note)}", err=True))
    elif code := work(Readiness()):
        raise click.exceptions.Exit(code)


def _clean_up(path: str) -> None:
    """Nobody answers for `path`: take a dead mount away, or say what is wrong."""
    error = _not_running(path)
    entry = mount_at(path)
    if entry is None or entry.fstype != FSTYPE or not is_dead(path):
        raise error
    where = ""
    for record in records(path):
        where = f" ({escape(record.state_dir)})"
        record.remove()
    unmount(path, lazy=True)
    click.echo(
        f"{escape(path)}: the daemon had died; the mount is taken away. What the store does not have is in"
        f" the journal{where}, and the next mount of {escape(entry.source)} goes on with it.",
        err=True,
    )


def _not_running(path: str) -> MountError:
    entry = mount_at(path)
    if entry is None:
        left = _first(records(path))
        if left is not None:
            return MountError(
                f"{path} is not mounted; its daemon (pid {left.pid}) died. Mount {left.url} again to go on"
            )
        return MountError(f"{path} is not mounted (mountstore status lists what is)")
    if entry.fstype != FSTYPE:
        return MountError(f"{path} is not a mount of mountstore but {entry.source} ({entry.fstype})")
    if is_dead(path):
        return MountError(
            f"{path}: the daemon has died; mount {entry.source} again to go on, or mountstore umount {path}"
        )
    return MountError(
        f"{path} is mounted, but its daemon does not answer you, as one of another user's would not;"
        f" umount {path} ends the mount, and the daemon goes on uploading"
    )


def _first(found: list[RuntimeRecord]) -> RuntimeRecord | None:
    return found[0] if found else None


def _tell_what_happened(status: dict[str, Any]) -> None:
    for path in status["conflicts"]:
        click.echo(f"conflict: both versions were kept, this mount's as {escape(path)}", err=True)
    for line in loss_lines(status):
        click.echo(line, err=True)


def _log_level(verbose: bool) -> str:
    level = "DEBUG" if verbose else os.environ.get("MOUNTSTORE_LOG", "INFO").upper()
    if level not in _LEVELS:
        raise UsageError(f"MOUNTSTORE_LOG is {level.lower()!r}; it can be {', '.join(_LEVELS).lower()}")
    return level


def _redact(url: str) -> str:
    from mountstore.registry import redact

    return redact(url)
