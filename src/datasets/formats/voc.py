"""PASCAL VOC: `Annotations/*.xml`, `JPEGImages/`, and the lists of `ImageSets/Main`.

Format: the VOC development kit's documentation (Everingham and Winn, 2012, section 3 and 11). XML is read without
document types: a file that declares one is refused, so entities neither expand nor lead to other files.
"""

import math
from collections import Counter
from pathlib import Path
from xml.etree import ElementTree

from ...base.errors import UserError
from ...base.text_file import read_text_bytes
from ...imaging.image_io import is_image, read_size
from ...logger import progress_bar
from .labelled import (
    SPLITS,
    LabelledImage,
    LabelledObject,
    LabelledSet,
    ReadOptions,
    read_lines,
    refuse_missing,
    split_by_share,
    without_repeats,
)

_KEYS = ("xmin", "ymin", "xmax", "ymax")


def read_voc(src: Path, options: ReadOptions) -> LabelledSet:
    """The images of a VOC folder, split by its lists or by share.

    Raises:
        UserError: folders, lists, images or XML files that are missing or not of this form.
    """
    folder = _annotation_folder(src, options)
    images = _index_images(src, options)
    files = {path.stem: path for path in sorted(folder.glob("*.xml"))}
    result = LabelledSet({})
    numbered = _split(src, list(files), options, result.left_out)
    listed = {name for names in numbered.values() for name in names}
    if set(files) - listed:
        result.left_out["images in no list"] += len(set(files) - listed)
    unlabelled = set(images) - set(files) - listed
    if unlabelled:
        result.left_out["images without an annotation file"] += len(unlabelled)
    missing: list[str] = []
    counts: Counter = Counter()
    with progress_bar(sum(map(len, numbered.values())), "read", "file") as bar:
        for split, names in numbered.items():
            found = result.splits.setdefault(split, [])
            for name in names:
                bar.update()
                if name not in files:
                    missing.append(str(folder / f"{name}.xml"))
                    continue
                image = _read_one(files[name], images, options, counts)
                if image is None:
                    missing.append(f"the image of {files[name]}")
                else:
                    found.append(image)
    refuse_missing(missing, options, result.left_out, src)
    if counts["zero"]:
        result.notes.append(
            f"{counts['zero']} boxes have xmin or ymin 0, which VOC counts from 1; "
            "if the labels count from 0, convert with --zero_based"
        )
    return result


def read_voc_xml(path: Path, zero_based: bool = False) -> tuple[str, tuple[int, int], list[LabelledObject]]:
    """One file: the image's name in it (may be empty), its width and height (0 where not given), objects.

    VOC's coordinates are those of the box's first and last pixel, counted from 1: pixels 1 to 10 are the box from
    0 to 10. So 1 is taken from xmin and ymin, and xmax and ymax stay. With `zero_based` pixels 0 to 9 are that
    box: xmin and ymin stay, and 1 is added to xmax and ymax.

    Raises:
        UserError: no XML, with a document type, or an entry that is missing or no number; names file and entry.
    """
    root = _parse(path)
    if root.tag != "annotation":
        raise UserError(f"{path}: <{root.tag[:40]}> is no VOC annotation; expected <annotation>")
    width, height = (_whole(root.findtext(f"size/{key}"), f"{path}: <{key}>") for key in ("width", "height"))
    objects = []
    first, last = (0, 1) if zero_based else (-1, 0)
    for number, entry in enumerate(root.findall("object"), start=1):
        name = " ".join((entry.findtext("name") or "").split())
        if not name:
            raise UserError(f"{path}: object {number} has no <name>; name its class")
        where = f"{path}: object {number} ({name})"
        box = entry.find("bndbox")
        if box is None:
            kind = " but a rotated box, which is not VOC's" if entry.find("robndbox") is not None else ""
            raise UserError(f"{where} has no <bndbox>{kind}; give it one, or remove the object")
        x1, y1, x2, y2 = (_number(box.findtext(key), f"{where}: <{key}>") for key in _KEYS)
        difficult = (entry.findtext("difficult") or "0").strip()
        if difficult not in ("0", "1"):
            raise UserError(f"{where}: <difficult> {difficult[:20]!r} is neither 0 nor 1")
        corners = (x1 + first, y1 + first, x2 + last, y2 + last)
        objects.append(LabelledObject(name, corners, difficult == "1", where))
    return (root.findtext("filename") or "").strip(), (width, height), objects


