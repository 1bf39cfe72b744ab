"""A real sshd for the tests: its own configuration, keys and known hosts, on a free loopback port."""

from __future__ import annotations

import contextlib
import getpass
import os
import shlex
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests import services
from tests.services import Service

KEY_DEADLINE_S = 30


@dataclass(frozen=True, slots=True)
class Sshd:
    """A running sshd, and the `ssh` command that can log in there: its keys and known hosts alone."""

    service: Service
    home: Path
    """Where the keys, and the configuration `config` of the client, are."""

    @property
    def port(self) -> int:
        return self.service.port

    @property
    def ssh(self) -> str:
        """What MOUNTSTORE_SSH is to be."""
        return f"ssh -F {shlex.quote(str(self.home / 'config'))}"

    def url(self, path: str | Path, scheme: str = "sftp") -> str:
        """The URL of an absolute path."""
        return f"{scheme}://{getpass.getuser()}@127.0.0.1:{self.port}/{path}"

    def sessions(self) -> list[int]:
        """The processes that serve a connection each."""
        children = Path(f"/proc/{self.service.process.pid}/task/{self.service.process.pid}/children")
        return [int(pid) for pid in children.read_text().split()]


def make_key(path: Path) -> Path:
    """A key without a passphrase; returns the path of its public half."""
    subprocess.run(
        ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(path)],
        stdin=subprocess.DEVNULL,
        timeout=KEY_DEADLINE_S,
        check=True,
    )
    return path.with_name(path.name + ".pub")


@contextlib.contextmanager
def sshd(home: Path, *options: str) -> Iterator[Sshd]:
    """An sshd that lets this user in with one key; `options` are lines of its configuration."""
    home.mkdir(mode=0o700, exist_ok=True)
    host_key, user_key = make_key(home / "host"), make_key(home / "user")
    (home / "authorized").write_bytes(user_key.read_bytes())

    def command(port: int, folder: Path) -> list[str]:
        lines = [
            "ListenAddress 127.0.0.1",
            f"Port {port}",
            f"HostKey {home}/host",
            f"AuthorizedKeysFile {home}/authorized",
            f"PidFile {folder}/pid",
            "UsePAM no",
            "PasswordAuthentication no",
            "KbdInteractiveAuthentication no",
            "StrictModes no",
            "PermitRootLogin prohibit-password",
            "MaxStartups 100",
            *(options or ["Subsystem sftp internal-sftp"]),
        ]
        (folder / "sshd_config").write_text("\n".join(lines) + "\n")
        kind, public, *_ = host_key.read_text().split()
        (home / "known_hosts").write_text(f"[127.0.0.1]:{port} {kind} {public}\n")
        (home / "config").write_text(
            f"IdentityFile {home}/user\nIdentitiesOnly yes\nIdentityAgent none\n"
            f"UserKnownHostsFile {home}/known_hosts\nGlobalKnownHostsFile /dev/null\n"
        )
        if os.getuid() == 0:
            # sshd wants this folder, which Debian makes only when its own service starts.
            Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
        return [services.found("sshd"), "-D", "-e", "-f", str(folder / "sshd_config")]

    with services.running("sshd", command) as service:
        yield Sshd(service, home)
