"""Checkpoints that are given by an address: `https://HOST/NAME.ckpt#sha256=HEX`, fetched once into a folder.

The address stands where a path would. What is downloaded is kept under a name made of its checksum (or of the
address where none is given), so it is fetched once; processes of one host share the download. A broken connection is
taken up where it broke, also by a later run: the part received so far stays beside the place (`.NAME.part`) and is
continued by HTTP's Range (RFC 9110, section 14) if the server still has the same file.
"""

import errno
import hashlib
import http.client
import json
import os
import re
import shutil
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote, unquote, urlsplit, urlunsplit

from ..base.atomic import write_json
from ..base.errors import UserError, one_line
from ..logger import get_logger, progress_bar
from .host_lock import host_lock
from .pace import Pace

ENDINGS = (".ckpt", ".mindir", ".onnx", ".om")  # none of them is read by unpickling
WAITS = (1.0, 4.0)  # seconds before the second and the third attempt without progress
TIMEOUT = 30.0  # seconds without an answer or a byte
LARGEST = 4 << 30  # bytes; the largest of these files are of 2 GB
PACE_SECONDS = 30.0
MOST_ATTEMPTS = 100  # connections for one file, however much each brings
_BLOCK = 1 << 20
_CHECKSUM = re.compile(r"sha256=([0-9a-fA-F]{64})")
_RANGE = re.compile(r"bytes (\d+)-\d+/(\d+|\*)")
_DIGITS = re.compile(r"[0-9]{1,18}")  # `isdigit` takes a superscript for one
_PASSING = (408, 429, 500, 502, 503, 504)  # status codes that may be gone in a moment


@dataclass(frozen=True)
class Address:
    """Where a file comes from: the option that names it, the URL, the expected SHA-256 (hex or empty)."""

    option: str
    url: str
    sha256: str

    @property
    def name(self) -> str:
        """The file's own name in the URL."""
        return unquote(urlsplit(self.url).path).rpartition("/")[2]

    @property
    def kept_name(self) -> str:
        """The name that it is kept under."""
        path = Path(re.sub(r"[^\w.-]", "_", self.name))
        key = self.sha256 or hashlib.sha256(self.url.encode()).hexdigest()
        return f"{path.stem[:80]}-{key[:12]}{path.suffix}"

    def __str__(self) -> str:
        """The option and the URL without its query, which may hold a signature."""
        return f"{self.option}: {urlunsplit((*urlsplit(self.url)[:3], '', ''))}"


def is_address(value: str) -> bool:
    """Whether an option's value is an address and not a path."""
    return bool(re.match(r"[A-Za-z][A-Za-z0-9+.-]+://", str(value)))


def without_signature(value):
    """An option's value as it may be kept in a file: an address without its query, which may hold a signature."""
    if not isinstance(value, str) or not is_address(value):
        return value
    scheme, netloc, path, _, fragment = urlsplit(value)
    return urlunsplit((scheme, netloc.rpartition("@")[2], path, "", fragment))


def ending_of(value: str) -> str:
    """The ending, in small letters, of a path or of an address's file."""
    return Path(urlsplit(value).path if is_address(value) else value).suffix.lower()


def local_file(value: str, option: str, folder: str = "", endings: tuple[str, ...] = ENDINGS) -> Path:
    """The file of an option on this host: a path as it is, an address downloaded if it is not there yet.

    Args:
        value: a path or an address.
        option: name of the option, for errors.
        folder: where downloads are kept; empty: `default_folder()`.
        endings: of files that are downloaded.

    Raises:
        UserError: an address that is not usable, no connection, an answer that is no such file, another
            checksum than given, or a full disk.
    """
    if not is_address(value):
        return Path(value)
    address = parse_address(value, option, endings)
    target = Path(folder or default_folder()) / address.kept_name
    with host_lock(target):
        if target.is_file():
            if not address.sha256 or _sha256(target) == address.sha256:
                get_logger().info("%s: already in %s", address, target)
                return target
            get_logger().warning("%s has changed since it was downloaded; it is fetched again", target)
            target.unlink()
        _download(address, target)
    return target