class _NoDocumentType(ElementTree.TreeBuilder):
    """Builds the tree and stops at a document type, before any entity in it is read."""

    def doctype(self, name, pubid, system):
        raise _DocumentTypeError


class _DocumentTypeError(Exception):
    pass


def _parse(path: Path) -> ElementTree.Element:
    parser = ElementTree.XMLParser(target=_NoDocumentType())
    try:
        parser.feed(read_text_bytes(path))
        return parser.close()
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from error
    except _DocumentTypeError:
        raise UserError(f"{path}: declares a document type (DOCTYPE), which VOC has not; remove it") from None
    except (ElementTree.ParseError, ValueError, LookupError, RecursionError) as error:
        raise UserError(f"{path}: no valid XML ({str(error)[:100]}); correct or remove it") from error


def _number(text: str | None, where: str) -> float:
    try:
        value = float(text or "")
        if not math.isfinite(value):
            raise ValueError
    except (TypeError, ValueError):
        shown = "is missing" if text is None else f"{text.strip()[:20]!r} is no number"
        raise UserError(f"{where} {shown}; correct it, or remove the object") from None
    return value


def _whole(text: str | None, where: str) -> int:
    return int(_number(text, where)) if text is not None and text.strip() else 0


def _read_one(path: Path, images, options: ReadOptions, counts: Counter) -> LabelledImage | None:
    """The image of an XML file, None where it is not there."""
    name, size, objects = read_voc_xml(path, options.zero_based)
    candidates = images.get(path.stem) or images.get(Path(name.replace("\\", "/")).stem) or []
    image = next((item for item in candidates if item.name == name), None)
    if image is None and len(candidates) > 1:
        shown = ", ".join(map(str, candidates[:3]))
        raise UserError(f"{path}: its image may be {shown}; say which in <filename>, or remove the others")
    if image is None and not candidates:
        return None
    image = image or candidates[0]
    width, height = read_size(image)
    if min(size) > 0 and size != (width, height):
        raise UserError(
            f"{path}: <size> is {size[0]}x{size[1]}, {image} is {width}x{height}; "
            "correct the boxes and <size> (a <size> of 0 is not checked)"
        )
    if not options.zero_based:
        counts["zero"] += sum(min(entry.box[:2]) == -1 for entry in objects)
    return LabelledImage(image, width, height, objects)


def _annotation_folder(src: Path, options: ReadOptions) -> Path:
    folder = options.annotations or src / "Annotations"
    if not folder.is_dir():
        raise UserError(f"--src: {folder} is no folder; expected Annotations/ and JPEGImages/ in {src}")
    if not any(folder.glob("*.xml")):
        inner = sorted(path.parent for path in folder.glob("*/*.xml"))
        hint = f"; choose --annotations='{inner[0]}'" if inner else ""
        raise UserError(f"--src: no .xml files in {folder}{hint}")
    return folder


def _index_images(src: Path, options: ReadOptions) -> dict[str, list[Path]]:
    """Images by name without ending; of `JPEGImages`, or where there is none of `JPEGImages-*` or `images`."""
    folders = [options.images] if options.images else [src / "JPEGImages"]
    if options.images is None and not folders[0].is_dir():
        folders = sorted(src.glob("JPEGImages*/")) or [src / "images"]
    images: dict[str, list[Path]] = {}
    for folder in folders:
        if not folder.is_dir():
            raise UserError(f"--src: no folder {folder} of images; expected JPEGImages/, or give --images")
        for path in sorted(folder.iterdir()):
            if is_image(path):
                images.setdefault(path.stem, []).append(path)
    if not images:
        raise UserError(f"--src: no images in {', '.join(map(str, folders))}")
    return images


def _split(src: Path, names: list[str], options: ReadOptions, left_out: Counter) -> dict[str, list[str]]:
    """Names of train and val, by the lists of ImageSets/Main where there are any and no share is asked for."""
    folder = src / "ImageSets" / "Main"
    lists = [folder / f"{name}.txt" for name in options.split_names]
    there = [path.is_file() for path in lists]
    chosen = options.split_names != SPLITS
    if options.val_share is not None or not (any(there) or chosen):
        return split_by_share(names, options, src)
    if not all(there):
        others = ", ".join(sorted(path.stem for path in folder.glob("*.txt"))[:8]) or "none"
        raise UserError(
            f"{lists[there.index(False)]}: no such list (there: {others}); "
            "choose --train_split and --val_split, or --val_share"
        )
    return {
        split: without_repeats((line.strip() for line in read_lines(path) if line.strip()), left_out)
        for split, path in zip(SPLITS, lists)
    }
