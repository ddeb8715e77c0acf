"""The image files of checked sets: missing, unlisted, unreadable, of another size, and the same image twice."""

import hashlib
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path

from ..base.errors import UserError
from ..imaging.image_io import is_image, read_rgb, read_size
from .checked import CheckedImage, CheckedSet
from .findings import Findings

_CHUNK = 1 << 20


def check_images(
    sets: list[CheckedSet],
    findings: Findings,
    *,
    decode: bool,
    workers: int,
    progress: Callable[[], object] = lambda: None,
) -> None:
    """Open every image by several threads: its size and, by `decode`, all its pixels; then compare contents.

    Without `decode`, images are the same where their files are, byte for byte; with it, where their pixels are
    (a copy in another lossless format is found too).

    Args:
        sets: their images get a `content` to compare by.
        findings: missing, unlisted, unreadable, differing and repeated images are added.
        decode: decode the pixels as training does.
        workers: threads.
        progress: called after each image.
    """
    images = {image.path: image for checked in sets for image in checked.images}
    _find_unlisted(sets, set(images), findings)
    queue = iter(images.values())
    lengths: dict[int, list[CheckedImage]] = {}
    with ThreadPoolExecutor(workers) as pool:
        while part := list(islice(queue, 64 * workers)):  # bounds what waits
            for image, (kind, example, length, content) in zip(
                part, pool.map(lambda item: _look_at(item, decode), part)
            ):
                progress()
                image.content = content
                if kind:
                    findings.add(kind, example)
                if length is not None:
                    lengths.setdefault(length, []).append(image)
        if not decode:
            alike = [image for group in lengths.values() if len(group) > 1 for image in group]
            for image, content in zip(alike, pool.map(_file_digest, alike)):
                image.content = content
    for checked in sets:  # a path that two sets or entries share was opened once
        for image in checked.images:
            image.content = images[image.path].content
    _compare(sets, findings)


def _look_at(image: CheckedImage, decode: bool) -> tuple[str, str, int | None, str]:
    """(kind of problem or "", its example, length of the file or None, digest of the pixels or "")."""
    path = image.path
    if not path.is_file():
        return "missing_file", str(path), None, ""
    length = path.stat().st_size
    try:
        width, height = read_size(path)
        if (width, height) != (image.width, image.height):
            example = f"{path}: it is {width}x{height}, annotated {image.width}x{image.height}"
            return "size_differs", example, length, ""
        if not decode:
            return "", "", length, ""
        pixels = read_rgb(path)
    except UserError as error:
        return "unreadable_picture", str(error), length, ""
    except Exception as error:  # a decoder that fails in a way of its own must not hide the other images
        return "unreadable_picture", f"{path}: {type(error).__name__}: {error}", length, ""
    return "", "", length, f"{pixels.shape}{hashlib.blake2b(pixels, digest_size=16).hexdigest()}"


def _file_digest(image: CheckedImage) -> str:
    """Digest of a file's bytes; "" where it cannot be read (which is counted elsewhere)."""
    digest = hashlib.blake2b(digest_size=16)
    try:
        with image.path.open("rb") as handle:
            while chunk := handle.read(_CHUNK):
                digest.update(chunk)
    except OSError:
        return ""
    return digest.hexdigest()


def _find_unlisted(sets: list[CheckedSet], listed: set[Path], findings: Findings) -> None:
    """Images in the sets' folders that no annotation file lists."""
    for folder in sorted({checked.folder for checked in sets}):
        for place, folders, files in os.walk(folder):
            folders.sort()
            for name in sorted(files):
                path = Path(place, name)
                if is_image(path) and path not in listed:
                    findings.add("unlisted_file", str(path))


def _compare(sets: list[CheckedSet], findings: Findings) -> None:
    """The same image twice in a set, or in train and in another set."""
    trained: dict = {}
    for checked in sets:
        seen: dict = {}
        for image in checked.images:
            for key in {image.path.resolve(), image.content} - {""}:
                if checked.split != "train" and key in trained:
                    findings.add("train_in_val", f"{image.path} is {trained[key]}")
                    break
            if image.content:
                first = seen.setdefault(image.content, image.path)
                if first != image.path:
                    findings.add("duplicate_picture", f"{image.path} is {first}")
        if checked.split == "train":
            for image in checked.images:
                for key in {image.path.resolve(), image.content} - {""}:
                    trained.setdefault(key, image.path)
