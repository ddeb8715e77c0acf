"""Folders and buckets behind one small interface: list, fetch, put.

`open_store` chooses by the URL: a plain path or file:// is a folder; s3:// and obs:// go through `moxing`
where it can be imported (ModelArts images have it), else through boto3, which also talks to OBS. A store's
keys are relative, with `/`; errors are `UserError`s that name the option and never show a key or password.
"""

import hashlib
import importlib.util
import os
import re
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

from ..base.errors import UserError
from .pace import Pace

TRANSFERS = 8  # files under way at once
PART_BYTES = 8 << 20  # of multipart uploads; the ETag of a large object depends on it
MOST_OBJECTS, MOST_EMPTY_PAGES = 10_000_000, 1000  # of a listing
PACE_SECONDS = 60.0
PARTIAL = ".part"  # ending of a file that is being written
KEY_PAIRS = (
    ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"),
    ("OBS_ACCESS_KEY_ID", "OBS_SECRET_ACCESS_KEY"),
    ("ACCESS_KEY_ID", "SECRET_ACCESS_KEY"),
)
TOKENS = ("AWS_SESSION_TOKEN", "OBS_SECURITY_TOKEN", "SECURITY_TOKEN")
ENDPOINTS = ("OBS_ENDPOINT", "S3_ENDPOINT_URL", "AWS_ENDPOINT_URL")


@dataclass(frozen=True)
class Entry:
    """One object: bytes, time of change, and what tells its content apart where the store has that."""

    size: int
    mtime_ns: int
    tag: str = ""


class FolderStore:
    """A folder (or one file) that stands for a bucket."""

    def __init__(self, path: Path, option: str):
        self.path, self.option = path, option

    def check(self) -> None:
        """Can results be written here? UserError if not."""
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"{self.option}: cannot make folder {self.path}: {error.strerror}") from None
        if not os.access(self.path, os.W_OK):
            raise UserError(f"{self.option}: folder {self.path} cannot be written to")

    def list(self) -> dict[str, Entry]:
        """Every file below the folder, or the one file."""
        return {self.path.name: _entry(self.path)} if self.path.is_file() else self.contents()

    def contents(self) -> dict[str, Entry]:
        """Every file below the folder; links are followed once."""
        found: dict[str, Entry] = {}
        if not self.path.exists():
            return found
        seen: set[str] = set()
        for folder, names, files in os.walk(self.path, followlinks=True, onerror=self._unreadable):
            real = os.path.realpath(folder)
            if real in seen:
                names.clear()
                continue
            seen.add(real)
            for name in files:
                path = Path(folder, name)
                if path.is_file():  # no sockets, no links to nothing
                    found[path.relative_to(self.path).as_posix()] = _entry(path)
        return found

    def _unreadable(self, error: OSError) -> None:
        raise UserError(f"{self.option}: cannot read {error.filename}: {error.strerror}") from None

    def fetch(self, key: str, target: Path) -> None:
        """Copy one object to a file, times included."""
        shutil.copy2(self.path if self.path.is_file() else self.path / key, target)

    def put(self, source: Path, key: str) -> None:
        """Copy one file into the store, whole or not at all."""
        target = self.path / key
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = target.with_name(f".{target.name}{PARTIAL}")
        try:
            shutil.copy2(source, partial)
            partial.replace(target)
        finally:
            partial.unlink(missing_ok=True)

    def holds(self, entry: Entry, source: Path) -> bool:
        """Is this object what the file holds?"""
        return entry == _entry(source)