def default_folder() -> Path:
    """The folder of this user for downloads (XDG base directory specification)."""
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "yolov4_mindspore"
    except RuntimeError as error:
        raise UserError(
            "download_path: this user has no home folder and HOME is not set; set download_path"
        ) from error


def parse_address(value: str, option: str, endings: tuple[str, ...] = ENDINGS) -> Address:
    """The parts of an address.

    Raises:
        UserError: another scheme than http and https, a password, an ending that is not downloaded, or what
            follows # is no checksum.
    """
    try:
        parts = urlsplit(value.strip())
        usable = parts.scheme in ("http", "https") and bool(parts.hostname)
    except ValueError:
        usable = False
    if not usable:
        raise UserError(f"{option}: {value.split('?')[0]}: write https://HOST/NAME.ckpt, or a path")
    if "@" in parts.netloc:
        raise UserError(
            f"{option}: {parts.hostname}: a password does not belong in the address; download the file"
        )
    checksum = _CHECKSUM.fullmatch(parts.fragment)
    if parts.fragment and not checksum:
        raise UserError(
            f"{option}: #{parts.fragment[:80]} is no checksum; write #sha256= and 64 hexadecimal digits"
        )
    address = Address(option, urlunsplit((*parts[:4], "")), checksum[1].lower() if checksum else "")
    if Path(address.name).suffix.lower() not in endings:
        raise UserError(
            f"{address}: only {', '.join(endings)} files are downloaded, never a pickle; download other weights "
            "yourself and convert them by utils/convert_weights.py"
        )
    return address


class _BrokenError(Exception):
    """An attempt failed in a way that the next one may not; `slow`: what it brought is no progress."""

    def __init__(self, message: str, slow: bool = False):
        super().__init__(message)
        self.slow = slow


def _download(address: Address, target: Path) -> None:
    part = target.with_name(f".{target.name}.part")
    get_logger().info("%s: downloading to %s", address, target)
    while True:
        continued = _complete(address, part)
        found = _sha256(part)
        if not address.sha256 or found == address.sha256:
            break
        _discard(part)
        if not continued:
            raise UserError(
                f"{address}: its sha256 is {found}, expected {address.sha256}; nothing was kept. Check the "
                "address and the checksum"
            )
        get_logger().warning(
            "%s: the continued download has a wrong checksum; once more from the start", address
        )
    try:
        _refuse_foreign(address, part)
    except UserError:
        _discard(part)
        raise
    if not address.sha256:
        get_logger().warning("%s is unverified; to have it checked, append #sha256=%s", address, found)
    part.replace(target)
    _discard(part)


def _complete(address: Address, part: Path) -> bool:
    """Fetch what `part` lacks, in as many attempts as bring it further, and two more.

    Returns whether it is of several pieces.
    """
    failures, furthest = 0, _size(part)
    continued = furthest > 0
    attempt = 0
    while True:
        attempt += 1
        try:
            _fetch_rest(address, part)
            return continued
        except _BrokenError as error:
            continued = _size(part) > 0
            further = _size(part) > furthest and not error.slow
            failures = 0 if further else failures + 1
            furthest = max(furthest, _size(part))
            if failures > len(WAITS) or attempt >= MOST_ATTEMPTS:
                kept = (
                    f"; {_size(part)} bytes are kept, and the next run goes on from there"
                    if _size(part)
                    else ""
                )
                raise UserError(
                    f"{address}: cannot be downloaded ({error}){kept}. Check the network and https_proxy, or "
                    f"download it elsewhere and give its path as {address.option}"
                ) from error
            get_logger().info("%s: %s; once more", address, error)
            time.sleep(WAITS[failures - 1] if failures else 0)


