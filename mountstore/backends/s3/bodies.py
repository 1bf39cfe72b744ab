"""obstore: the fast way for bodies of ordinary keys.

It tries once. A caller gets the object, NotFound, PreconditionFailed, or `Miss`: then the wire is asked
the same, which finds out exactly what is wrong, or tries again.

What protects a body on its way up: a CRC64/NVME that the server compares. The SHA-256 in the signature,
three times as costly, comes on top over plain HTTP to another machine, where somebody might change both,
and wherever the probe did not find that the server compares checksums.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import TYPE_CHECKING

from mountstore.backends.s3.account import Account, Site
from mountstore.backends.s3.ranges import Piece
from mountstore.backends.s3.wire import Patience
from mountstore.errors import NotFound, PreconditionFailed
from mountstore.store import Data

if TYPE_CHECKING:
    from obstore import GetOptions, GetResult, PutMode
    from obstore.store import ClientConfig, S3Config, S3Store

# obstore takes these for headers of the object, not for user metadata.
RESERVED = frozenset(
    {
        "cache-control",
        "content-disposition",
        "content-encoding",
        "content-language",
        "content-type",
        "storage-class",
    }
)
_COPIED_BYTES = 64 << 10  # what is this small may lie in a larger buffer, which it would hold
_STATUS = re.compile(r"status code: (\d{3})")


class Miss(Exception):
    """obstore has no plain answer. `tries` is 0 if the server refused, so that nothing was done."""

    def __init__(self, tries: int) -> None:
        super().__init__(tries)
        self.tries = tries


class Bodies:
    """GET, HEAD and PUT through obstore; keys are whole keys for which `exact_in_obstore` holds."""

    def __init__(
        self,
        account: Account,
        site: Site,
        patience: Patience,
        count: Callable[[str], None],
        *,
        signed_bodies: bool,
        checksums: bool,
    ) -> None:
        from obstore.store import S3Store

        self.site = site
        self._count = count
        virtual = not site.path.endswith(f"/{account.bucket}")
        root = site.base if virtual else site.base.removesuffix(f"/{account.bucket}")
        client_options: ClientConfig = {
            "allow_http": site.scheme == "http",
            "connect_timeout": timedelta(seconds=patience.connect_timeout_s),
            "read_timeout": timedelta(seconds=patience.read_timeout_s),
            "timeout": timedelta(minutes=15),
        }
        if account.ca_bundle and site.scheme == "https":
            with open(account.ca_bundle, "rb") as bundle:
                client_options["root_certificate"] = bundle.read()
        extra: S3Config = {"checksum_algorithm": "CRC64NVME"} if checksums else {}
        # Each setting is given, because obstore would otherwise read it from AWS_* variables of its own.
        self._store: S3Store = S3Store(
            account.bucket,
            endpoint=root,
            aws_endpoint_url_s3=root,
            region=site.region,
            virtual_hosted_style_request=virtual,
            skip_signature=account.anonymous,
            unsigned_payload=not signed_bodies,
            credential_provider=None if account.anonymous else account.provide,
            client_options=client_options,
            retry_config={"max_retries": 0},
            **extra,  # type: ignore[misc]  # "bucket" is one of its names, and is not given here
        )

    def get(self, whole: str, key: str, start: int, stop: int | None, if_match: str | None) -> Piece:
        """Bytes [start, stop), fewer if the object ends before."""
        import obstore

        options: GetOptions = {}
        if if_match is not None:
            options["if_match"] = if_match
        if stop is not None:
            options["range"] = (start, stop)
        elif start:
            options["range"] = {"offset": start}
        self._count("GET")
        try:
            result = obstore.get(self._store, whole, options=options)
            meta = result.meta
            data = memoryview(result.bytes())
            if len(data) <= _COPIED_BYTES:
                data = memoryview(bytes(data))
            return Piece(data, result.range[0], meta["size"], meta["e_tag"])
        except Exception as error:
            raise self._judge(error, key) from error

    def get_whole(self, whole: str, key: str) -> tuple[GetResult, bytes]:
        """What `head` tells, and the content."""
        import obstore

        self._count("GET")
        try:
            result = obstore.get(self._store, whole)
            return result, bytes(result.bytes())
        except Exception as error:
            raise self._judge(error, key) from error

    def head(self, whole: str, key: str) -> GetResult:
        """Size, etag, time and metadata."""
        import obstore

        self._count("HEAD")
        try:
            return obstore.get(self._store, whole, options={"head": True})
        except Exception as error:
            raise self._judge(error, key) from error

    def put(
        self,
        whole: str,
        key: str,
        data: Data,
        metadata: Mapping[str, str],
        if_match: str | None,
        if_absent: bool,
    ) -> str | None:
        """Put in one part; the new etag."""
        import obstore

        mode: PutMode = "overwrite"
        if if_absent:
            mode = "create"
        elif if_match is not None:
            mode = {"e_tag": if_match}
        self._count("PUT")
        try:
            result = obstore.put(
                self._store, whole, data, attributes=dict(metadata) or None, mode=mode, use_multipart=False
            )
            return result["e_tag"]
        except Exception as error:
            raise self._judge(error, key) from error

    def _judge(self, error: Exception, key: str) -> Exception:
        from obstore import exceptions

        text = str(error)
        if isinstance(error, FileNotFoundError) and ("<Code>NoSuchKey<" in text or "<Code>" not in text):
            return NotFound(key=key)
        # A 409 is an AlreadyExistsError too, whatever it is about.
        conditional = isinstance(error, exceptions.PreconditionError | exceptions.AlreadyExistsError)
        if conditional and "status code: 412" in text:
            return PreconditionFailed(f"{key!r} is not what was expected: somebody else was first", key=key)
        if not isinstance(error, exceptions.BaseError | OSError):
            return error
        found = _STATUS.search(text)
        refused = found is not None and found[1].startswith(("3", "4")) and found[1] not in ("408", "429")
        return Miss(0 if refused else 1)


def user_metadata(result: GetResult) -> dict[str, str]:
    """Without the headers that obstore puts among them: those begin with a capital, metadata never do."""
    return {str(name): str(value) for name, value in result.attributes.items() if str(name).islower()}