class S3Store:
    """A bucket behind the S3 protocol, and the keys below a prefix."""

    def __init__(self, url: str, option: str):
        self.url, self.option = url, option
        self.bucket, self.prefix = _bucket_and_prefix(url, option)
        self.client, self.transfer = _s3_client(url, option)
        self._names_object = False  # the URL is that of an object, not of a folder; `list` finds out

    def check(self) -> None:
        """Is the bucket there and may we look at it? UserError if not."""
        self._call(self.client.list_objects_v2, Bucket=self.bucket, Prefix=self.prefix, MaxKeys=1)

    def list(self) -> dict[str, Entry]:
        """Objects below the prefix taken as a folder; else the one object of that name."""
        found = self.contents()
        if not found and self.prefix:
            same_beginning = self._call(self._list, self.prefix)
            if "" in same_beginning:
                self._names_object = True
                found = {self.prefix.rpartition("/")[2]: same_beginning[""]}
        return found

    def contents(self) -> dict[str, Entry]:
        """Objects below the prefix taken as a folder."""
        return self._call(self._list, f"{self.prefix}/" if self.prefix else "")

    def _list(self, prefix: str) -> dict[str, Entry]:
        found = {}
        pages = self.client.get_paginator("list_objects_v2").paginate(Bucket=self.bucket, Prefix=prefix)
        empty = 0
        for page in pages:
            items = page.get("Contents", ())
            empty = 0 if items else empty + 1
            if empty > MOST_EMPTY_PAGES or len(found) > MOST_OBJECTS:
                raise UserError(
                    f"{self.option}: {self.url}: its listing does not end ({len(found)} objects so far); "
                    "name a folder of fewer objects"
                )
            for item in items:
                key = item["Key"][len(prefix) :]
                if key.endswith("/") or (not key and prefix.endswith("/")):
                    continue  # the placeholder of a folder
                moment = _moment(item.get("LastModified"))
                found[key] = Entry(item["Size"], moment, item.get("ETag", "").strip('"'))
        return found

    def _key(self, key: str) -> str:
        return f"{self.prefix}/{key}" if self.prefix else key

    def fetch(self, key: str, target: Path) -> None:
        """Download one object."""
        whole = self.prefix if self._names_object else self._key(key)
        self._call(
            self.client.download_file,
            self.bucket,
            whole,
            str(target),
            Config=self.transfer,
            Callback=Pace(PACE_SECONDS),
        )

    def put(self, source: Path, key: str) -> None:
        """Upload one file."""
        self._call(self.client.upload_file, str(source), self.bucket, self._key(key), Config=self.transfer)

    def holds(self, entry: Entry, source: Path) -> bool:
        """Is this object what the file holds? Compares the checksum that S3 keeps of plain objects."""
        return entry.size == source.stat().st_size and entry.tag == _etag(source)

    def _call(self, function: Callable, *args, **kwargs):
        """Call the client; its errors as one line without secrets."""
        from boto3.exceptions import Boto3Error
        from botocore.exceptions import BotoCoreError, ClientError

        try:
            return function(*args, **kwargs)
        except (Boto3Error, BotoCoreError, ClientError, TimeoutError, ValueError, OverflowError) as error:
            raise UserError(
                f"{self.option}: {self.url}: {redact(error)}; check the address, the endpoint and the keys"
            ) from None


class MoxingStore:
    """A bucket through ModelArts' own client."""

    def __init__(self, url: str, option: str):
        import moxing

        self.url, self.option, self.files = url.rstrip("/"), option, moxing.file
        self._names_object = False

    def check(self) -> None:
        """Is the bucket there? UserError if not."""
        self._call(self.files.exists, self.url)

    def list(self) -> dict[str, Entry]:
        """Every object below the URL; the object itself where the URL names one."""
        if self._call(self.files.exists, self.url) and not self._call(self.files.is_directory, self.url):
            self._names_object = True
            entry = self._entry(self.url)
            return {} if entry is None else {self.url.rpartition("/")[2]: entry}
        if not self._call(self.files.exists, self.url):
            return {}
        keys = [str(key) for key in self._call(self.files.list_directory, self.url, recursive=True)]
        with ThreadPoolExecutor(TRANSFERS) as pool:
            entries = list(pool.map(lambda key: self._entry(f"{self.url}/{key}"), keys))
        return {key: entry for key, entry in zip(keys, entries) if entry is not None}

    def _entry(self, url: str) -> Entry | None:
        found = self._call(self.files.stat, url)
        return None if found.is_directory else Entry(found.length, found.mtime_nsec)

    def fetch_all(self, folder: Path) -> None:
        """Download everything at once, as moxing does best."""
        self._call(self.files.copy_parallel, self.url, str(folder))

    def put_all(self, folder: Path) -> None:
        """Upload a folder at once."""
        self._call(self.files.copy_parallel, str(folder), self.url)

    def fetch(self, key: str, target: Path) -> None:
        """Download one object."""
        url = self.url if self._names_object else f"{self.url}/{key}"
        self._call(self.files.copy, url, str(target))

    def _call(self, function: Callable, *args, **kwargs):
        try:
            return function(*args, **kwargs)
        except Exception as error:  # moxing documents no common class of its errors
            raise UserError(f"{self.option}: {self.url}: moxing: {redact(error)}") from None


def open_store(url: str, option: str) -> FolderStore | S3Store | MoxingStore:
    """The store that a URL names; `option` is the option's name, for messages.

    Raises:
        UserError: an unknown scheme, no bucket, a password in the URL, or the client is not installed.
    """
    scheme, separator, rest = url.partition("://")
    if not separator:
        return FolderStore(Path(url), option)
    if scheme != "file" and {"@", ":"} & set(rest.split("/")[0]):  # no bucket's name has these
        raise UserError(f"{option}: keys do not belong in the address; set {' and '.join(KEY_PAIRS[0])}")
    if scheme == "file":
        return FolderStore(Path(unquote(urlsplit(url).path)), option)
    if scheme not in ("s3", "obs"):
        raise UserError(f"{option}: {url}: cannot read {scheme}://; use s3://, obs://, file:// or a folder")
    _bucket_and_prefix(url, option)
    if importlib.util.find_spec("moxing") is not None:
        return MoxingStore(url, option)
    return S3Store(url, option)