def _fetch_rest(address: Address, part: Path) -> None:
    """One request for what is missing, written behind what is there."""
    validator = _validator(part)
    have = _size(part) if validator or address.sha256 else 0
    headers = {"User-Agent": "yolov4-mindspore", "Accept-Encoding": "identity"}
    if have:
        headers["Range"] = f"bytes={have}-"
        if validator:
            headers["If-Range"] = validator  # the whole file comes if it is another one by now
    try:
        response = _opener().open(
            urllib.request.Request(_in_ascii(address.url), headers=headers), timeout=TIMEOUT
        )
    except urllib.error.HTTPError as error:
        with error:
            _on_status(address, error, have, part)
        return
    except (OSError, http.client.HTTPException) as error:
        raise _BrokenError(_reason(error)) from error
    except ValueError as error:  # what the server redirects to, such as http://[::1/
        raise UserError(
            f"{address}: is redirected to what is no address ({one_line(error)}); check the address"
        ) from error
    with response:
        start, total = _extent(response, have, part)
        if start == 0:
            _remember_validator(part, response.headers)
        if total is not None and total > LARGEST:
            raise UserError(
                f"{address}: {total} bytes, more than {LARGEST}: not such a file; check the address"
            )
        free = shutil.disk_usage(part.parent).free
        if total is not None and total - start > free:
            raise UserError(
                f"{address}: {total - start} bytes to download, {free} are free in {part.parent}; free disk space or "
                "choose another download_path"
            )
        size = _write(address, response, part, start, total)
    if total is not None and size < total:
        raise _BrokenError(f"the connection ended after {size} of {total} bytes")


def _in_ascii(url: str) -> str:
    """An address as a request takes it: letters of other scripts in its path and query written in %, as browsers do."""
    scheme, host, path, query, _ = urlsplit(url)
    keep = "/%:@!$&'()*+,;=~"
    try:
        host = host.encode("ascii").decode()
    except UnicodeEncodeError:
        host = host.encode("idna").decode()
    return urlunsplit((scheme, host, quote(path, keep), quote(query, f"{keep}?"), ""))


def _on_status(address: Address, error: urllib.error.HTTPError, have: int, part: Path) -> None:
    """What a status of failure means; returns where it says that all is there."""
    if error.code == 416 and have:
        if error.headers.get("Content-Range", "").strip() == f"bytes */{have}":
            return
        _discard(part)
        raise _BrokenError("the server has another file by now") from error
    if error.code in _PASSING:
        raise _BrokenError(f"the server says {error.code} {error.reason}") from error
    if 300 <= error.code < 400:
        place = (error.headers.get("Location") or "nowhere").split("?")[0][:200]
        raise UserError(
            f"{address}: is redirected to {place}, and that is refused: only http and https are followed, not from "
            "https to http, and not in circles; give the file's own address"
        ) from error
    raise UserError(
        f"{address}: the server says {error.code} {error.reason}; check the address, or download the file "
        f"and give its path as {address.option}"
    ) from error


def _extent(response, have: int, part: Path) -> tuple[int, int | None]:
    """Where in the file the answer starts, and the file's size (None: unknown)."""
    length = response.headers.get("Content-Length", "")
    length = int(length) if _DIGITS.fullmatch(length) else None
    if response.headers.get("Content-Encoding", "identity") != "identity":
        raise _BrokenError("the server sends it in another encoding than asked for")
    if response.status != 206:
        return 0, length
    found = _RANGE.fullmatch(response.headers.get("Content-Range", "").strip())
    if not found or int(found[1]) != have:
        _discard(part)
        raise _BrokenError("the server sends another part than asked for")
    return have, int(found[2]) if found[2] != "*" else None if length is None else have + length


