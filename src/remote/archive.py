"""Zip archives from outside: checked before anything is written, unpacked once, whole or not at all.

A data set arrives as one zip that somebody else made. Its central directory is read first; an archive with
an entry that would leave the folder, a link, an encrypted or doubled entry, or sizes that do not fit is
refused by name and nothing of it is written. What passes is unpacked into a hidden folder inside the target
(the same file system, so that moving is renaming) and then moved into place.
"""

import hashlib
import json
import re
import shutil
import stat
import zipfile
from pathlib import Path, PurePosixPath

from ..base.atomic import write_json
from ..base.errors import UserError, refusal

# Deflate reaches 1032:1 and images about 1:1; annotation files as JSON stay below 50:1.
MAX_RATIO = 100
# Archives that unpack to less than this are not worth calling a bomb.
SMALL_BYTES = 64 << 20
# Names that some systems open as devices, whatever their ending.
DEVICE_NAME = re.compile(r"(con|prn|aux|nul|conin\$|conout\$|(com|lpt)[0-9])\s*(\..*)?", re.IGNORECASE)
# Left free on the disk for everything else.
SPARE_BYTES = 64 << 20


def unpack_once(archive: Path, folder: Path) -> bool:
    """Unpack `archive` into `folder` unless that was done for an archive of the same content.

    A record beside `folder`, written after the last file is in place, names the content (names, sizes and
    checksums of the entries). A folder that lost a file since is unpacked again; when the archive has
    changed, the files of its former content go. The caller holds the lock of `folder`.

    Returns:
        Whether it was unpacked now.

    Raises:
        UserError: the archive is refused or cannot be read or unpacked; the message names it and the entry.
    """
    archive, folder = Path(archive), Path(folder)
    record_path = folder.parent / f".{folder.name}.{archive.name}.json"
    try:
        with zipfile.ZipFile(archive) as opened:
            entries = _checked_entries(opened, archive)
            digest = _content_digest(opened)
            sizes = {str(path): info.file_size for path, info in entries.items() if not info.is_dir()}
            record = _read_record(record_path)
            if record.get("digest") == digest and record.get("complete") and _all_there(folder, sizes):
                return False
            _check_size(sizes, archive, folder)
            former = record.get("files", {})
            folder.mkdir(parents=True, exist_ok=True)
            temporary = folder / f".{archive.name}.unpacking"
            _remove(temporary)  # what a killed process left
            try:
                _extract(opened, entries, temporary, archive)
                _check_conflicts(temporary, folder, archive)
                # From here to the end the folder is neither the old state nor the new.
                write_json(record_path, {"digest": "", "complete": False, "files": {**former, **sizes}})
                for name in former:
                    if name not in sizes:
                        (folder / name).unlink(missing_ok=True)
                _move_into(temporary, folder)
            finally:
                _remove(temporary)
    except (zipfile.BadZipFile, NotImplementedError, EOFError) as error:
        raise UserError(f"{archive}: not a readable zip archive ({error}); pack it again") from None
    except OSError as error:
        raise UserError(
            f"{archive}: cannot be unpacked: {refusal(error, folder)}; nothing of it was kept"
        ) from error
    write_json(record_path, {"digest": digest, "complete": True, "files": sizes})
    return True


