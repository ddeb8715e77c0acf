"""ModelArts jobs: data and checkpoints in from buckets before a run, results out after it, also a failed one.

`modelarts_session` wraps the main function of every entry point and does nothing unless `enable_modelarts`
is set. Of the processes of one host, one brings the data in while the others wait. What was brought is
recorded beside the folder only when it is complete, so a restarted job completes a partial folder and one
whose data has changed fetches the changes.
"""

import json
import os
import shutil
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

from ..base.atomic import write_json
from ..base.errors import UserError
from ..config import Config
from ..logger import get_logger, setup_logger
from .archive import unpack_once
from .host_lock import HostGroup, host_lock
from .object_storage import PARTIAL, Entry, FolderStore, open_store, redact
from .results_upload import _for_each, _is_temporary, _output_lock, upload_results
from .upload_guard import upload_guard

RESULTS = ("ckpt_path", "log_path", "file_name")  # options that name what a run writes


@contextmanager
def modelarts_session(config: Config) -> Iterator[Config]:
    """Bring data in, yield the options with their paths in the cloud job's folders, take results out.

    `data_url` goes to `data_path` (its zip is unpacked there), `checkpoint_url` to `load_path`, and with
    `resume` what earlier runs left at `train_url` to `output_path`. What `RESULTS` names becomes a place
    below `output_path`, which is uploaded to `train_url` at the end. A process that fails uploads at once; of
    those that end well, the last one of the host does; for one that is killed, its watchman does
    (`src.remote.upload_guard`).

    Raises:
        UserError: an option, an archive or a bucket is not usable; or the upload after a good run failed.
    """
    scheduler = os.environ.get("MS_ROLE") == "MS_SCHED"  # msrun's own process: runs the script, does no work
    if not config.enable_modelarts or scheduler:
        yield config
        return
    logger = get_logger()
    if not logger.handlers:
        setup_logger(rank=int(os.environ.get("RANK_ID") or 0))
    _check_options(config)
    results = open_store(config.train_url, "train_url") if config.train_url else None
    if results is None:
        logger.warning("train_url is empty: the results stay in %s", config.output_path)
    else:
        results.check()
    _bring_in(config)
    output = _make_folder(config.output_path, "output_path")
    if results is not None and config.resume:
        bring_back(results, output)
    inner = config.replace(**{key: _below_output(config, key) for key in RESULTS})
    if results is None:
        yield inner
        return
    # The watchman works in another folder.
    target = str(results.path.absolute()) if isinstance(results, FolderStore) else config.train_url
    with upload_guard(target, output):
        group = HostGroup(output)
        failed = True
        try:
            with _terminate_as_exception():
                yield inner
            failed = False
        finally:
            last = group.leave()
            if last or failed:
                upload_results(results, output, failed)


def _check_options(config: Config) -> None:
    name = config.modelarts_dataset_unzip_name
    if config.need_modelarts_dataset_unzip and (not name or Path(name).name != name or name == ".."):
        raise UserError(
            f"modelarts_dataset_unzip_name: {name!r} must be the bare name of a zip in data_path, without .zip"
        )
    folders = {}
    for key in ("data_path", "output_path", "load_path"):
        if not config[key]:
            raise UserError(f"{key}: must name a folder of this host when enable_modelarts is set")
        folders[key] = Path(config[key]).absolute()
    for key in ("data_url", "checkpoint_url", "train_url"):
        if config[key] and isinstance(store := _folder_of(config[key], key), Path):
            folders[key] = store
    pairs = (
        ("data_path", "output_path"),
        ("load_path", "output_path"),
        ("data_path", "load_path"),
        ("data_url", "data_path"),
        ("checkpoint_url", "load_path"),
        ("train_url", "output_path"),
    )
    for one, other in pairs:
        if one in folders and other in folders and _overlap(folders[one], folders[other]):
            raise UserError(
                f"{one}: {folders[one]} and {other} {folders[other]} lie in each other; give two separate folders"
            )
    for key in RESULTS:
        _below_output(config, key)


def _folder_of(url: str, option: str) -> Path | None:
    """The local folder that a URL names, if it names one."""
    if "://" in url and not url.startswith("file://"):
        return None
    store = open_store(url, option)
    return store.path.absolute() if isinstance(store, FolderStore) else None


def _overlap(one: Path, other: Path) -> bool:
    one, other = one.resolve(), other.resolve()
    return one == other or one in other.parents or other in one.parents


def _below_output(config: Config, key: str) -> str:
    """An option of `RESULTS` as a place in `output_path`, so that it is uploaded."""
    output = Path(os.path.abspath(config.output_path))  # noqa: PTH100 (links stay)
    place = Path(os.path.abspath(output / config[key]))  # noqa: PTH100
    if place != output and output not in place.parents:
        raise UserError(f"{key}: {config[key]} is outside output_path {output}; give a relative folder")
    return str(place)


def _make_folder(folder: str | Path, option: str) -> Path:
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{option}: cannot make folder {folder}: {error.strerror}") from None
    return Path(folder)


# -------------------------------------------------------------------- in


def _bring_in(config: Config) -> None:
    data = Path(config.data_path)
    with host_lock(data):
        if config.data_url:
            sync(config.data_url, _make_folder(data, "data_path"), "data_url")
        if config.need_modelarts_dataset_unzip:
            archive = data / f"{config.modelarts_dataset_unzip_name}.zip"
            if archive.is_file():
                done = unpack_once(archive, data)
                get_logger().info("%s %s", "unpacked" if done else "already unpacked:", archive)
            elif config.data_url:
                get_logger().warning(
                    "need_modelarts_dataset_unzip is set, but there is no %s: data is used as it is", archive
                )
    if config.checkpoint_url:
        load = Path(config.load_path)
        with host_lock(load):
            sync(config.checkpoint_url, _make_folder(load, "load_path"), "checkpoint_url")


