"""Reading a store URL, and showing one without its secrets; the rules are in `mountstore.registry`."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from urllib.parse import quote, unquote

from mountstore.errors import BadUrl

SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*):")
_SECRET_PARAMETER = re.compile(
    r"(?i)([?&][^=&#]*(?:secret|password|passwd|token|signature|key)[^=&#]*=)[^&#]+"
)
_USER_AND_SECRET = re.compile(r"(?i)((?:^|(?<==))[a-z][a-z0-9+.-]*:(?://)?[^/?#@:]*:)[^?#]*@")
_BOOLEANS = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}


@dataclass(frozen=True, slots=True)
class Url:
    """A store URL, read.

    `path` is percent-decoded, `raw_path` as it stood (with its leading slash); `netloc` is None where
    the URL has no `//`. `fragment` is what follows `#`, as it stood; None without a `#`, and always for
    S3.
    """

    scheme: str
    netloc: str | None = field(default=None, repr=False)
    host: str | None = None
    port: int | None = None
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    path: str = ""
    raw_path: str = ""
    query: Mapping[str, str] = field(default_factory=dict)
    fragment: str | None = None

    def allow(self, *parameters: str) -> None:
        """BadUrl for a parameter that is none of these; each factory calls it first."""
        for name in self.query:
            if name not in parameters:
                known = f"it knows {', '.join(sorted(parameters))}" if parameters else "it has none"
                raise BadUrl(f"unknown parameter {name!r} in a {self.scheme}: URL; {known}")

    def flag(self, name: str, default: bool = False) -> bool:
        """The boolean parameter `name`; `default` if it is not there."""
        value = self.query.get(name, str(default))
        if value.lower() not in _BOOLEANS:
            raise BadUrl(f"the parameter {name!r} of a {self.scheme}: URL must be true or false")
        return _BOOLEANS[value.lower()]

    def number(self, name: str, default: int) -> int:
        """The parameter `name`, a whole number from 0 on; `default` if it is not there."""
        value = self.query.get(name, str(default))
        if not (value.isascii() and value.isdigit() and len(value) <= 18):
            raise BadUrl(f"the parameter {name!r} of a {self.scheme}: URL must be a whole number")
        return int(value)

    def file_path(self) -> Path:
        """The absolute path that a URL of a local store names. Raises BadUrl."""
        if self.netloc not in (None, "", "localhost"):
            raise BadUrl(
                f"{self.scheme}://{self.netloc}{self.raw_path} names a host; an absolute path has three "
                f"slashes, {self.scheme}:///PATH, a relative one none, {self.scheme}:PATH"
            )
        if not self.path:
            raise BadUrl(f"a path is missing: {self.scheme}:///PATH")
        if "\0" in self.path:
            raise BadUrl("a path cannot hold a NUL character")
        # POSIX lets '//x' mean something else, so abspath would keep it.
        return Path(os.path.abspath(re.sub("^/+", "/", self.path)))


def parse(url: str) -> Url:
    """Read a URL. Raises BadUrl; whether its scheme exists is not asked here."""
    try:
        os.fsencode(url)
    except UnicodeEncodeError:
        raise BadUrl("a store URL cannot hold lone surrogates") from None
    if "\0" in url:
        raise BadUrl("a store URL cannot hold a NUL character")
    if url in (".", "..") or url.startswith(("/", "./", "../")):
        return Url("file", path=url, raw_path=url)
    match = SCHEME.match(url)
    if match is None:
        raise BadUrl(
            f"{redact(url)!r} is not a store URL; a directory is written file:PATH, a bucket s3://BUCKET"
        )
    scheme, rest = match[1].lower(), url[match.end() :]
    fragment: str | None = None
    if scheme != "s3":
        rest, has_fragment, after = rest.partition("#")
        fragment = after if has_fragment else None
    rest, has_query, query = rest.partition("?")
    parts = Url(scheme, path=_unquote(rest), raw_path=rest, fragment=fragment)
    if rest.startswith("//"):
        netloc, slash, path = rest[2:].partition("/")
        if scheme == "s3":
            _refuse_secrets(netloc, path)
        parts = _with_authority(
            replace(parts, path=_unquote(slash + path), raw_path=slash + path), netloc, url
        )
    if has_query and not query:
        raise BadUrl(
            f"{redact(url)}: nothing follows the '?'; one that belongs to a path is written %3F, "
            "and in S3 keys goes into ?prefix="
        )
    return replace(parts, query=_parameters(query, url)) if has_query else parts


def redact(url: str) -> str:
    """`url` for messages: passwords, tokens and keys in it become `***`. Never raises."""
    return _SECRET_PARAMETER.sub(r"\1***", _USER_AND_SECRET.sub(r"\1***@", url))


def _with_authority(parts: Url, netloc: str, url: str) -> Url:
    userinfo, has_user, address = netloc.rpartition("@")
    username, has_password, password = userinfo.partition(":")
    match = re.fullmatch(r"(\[[^\]]*\]|[^:]*)(?::([0-9]{1,5}))?", address)
    if match is None or (match[2] and int(match[2]) > 65535):
        raise BadUrl(f"{redact(url)}: what stands between // and the next / is not HOST or HOST:PORT")
    return replace(
        parts,
        netloc=netloc,
        host=match[1].strip("[]") or None,
        port=int(match[2]) if match[2] else None,
        username=_unquote(username) if has_user else None,
        password=_unquote(password) if has_password else None,
    )


def _parameters(query: str, url: str) -> dict[str, str]:
    parameters: dict[str, str] = {}
    for part in query.split("&"):
        name, equals, value = part.partition("=")
        name = _unquote(name)
        if not equals or not name:
            raise BadUrl(f"{redact(url)}: parameters are written ?name=value&name=value")
        if name in parameters:
            raise BadUrl(f"{redact(url)}: the parameter {name!r} is given twice")
        parameters[name] = _unquote(value)
    return parameters


def _unquote(text: str) -> str:
    # Names of files need not be UTF-8.
    return unquote(text, errors="surrogateescape")


def quote_path(text: str) -> str:
    return quote(os.fsencode(text))


def write_query(parameters: Mapping[str, str]) -> str:
    written = "&".join(
        f"{quote_path(name)}={quote_path(value)}" for name, value in sorted(parameters.items())
    )
    return f"?{written}" if written else ""


def _refuse_secrets(netloc: str, path: str) -> None:
    # A secret key may hold a slash, so that its end and the @ have slipped into the path.
    if "@" in netloc or (":" in netloc and "@" in path):
        raise BadUrl(
            "credentials do not belong into an s3: URL; put them into the environment "
            "(AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY) or into a profile, ?profile=NAME"
        )
    if ":" in netloc:
        raise BadUrl("an s3: URL begins with the bucket; another server is named by ?endpoint=URL")