def _checked_entries(opened: zipfile.ZipFile, archive: Path) -> dict[PurePosixPath, zipfile.ZipInfo]:
    """Entries by their path in the folder; UserError for one that must not be unpacked."""
    entries: dict[PurePosixPath, zipfile.ZipInfo] = {}
    for info in opened.infolist():
        name = info.orig_filename  # as it was written: `filename` has been cut at a NUL
        parts = [part for part in name.split("/") if part not in ("", ".")]
        mode = stat.S_IFMT(info.external_attr >> 16)
        problem = ""
        if name.startswith("/") or re.match(r"[A-Za-z]:", name):
            problem = "has an absolute path"
        elif ".." in parts:
            problem = "would be written outside the folder"
        elif "\\" in name or "\0" in name:
            problem = "has a backslash or NUL in its name"
        elif any(DEVICE_NAME.fullmatch(part) for part in parts):
            problem = "has the name of a device"
        elif mode == stat.S_IFLNK:
            problem = "is a symbolic link"
        elif mode not in (0, stat.S_IFREG, stat.S_IFDIR):
            problem = "is neither a file nor a folder"
        elif info.flag_bits & 1:
            problem = "is encrypted"
        elif parts == [archive.name]:
            problem = "would replace the archive itself"
        path = PurePosixPath(*parts)
        if not problem and path in entries and not (info.is_dir() and entries[path].is_dir()):
            problem = "is a duplicate"
        if problem:
            raise UserError(f"{archive}: refused, nothing unpacked: entry {name!r} {problem}")
        if parts:
            entries[path] = info
    for path in entries:
        for parent in path.parents:
            if parent in entries and not entries[parent].is_dir():
                raise UserError(
                    f"{archive}: refused, nothing unpacked: entry {str(parent)!r} is a file and a folder"
                )
    return entries


def _check_size(sizes: dict[str, int], archive: Path, folder: Path) -> None:
    """Refuse what cannot be images (a bomb) and what the disk cannot take."""
    total, packed = sum(sizes.values()), archive.stat().st_size
    if total > SMALL_BYTES and total > MAX_RATIO * packed:
        largest = max(sizes, key=lambda name: sizes[name])
        raise UserError(
            f"{archive}: refused, nothing unpacked: {packed:,} bytes would become {total:,}, "
            f"more than {MAX_RATIO} times as much; the largest entry is {largest!r} with {sizes[largest]:,}"
        )
    existing = next(place for place in (folder, *folder.parents) if place.exists())
    free = shutil.disk_usage(existing).free
    if total + SPARE_BYTES > free:
        raise UserError(f"{archive}: needs {total:,} bytes unpacked, but {folder} has {free:,} free")


def _content_digest(opened: zipfile.ZipFile) -> str:
    content = [(info.orig_filename, info.CRC, info.file_size) for info in opened.infolist()]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def _extract(opened: zipfile.ZipFile, entries: dict, temporary: Path, archive: Path) -> None:
    temporary.mkdir()
    for path, info in entries.items():
        target = temporary / path
        if info.is_dir():
            target.mkdir(parents=True, exist_ok=True)
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        # zipfile stops at the stated size and compares the checksum there, so a wrong size cannot fill the disk.
        try:
            with opened.open(info) as source, target.open("xb") as sink:
                shutil.copyfileobj(source, sink, 1 << 20)
        except (zipfile.BadZipFile, EOFError, NotImplementedError, RuntimeError, ValueError) as error:
            raise UserError(f"{archive}: entry {info.filename!r} cannot be unpacked ({error})") from None
        except Exception as error:  # zlib.error, lzma.LZMAError: not importable where the module is missing
            if isinstance(error, OSError):
                raise
            raise UserError(f"{archive}: entry {info.filename!r} is damaged ({error})") from None


def _check_conflicts(temporary: Path, folder: Path, archive: Path) -> None:
    """A file must not meet a folder of its name, and nothing may pass through a link out of the folder."""
    for path in sorted(temporary.rglob("*")):
        name = path.relative_to(temporary)
        target = folder / name
        if target.is_symlink() or (target.exists() and target.is_dir() != path.is_dir()):
            raise UserError(
                f"{archive}: entry {str(name)!r} meets a link or another kind of file at {target}; remove that"
            )


def _move_into(source: Path, target: Path) -> None:
    """Move the content of `source` into `target`: whole folders where they are new, else file by file."""
    for path in source.iterdir():
        place = target / path.name
        if path.is_dir() and place.is_dir():
            _move_into(path, place)
        else:
            path.replace(place)


def _all_there(folder: Path, sizes: dict[str, int]) -> bool:
    try:
        return all((folder / name).stat().st_size == size for name, size in sizes.items())
    except OSError:
        return False


def _read_record(path: Path) -> dict:
    """What was unpacked; nothing where there is no record or it cannot be read."""
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return record if isinstance(record, dict) and isinstance(record.get("files"), dict) else {}


def _remove(folder: Path) -> None:
    if folder.exists():
        shutil.rmtree(folder)