def redact(error: object) -> str:
    """An error's text on one line, without any secret of the environment or password of a URL."""
    text = " ".join(str(error).split())
    for name in (*(name for pair in KEY_PAIRS for name in pair), *TOKENS):
        secret = os.environ.get(name, "")
        if secret:
            text = text.replace(secret, "***")
    return re.sub(r"://([^/@\s]*|[^@\s]*:[^@\s]*)@", "://***@", text)


def _bucket_and_prefix(url: str, option: str) -> tuple[str, str]:
    bucket, _, prefix = url.partition("://")[2].partition("/")
    if not bucket:
        raise UserError(f"{option}: {url} names no bucket; write s3://BUCKET/FOLDER")
    return bucket, prefix.strip("/")


def _s3_client(url: str, option: str):
    """A boto3 client and how it transfers files, from the environment."""
    try:
        import boto3
        from boto3.s3.transfer import TransferConfig
        from botocore.config import Config
        from botocore.exceptions import BotoCoreError
    except ImportError:
        raise UserError(f"{option}: {url} needs boto3 (or moxing); run: pip install boto3") from None
    endpoint = next((os.environ[name] for name in ENDPOINTS if os.environ.get(name)), "")
    if not endpoint and url.startswith("obs://"):
        raise UserError(f"{option}: {url} needs the address of the OBS service; set OBS_ENDPOINT")
    if endpoint and "://" not in endpoint:
        endpoint = f"https://{endpoint}"
    region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
    settings = {
        "retries": {"max_attempts": 5, "mode": "standard"},
        "connect_timeout": 10,
        "max_pool_connections": 4 * TRANSFERS,
        # OBS knows a bucket by its host name only; other services of one's own by the path.
        "s3": {"addressing_style": "virtual" if "myhuaweicloud." in endpoint else "auto"},
    }
    if "request_checksum_calculation" in Config.OPTION_DEFAULTS:  # what only AWS itself understands
        settings |= dict.fromkeys(
            ("request_checksum_calculation", "response_checksum_validation"), "when_required"
        )
    try:
        client = boto3.client(
            "s3",
            endpoint_url=endpoint or None,
            region_name=region or ("us-east-1" if endpoint else None),
            config=Config(**settings),
            **_credentials(option),
        )
    except (BotoCoreError, ValueError) as error:
        raise UserError(f"{option}: {url}: {redact(error)}; check {', '.join(ENDPOINTS)}") from None
    return client, TransferConfig(multipart_threshold=PART_BYTES, multipart_chunksize=PART_BYTES)


def _credentials(option: str) -> dict[str, str | None]:
    """The first whole pair of keys in the environment; none: boto3 looks where it always does."""
    for names in KEY_PAIRS:
        values = [os.environ.get(name, "").strip() for name in names]
        if all(values):
            token = next((os.environ[name].strip() for name in TOKENS if os.environ.get(name)), None)
            return {
                "aws_access_key_id": values[0],
                "aws_secret_access_key": values[1],
                "aws_session_token": token,
            }
        if any(values):
            missing, given = names if values[1] else names[::-1]
            raise UserError(f"{option}: {given} is set but {missing} is not; set both")
    return {}


def _moment(changed) -> int:
    """Nanoseconds of a time of change, whole milliseconds; 0 where the service gives none that a file can have."""
    try:
        moment = int(changed.timestamp() * 1000) * 1_000_000
    except (AttributeError, OverflowError, ValueError, OSError):
        return 0
    return moment if 0 <= moment < 2**62 else 0


def _entry(path: Path) -> Entry:
    found = path.stat()
    return Entry(found.st_size, found.st_mtime_ns)


def _etag(path: Path) -> str:
    """The ETag of an object uploaded from `path` by us: MD5, of parts' MD5s where it is large."""
    parts = []
    with path.open("rb") as handle:
        while block := handle.read(PART_BYTES):
            parts.append(hashlib.md5(block, usedforsecurity=False))
    if path.stat().st_size < PART_BYTES:
        return (parts[0] if parts else hashlib.md5(usedforsecurity=False)).hexdigest()
    whole = hashlib.md5(b"".join(part.digest() for part in parts), usedforsecurity=False)
    return f"{whole.hexdigest()}-{len(parts)}"