def sync(url: str, folder: Path, option: str) -> int:
    """Make `folder` hold what is at `url`; the number of files fetched. The caller holds the folder's lock.

    A file is fetched when its size, time or tag (S3's ETag) differs from the source's. Files that an earlier
    sync brought and that have left the source go; files that came from elsewhere stay.

    Raises:
        UserError: nothing is there, a key would leave the folder, or a transfer fails.
    """
    store = open_store(url, option)
    listing = store.list()
    if not listing:
        raise UserError(f"{option}: nothing found at {url}")
    for key in listing:
        _check_key(key, url, option)
    record_path = folder.parent / f".{folder.name}.synced.json"
    record = _read_record(record_path)
    known = record["files"]
    same_source = record["url"] == url

    def current(key: str, entry: Entry) -> bool:
        if key in known and not (same_source and known[key] == asdict(entry)):
            return False
        try:
            found = (folder / key).stat()
        except OSError:
            return False
        return (found.st_size, found.st_mtime_ns) == (entry.size, entry.mtime_ns)

    wanted = {key: entry for key, entry in listing.items() if not current(key, entry)}
    gone = [key for key in known if key not in listing]
    if not wanted and not gone and record["complete"] and same_source:
        get_logger().info("%s: %s holds all %d files of %s", option, folder, len(listing), url)
        return 0
    size = sum(entry.size for entry in wanted.values())
    if size > shutil.disk_usage(folder).free:
        raise UserError(f"{option}: {url} needs {size:,} bytes more than the disk of {folder} has free")
    get_logger().info(
        "%s: fetch %d of %d files (%d bytes) of %s", option, len(wanted), len(listing), size, url
    )
    try:
        write_json(record_path, {**record, "complete": False})
        for key in gone:
            (folder / key).unlink(missing_ok=True)
        _fetch(store, wanted, listing, folder)
        for key, entry in wanted.items():
            if (folder / key).stat().st_size != entry.size:
                raise UserError(f"{option}: {url}: {key} changed while it was fetched; start again")
    except OSError as error:
        raise UserError(f"{option}: {url} cannot be brought to {folder}: {redact(error)}") from None
    files = {key: asdict(entry) for key, entry in listing.items()}
    write_json(record_path, {"url": url, "complete": True, "files": files})
    return len(wanted)


def bring_back(store, folder: Path) -> int:
    """Fetch the results of earlier runs that `folder` lacks, for a job that goes on elsewhere; their number.

    What is there stays: a process that was killed may have left newer files than it could upload.

    Raises:
        UserError: a key would leave the folder, the disk is too small, or a transfer fails.
    """
    with _output_lock(folder):
        found = getattr(store, "contents", store.list)()
        listing = {key: entry for key, entry in found.items() if not _is_temporary(key)}
        for key in listing:
            _check_key(key, "train_url", store.option)
        wanted = {key: entry for key, entry in listing.items() if not (folder / key).exists()}
        size = sum(entry.size for entry in wanted.values())
        if size > shutil.disk_usage(folder).free:
            raise UserError(f"{store.option}: resume needs {size:,} bytes more than {folder} has free")
        try:
            # One by one, under other names until whole: a file that is there is taken for complete.
            _fetch_each(store, wanted, folder)
        except OSError as error:
            raise UserError(f"{store.option}: cannot be brought to {folder}: {redact(error)}") from None
    get_logger().info("train_url: brought back %d files of earlier runs to %s", len(wanted), folder)
    return len(wanted)


def _fetch(store, wanted: dict[str, Entry], listing: dict[str, Entry], folder: Path) -> None:
    """Fetch files with the source's time, all at once where the store does that best and all are wanted."""
    if hasattr(store, "fetch_all") and len(wanted) == len(listing) > 1:
        store.fetch_all(folder)
        for key, entry in wanted.items():
            os.utime(folder / key, ns=(entry.mtime_ns, entry.mtime_ns))
        return
    _fetch_each(store, wanted, folder)


def _fetch_each(store, wanted: dict[str, Entry], folder: Path) -> None:
    """Fetch files in a few threads; each appears under its name when it is whole."""

    def fetch(key: str) -> None:
        target = folder / key
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = target.with_name(f".{target.name}{PARTIAL}")
        try:
            store.fetch(key, partial)
            os.utime(partial, ns=(wanted[key].mtime_ns, wanted[key].mtime_ns))
            partial.replace(target)
        finally:
            partial.unlink(missing_ok=True)

    _for_each(fetch, wanted)


def _check_key(key: str, url: str, option: str) -> None:
    if key.startswith("/") or "\\" in key or "\0" in key or {"..", ".", ""} & set(key.split("/")):
        raise UserError(f"{option}: {url}: refused: object {key!r} would not stay in the folder; rename it")


def _read_record(path: Path) -> dict:
    """What the last sync brought; an empty record where there is none or it cannot be read."""
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        files = record["files"]
        for key in files:
            _check_key(key, str(path), "record")  # files are deleted by it
        return {"url": record["url"], "complete": record["complete"], "files": files}
    except (OSError, ValueError, KeyError, TypeError, UserError):
        return {"url": "", "complete": False, "files": {}}


# -------------------------------------------------------------------- out


@contextmanager
def _terminate_as_exception() -> Iterator[None]:
    """A stop from outside (SIGTERM) ends the run like an exception, so that results are uploaded."""
    if (
        threading.current_thread() is not threading.main_thread()
        or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL
    ):
        yield
        return

    def stop(number, frame):
        raise SystemExit(128 + number)

    signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
