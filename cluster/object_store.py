"""One place in an S3-compatible object store: reading, writing and deleting what is there."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from slicemamba.errors import InputError

STORE_VARIABLE = "SLICEMAMBA_STORE"
PROBE = ".probe-"
"""How names of objects begin that are there for a moment only, to see whether the place can be written to."""
_MISSING, _EXISTS = ("404", "NoSuchKey"), ("412", "PreconditionFailed", "ConditionalRequestConflict")


class Store:
    """A place in an object store. What it cannot do, it tells by OSError.

    Args:
        client: of boto3. bucket, prefix: where the place is.
    """

    def __init__(self, client: Any, bucket: str, prefix: str) -> None:
        self._client = client
        self._bucket = bucket
        self._prefix = prefix

    @property
    def path(self) -> str:
        return f"s3://{self._bucket}/{self._prefix}"

    def write(self, name: str, content: bytes) -> None:
        """Whole or not at all, as stores do."""
        with _told_by_os_error():
            self._client.put_object(Bucket=self._bucket, Key=self._key(name), Body=content)

    def write_new(self, name: str, content: bytes) -> bool:
        """``write`` on the condition that there is no such object; of several at once one alone gets True."""
        try:
            with _told_by_os_error():
                self._client.put_object(Bucket=self._bucket, Key=self._key(name), Body=content, IfNoneMatch="*")
        except FileExistsError:
            return False
        return True

    def upload(self, name: str, file: Path) -> None:
        with _told_by_os_error():
            self._client.upload_file(str(file), self._bucket, self._key(name))

    def read(self, name: str) -> bytes | None:
        """The object's content, None where there is none."""
        try:
            with _told_by_os_error():
                content: bytes = self._client.get_object(Bucket=self._bucket, Key=self._key(name))["Body"].read()
        except FileNotFoundError:
            return None
        return content

    def download(self, name: str, file: Path) -> None:
        file.parent.mkdir(parents=True, exist_ok=True)
        with _told_by_os_error():
            self._client.download_file(self._bucket, self._key(name), str(file))

    def delete(self, name: str) -> None:
        with _told_by_os_error():
            self._client.delete_object(Bucket=self._bucket, Key=self._key(name))

    def names(self, beginning: str = "") -> set[str]:
        """Of all objects whose names begin so."""
        pages = self._client.get_paginator("list_objects_v2")
        with _told_by_os_error():
            found = pages.paginate(Bucket=self._bucket, Prefix=self._key(beginning)).search("Contents[].Key")
            return {key.removeprefix(self._key("")) for key in found if key is not None}

    def _key(self, name: str) -> str:
        return f"{self._prefix}/{name}"


@contextmanager
def _told_by_os_error() -> Iterator[None]:
    from boto3.exceptions import Boto3Error
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        yield
    except ClientError as error:
        code = error.response["Error"]["Code"]
        kind = FileNotFoundError if code in _MISSING else FileExistsError if code in _EXISTS else OSError
        raise kind(str(error)) from error
    except (Boto3Error, BotoCoreError) as error:
        raise OSError(str(error)) from error


def open_store(url: str, name: str) -> Store:
    """The place of the run ``name`` below ``s3://bucket/prefix``.

    Credentials, region and endpoint come from the usual AWS_* variables and files.

    Raises:
        InputError: another kind of URL, or the store cannot be written to or does not know conditional writes.
    """
    parts = urlsplit(url)
    if parts.scheme != "s3" or not parts.netloc or parts.query:
        raise InputError(f"the store must be s3://BUCKET/PREFIX; got {url!r} (--store or {STORE_VARIABLE})")
    try:
        store = Store(_s3(), parts.netloc, "/".join([*filter(None, parts.path.split("/")), name]))
        probe = f"{PROBE}{uuid.uuid4().hex}"  # of this process alone, as several may look at once
        store.write(probe, b"writable")
        overwritten = store.write_new(probe, b"there already")
        store.delete(probe)
    except (OSError, ValueError) as error:
        raise InputError(
            f"the store {url} cannot be written to ({error}); check the bucket, AWS_ACCESS_KEY_ID, "
            "AWS_SECRET_ACCESS_KEY, AWS_REGION and, unless the store is on AWS, AWS_ENDPOINT_URL"
        ) from None
    if overwritten:
        raise InputError(
            f"the store {url} does not know conditional writes: it has overwritten an object in spite of "
            "If-None-Match, by which one alone of several drivers gets a run; use a store that does, as AWS S3"
        )
    return store


def _s3() -> Any:
    import boto3
    from botocore.config import Config

    return boto3.session.Session().client(
        "s3",
        region_name=os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION"),
        config=Config(
            connect_timeout=10,
            read_timeout=60,
            retries={"max_attempts": 3, "mode": "standard"},
            request_checksum_calculation="when_required",  # which not every store knows
            response_checksum_validation="when_required",
        ),
    )
