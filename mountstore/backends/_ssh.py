"""The `ssh` of the system, run for what speaks over its stdin and stdout.

OpenSSH's own client, because it is what the user has set up: keys, agent, known hosts, jump hosts and
`~/.ssh/config` mean here what they mean everywhere. It never asks: a host whose key is not known, or a key
with a passphrase that no agent holds, is one line that says what to do.
"""

from __future__ import annotations

import collections
import contextlib
import os
import shlex
import subprocess
import threading
from dataclasses import dataclass

from mountstore.errors import AccessDenied, BadUrl, StoreError, Unavailable, UsageError

COMMAND_VARIABLE = "MOUNTSTORE_SSH"
"""Another command than `ssh`, with options, as in `ssh -F FILE`."""

_OPTIONS = {
    "BatchMode": "yes",
    "StrictHostKeyChecking": "yes",
    "ServerAliveInterval": "15",
    "ServerAliveCountMax": "3",
    "ConnectTimeout": "20",
    "ClearAllForwardings": "yes",
    "PermitLocalCommand": "no",
    "RequestTTY": "no",
}


@dataclass(frozen=True, slots=True)
class Peer:
    """Whom to reach: what `ssh` takes, and nothing of it can be an option."""

    host: str
    user: str | None = None
    port: int | None = None

    def __post_init__(self) -> None:
        for word in (self.host, self.user or ""):
            if word.startswith("-") or any(
                ord(letter) < 33 or letter in "@/\\\"'`$;&|<>()" for letter in word
            ):
                raise BadUrl(f"{word!r} is no name of a host or user")

    def __str__(self) -> str:
        return f"{self.user}@{self.host}" if self.user else self.host


def ssh_command(peer: Peer, *, subsystem: str = "", remote: str = "") -> list[str]:
    """The words that start `ssh` for a subsystem of the peer, or for a command that its shell reads."""
    given = os.environ.get(COMMAND_VARIABLE, "")
    try:
        words = shlex.split(given) or ["ssh"]
    except ValueError:
        raise UsageError(f"{COMMAND_VARIABLE} is no command: a quote is not closed") from None
    for name, value in _OPTIONS.items():
        words += ["-o", f"{name}={value}"]
    if peer.port is not None:
        words += ["-p", str(peer.port)]
    if peer.user:
        words += ["-l", peer.user]
    if subsystem:
        words.append("-s")
    return [*words, "--", peer.host, subsystem or remote]


class Process:
    """A child whose stdin and stdout are a connection; its stderr is kept for messages.

    It ends when its stdin closes, so it does not outlive us, however we end.
    """

    def __init__(self, words: list[str], what: str) -> None:
        self.what = what
        self._said: collections.deque[str] = collections.deque(maxlen=20)
        try:
            self._child = subprocess.Popen(
                words,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                bufsize=0,
                # Ctrl-C is for us: what is under way is brought to its end first.
                start_new_session=True,
            )
        except FileNotFoundError:
            raise UsageError(
                f"there is no program {words[0]!r}; install it (Debian: openssh-client)"
            ) from None
        except OSError as error:
            raise StoreError(f"{words[0]!r} does not start: {error.strerror}") from None
        assert self._child.stdin is not None
        assert self._child.stdout is not None
        self.stdin = self._child.stdin
        self.stdout = self._child.stdout
        self._listener = threading.Thread(target=self._listen, name="ssh-messages", daemon=True)
        self._listener.start()

    def _listen(self) -> None:
        assert self._child.stderr is not None
        with contextlib.suppress(OSError, ValueError):
            for line in self._child.stderr:
                text = line.decode(errors="replace").strip()
                if text:
                    self._said.append("".join(c if c.isprintable() else "?" for c in text)[:300])

    def fault(self) -> StoreError:
        """Why it ended, in our words; called when its stdout has ended."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._child.wait(timeout=5)
        self._listener.join(timeout=1)
        return _fault(self.what, list(self._said))

    def close(self) -> None:
        """Let it end, and end it if it does not."""
        with contextlib.suppress(OSError):
            self.stdin.close()
        try:
            self._child.wait(timeout=2)
        except subprocess.TimeoutExpired:
            self._child.kill()
            self._child.wait()
        self._listener.join(timeout=1)
        if not self._listener.is_alive():
            assert self._child.stderr is not None
            self._child.stderr.close()

    def kill(self) -> None:
        """End it now: whoever waits for it sees the end of its stdout."""
        self._child.kill()


def _fault(what: str, said: list[str]) -> StoreError:
    text = " ".join(said).lower()
    if "host identification has changed" in text:
        return AccessDenied(
            f"{what}: the host has another key than the known one; if that is right, remove the old key "
            "with ssh-keygen -R HOST and add the new one"
        )
    if "host key verification failed" in text or "no matching host key" in text:
        return AccessDenied(
            f"{what}: the host's key is not known; log in once with ssh and compare the key, or add it to "
            "~/.ssh/known_hosts"
        )
    if "permission denied" in text or "too many authentication failures" in text:
        return AccessDenied(
            f"{what} refuses this user; a key that ssh uses without asking is needed (ssh-add, ~/.ssh/config)"
        )
    if "subsystem request failed" in text:
        return StoreError(f"{what} offers no such service over ssh; enable its sftp subsystem")
    if "command not found" in text or "no such file or directory" in text:
        return StoreError(f"{what}: {said[-1]}")
    return Unavailable(f"{what}: {said[-1] if said else 'the connection was closed'}")
