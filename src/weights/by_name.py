"""Weights that an option names: a path, an address, or a name of `named_weights.csv`; Darknet's become a checkpoint.

A name stands for the original release of a network. Like an address it is fetched once into the folder of downloads,
and what is Darknet's is converted there once.
"""

import hashlib
from pathlib import Path

from ..base.errors import UserError
from ..remote.download import ENDINGS, default_folder, is_address, local_file
from ..remote.host_lock import host_lock
from .named_weights import NamedWeights, named_weights

_DARKNET = (".weights", ".137", ".29")  # endings of Darknet's files: whole ones, and cut after so many layers


def weights_file(value: str, option: str, folder: str = "", endings: tuple[str, ...] = ENDINGS) -> Path:
    """The file of an option on this host, one of `endings`; Darknet's as the checkpoint that it was converted to.

    Args:
        value: a path, an address, or a name of the table (a file of that name goes first).
        option: name of the option, for errors.
        folder: where downloads are kept; empty: the user's cache folder.
        endings: of files that are no Darknet's.

    Raises:
        UserError: as `local_file`; a download of another size than released; a Darknet file of an unknown network.
    """
    named = named_weights().get(value)
    if named is not None and not Path(value).exists():
        path = _fetched(named, option, folder)
    else:
        path = local_file(value, option, folder, (*endings, *_DARKNET))
    if path.suffix in _DARKNET:
        if not path.is_file():
            raise UserError(f"{option}: {path}: no such file")
        return _converted(path, option, Path(folder or default_folder()))
    return path


def is_darknet(value: str) -> bool:
    """Whether an option's value is a Darknet file or a name of the table."""
    return value in named_weights() or Path(value.partition("#")[0]).suffix in _DARKNET


def unknown_name(value: str) -> str:
    """A hint for a value that is no file: the names that there are; empty where it looks like a path or an address."""
    if is_address(value) or "/" in value or Path(value).suffix in (*ENDINGS, *_DARKNET):
        return ""
    return f"; names that are known: {', '.join(named_weights())}"


def _fetched(named: NamedWeights, option: str, folder: str) -> Path:
    checksum = f"#sha256={named.sha256}" if named.sha256 else ""
    try:
        path = local_file(named.address + checksum, option, folder, (*ENDINGS, *_DARKNET))
    except UserError as error:
        raise UserError(
            f"{named.name} is not here yet and could not be fetched: {error}. A file that you have "
            f"works as well: --{option} FILE"
        ) from error
    if named.size and path.stat().st_size != named.size:
        size = path.stat().st_size
        path.unlink()
        raise UserError(
            f"{option}: {named.name}: {size} bytes came, the release has {named.size}; nothing was kept. Give a file: "
            f"--{option} FILE"
        )
    return path


def _converted(path: Path, option: str, folder: Path) -> Path:
    """The checkpoint of a Darknet file, made once: its name tells the file's and its descriptions' contents."""
    digest = hashlib.sha256(path.read_bytes())
    for beside in (path.with_suffix(".cfg"), path.with_suffix(".names")):
        digest.update(beside.read_bytes() if beside.is_file() else b"")
    target = folder / f"{path.stem}-{digest.hexdigest()[:12]}.ckpt"
    if target.is_file():
        return target
    from ..config import load_config
    from .convert import convert
    from .darknet_cfg import options_of_weights

    if not options_of_weights(path):
        raise UserError(
            f"{option}: {path}: nothing tells which network it is of; put its .cfg and .names beside it (of the same "
            "name), or convert it by utils/convert_weights.py with the network's options"
        )
    folder.mkdir(parents=True, exist_ok=True)
    with host_lock(target):
        if not target.is_file():
            convert(load_config([]), path, target)
    return target