def _write(address: Address, response, part: Path, start: int, total: int | None) -> int:
    """Append the answer to `part` cut to `start`; the size reached."""
    try:
        handle = part.open("r+b" if start else "wb", buffering=0)
    except OSError as error:
        raise _unwritable(address, part, error) from error
    with handle, progress_bar(total, address.name, "B", initial=start) as bar:
        handle.truncate(start)
        handle.seek(start)
        size, pace = start, Pace(PACE_SECONDS)
        while True:
            try:
                block = response.read1(_BLOCK)  # what is there, so that a break loses nothing
            except (OSError, http.client.HTTPException) as error:
                raise _BrokenError(f"{_reason(error)} after {size} bytes") from error
            try:
                if not block:
                    os.fsync(handle.fileno())
                    return size
                rest = memoryview(block)
                while rest:
                    rest = rest[handle.write(rest) :]
            except OSError as error:
                _discard(part)
                raise _unwritable(address, part, error) from error
            size += len(block)
            if size > LARGEST:
                handle.close()
                _discard(part)
                raise UserError(
                    f"{address}: more than {LARGEST} bytes came: not such a file; check the address"
                )
            try:
                pace(len(block))
            except TimeoutError as error:
                raise _BrokenError(f"{error} after {size} bytes", slow=True) from error
            bar.update(len(block))


def _unwritable(address: Address, part: Path, error: OSError) -> UserError:
    full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
    remedy = "free disk space" if full else "make it writable"
    return UserError(
        f"{address}: cannot be written to {part.parent} ({error.strerror}); {remedy} or choose another download_path"
    )


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows to http and https alone, and never from https to http."""

    def redirect_request(self, req, fp, code, msg, headers, newurl):
        try:
            parts = urlsplit(newurl)
            scheme = parts.scheme if parts.hostname else ""
        except ValueError:  # such as http://[::1/
            scheme = ""
        if scheme not in ("http", "https") or (req.type == "https" and scheme == "http"):
            raise urllib.error.HTTPError(req.full_url, code, msg, headers, fp)
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _opener() -> urllib.request.OpenerDirector:
    """An opener for http and https alone: urllib's usual one opens file:, ftp: and data: too."""
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler(),
        urllib.request.HTTPHandler(),
        urllib.request.HTTPSHandler(),
        urllib.request.HTTPDefaultErrorHandler(),
        urllib.request.HTTPErrorProcessor(),
        _Redirects(),
    ):
        opener.add_handler(handler)
    return opener


def _refuse_foreign(address: Address, path: Path) -> None:
    """Stop at what is no model file, whatever its name.

    Raises:
        UserError: empty, a web page, or a pickle or zip archive, which PyTorch's files are.
    """
    with path.open("rb") as handle:
        head = handle.read(256)
    if not head:
        raise UserError(f"{address}: the file is empty; check the address")
    if head.lstrip().lower().startswith((b"<!doctype", b"<html", b"<?xml")):
        raise UserError(
            f"{address}: a web page came, not the file (a log-in?); download it and give its path"
        )
    if head.startswith((b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05", b"PK\x03\x04")):
        raise UserError(
            f"{address}: a pickle or zip archive, not what its name says; convert it by utils/convert_weights.py"
        )


def _validator(part: Path) -> str:
    """The server's mark of the version that `part` is of, empty where it gave none."""
    try:
        document = json.loads(_mark(part).read_text(encoding="utf-8"))
        return str(document["validator"])
    except (OSError, ValueError, TypeError, KeyError):
        return ""


def _remember_validator(part: Path, headers) -> None:
    etag = headers.get("ETag", "")
    validator = etag if etag and not etag.startswith("W/") else headers.get("Last-Modified", "")
    write_json(_mark(part), {"validator": validator})


def _mark(part: Path) -> Path:
    return part.with_name(f"{part.name}.json")


def _discard(part: Path) -> None:
    for path in (part, _mark(part)):
        path.unlink(missing_ok=True)


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as handle:
        while block := handle.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()


def _reason(error: Exception) -> str:
    cause = getattr(error, "reason", error)
    text = getattr(cause, "strerror", None) or str(cause) or type(cause).__name__
    return one_line(text, 160)
