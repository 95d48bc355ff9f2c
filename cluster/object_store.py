"""One place in an S3-compatible object store: reading, writing and deleting what is there."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from slicemamba.errors import InputError

STORE_VARIABLE = "SLICEMAMBA_STORE"
PROBE = ".probe-"
"""How names of objects begin that are there for a moment only, to see whether the place can be written to."""
_CHUNK_BYTES = 8 << 20


class Store:
    """A place in an object store.

    Args:
        filesystem: of ``pyarrow.fs``. path: bucket and prefix, as it takes them.
    """

    def __init__(self, filesystem: Any, path: str) -> None:
        self._filesystem = filesystem
        self.path = path

    def write(self, name: str, content: bytes) -> None:
        """Whole or not at all, as stores do."""
        with self._filesystem.open_output_stream(f"{self.path}/{name}") as stream:
            stream.write(content)

    def upload(self, name: str, file: Path) -> Iterator[None]:
        """Uploads a file; yields after each part of it."""
        with file.open("rb") as source, self._filesystem.open_output_stream(f"{self.path}/{name}") as stream:
            while part := source.read(_CHUNK_BYTES):
                stream.write(part)
                yield

    def read(self, name: str) -> bytes | None:
        """The object's content, None where there is none."""
        try:
            with self._filesystem.open_input_stream(f"{self.path}/{name}") as stream:
                content: bytes = stream.read()
        except FileNotFoundError:
            return None
        return content

    def download(self, name: str, file: Path) -> Iterator[None]:
        """Writes an object to a file; yields after each part of it."""
        file.parent.mkdir(parents=True, exist_ok=True)
        with self._filesystem.open_input_stream(f"{self.path}/{name}") as stream, file.open("wb") as target:
            while part := stream.read(_CHUNK_BYTES):
                target.write(part)
                yield

    def delete(self, name: str) -> None:
        self._filesystem.delete_file(f"{self.path}/{name}")

    def names(self) -> set[str]:
        """Of all objects."""
        from pyarrow.fs import FileSelector, FileType  # type: ignore[import-untyped]

        selector = FileSelector(self.path, allow_not_found=True, recursive=True)
        found = self._filesystem.get_file_info(selector)
        return {info.path.removeprefix(f"{self.path}/") for info in found if info.type == FileType.File}


def open_store(url: str, name: str) -> Store:
    """The place of the run ``name`` below ``s3://bucket/prefix``.

    Credentials, region and endpoint come from the usual AWS_* variables and files.

    Raises:
        InputError: another kind of URL, or the store cannot be written to.
    """
    parts = urlsplit(url)
    if parts.scheme != "s3" or not parts.netloc or parts.query:
        raise InputError(f"the store must be s3://BUCKET/PREFIX; got {url!r} (--store or {STORE_VARIABLE})")
    prefix = "/".join([parts.netloc, *filter(None, parts.path.split("/")), name])
    try:
        store = Store(_s3(), prefix)
        probe = f"{PROBE}{uuid.uuid4().hex}"  # of this process alone, as several may look at once
        store.write(probe, b"writable")
        store.delete(probe)
    except (OSError, ValueError) as error:
        raise InputError(
            f"the store {url} cannot be written to ({error}); check the bucket, AWS_ACCESS_KEY_ID, "
            "AWS_SECRET_ACCESS_KEY, AWS_REGION and, unless the store is on AWS, AWS_ENDPOINT_URL"
        ) from None
    return store


def _s3() -> Any:
    from pyarrow.fs import AwsStandardS3RetryStrategy, S3FileSystem

    endpoint = urlsplit(os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or "")
    return S3FileSystem(
        endpoint_override=endpoint.netloc or None,
        scheme=endpoint.scheme or "https",
        region=os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION"),
        connect_timeout=10,
        request_timeout=60,
        retry_strategy=AwsStandardS3RetryStrategy(max_attempts=3),
    )
