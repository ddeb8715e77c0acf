"""YOLO's text labels: a file for each image, `class x y w h` a line, as shares of the image's sides.

Layouts that are understood: `images/train/` with `labels/train/`, `train/images/` with `train/labels/` (the held-out
set may be called `valid`), `images/` with `labels/` and lists `train.txt`, `val.txt` or a split by share, labels
beside their images, and what a `data.yaml` says of `path`, `train`, `val` and `names`. A line with more numbers is
an outline (`class x1 y1 x2 y2 ...`), of which the horizontal box is taken.
"""

import contextlib
import math
from collections import Counter
from pathlib import Path

from ...base.errors import UserError, shown
from ...base.yaml_text import load_yaml
from ...imaging.image_io import is_image, read_size
from ...logger import progress_bar
from .labelled import (
    SPLITS,
    LabelledImage,
    LabelledObject,
    LabelledSet,
    ReadOptions,
    images_below,
    read_lines,
    refuse_missing,
    split_by_share,
    without_repeats,
)

_DATA_FILES = ("data.yaml", "data.yml", "dataset.yaml", "dataset.yml")
_NAME_FILES = (
    "classes.txt",
    "obj.names",
    "classes.names",
    "names.txt",
    "labels/classes.txt",
    "predefined_classes.txt",
)
_NOT_LABELS = {
    "classes.txt",
    "names.txt",
    "predefined_classes.txt",
    "train.txt",
    "val.txt",
    "test.txt",
    "valid.txt",
}
_SLACK = 0.01  # shares this far outside an image are rounding; more are no shares


def read_yolo(src: Path, options: ReadOptions) -> LabelledSet:
    """The images of a YOLO data set, split by its folders, lists or data.yaml, or by share.

    An image without a label file has no objects, as YOLO has it; this is noted.

    Raises:
        UserError: no names of the classes, folders or images that are missing, or a line not of this form.
    """
    document, data_file = _data_yaml(src, options)
    names = class_names(src, options, document, data_file)
    result = LabelledSet({}, names)
    chosen = _split(src, options, document, data_file, result.left_out)
    if not any(chosen.values()):
        raise UserError(f"--src: no images found in {src}; expected images/ and labels/, or give --images")
    missing: list[str] = []
    counts: Counter = Counter()
    used: dict[Path, set[Path]] = {}  # label folder -> the folders of images that it belongs to
    with progress_bar(sum(map(len, chosen.values())), "read", "image") as bar:
        for split, images in chosen.items():
            found = result.splits.setdefault(split, [])
            for path in images:
                bar.update()
                if not path.is_file():
                    missing.append(str(path))
                    continue
                label_file = label_path(path, src, options)
                used.setdefault(label_file.parent, set()).add(path.parent)
                width, height = read_size(path)
                labelled = label_file.is_file()
                counts["labelled" if labelled else "bare"] += 1
                objects = read_yolo_labels(label_file, names, width, height) if labelled else []
                found.append(LabelledImage(path, width, height, objects))
    missing += _labels_without_image(used, src, options)
    refuse_missing(missing, options, result.left_out, src)
    if not counts["labelled"]:
        raise UserError(
            f"--src: no label file for any of {counts['bare']} images, expected for example "
            f"{label_path(next(iter(next(filter(None, chosen.values())))), src, options)}; or give --annotations"
        )
    if counts["bare"]:
        result.notes.append(f"{counts['bare']} images have no label file and were taken as without objects")
    return result


def read_yolo_labels(path: Path, names: tuple[str, ...], width: int, height: int) -> list[LabelledObject]:
    """The objects of a label file, in pixels of an image `width` x `height`.

    Raises:
        UserError: a line that is not of this form, names file and line.
    """
    objects = []
    for number, line in enumerate(read_lines(path), start=1):
        words = line.split()
        if words:
            where = f"{path}:{number}"
            name, box = _parse(words, names, where)
            x1, y1, x2, y2 = box
            corners = (x1 * width, y1 * height, x2 * width, y2 * height)
            objects.append(LabelledObject(name, corners, False, where))
    return objects


def _parse(words: list[str], names, where: str) -> tuple[str, tuple[float, float, float, float]]:
    """Class name and x1 y1 x2 y2 as shares."""
    try:
        values = [float(word) for word in words]
    except ValueError:
        raise UserError(
            f"{where}: expected numbers `class x y w h`, found {' '.join(words)[:60]!r}; correct the line"
        ) from None
    label, shares = values[0], values[1:]
    if not (math.isfinite(label) and label == int(label) and 0 <= label < len(names)):
        raise UserError(
            f"{where}: class {words[0][:20]} is not one of the {len(names)} classes (numbered from 0); "
            "correct it, or give the right --names"
        )
    if len(shares) != 4 and (len(shares) < 6 or len(shares) % 2):
        raise UserError(
            f"{where}: {len(words)} numbers; expected `class x y w h`, or an outline of at least 3 points"
        )
    if not all(-_SLACK <= value <= 1 + _SLACK for value in shares):  # not finite fails too
        raise UserError(
            f"{where}: {' '.join(words[1:])[:60]} are no shares of the image in 0..1; "
            "divide pixels by its width and height"
        )
    if len(shares) == 4:
        x, y, w, h = shares
        return names[int(label)], (x - w / 2, y - h / 2, x + w / 2, y + h / 2)
    xs, ys = shares[::2], shares[1::2]
    return names[int(label)], (min(xs), min(ys), max(xs), max(ys))


def class_names(src: Path, options: ReadOptions, document: dict, data_file: Path | None) -> tuple[str, ...]:
    """Names by number: those given, of the file given, of data.yaml, or of a file of names in `src`.

    Raises:
        UserError: there are none, or they are not a list (or numbers from 0) of different names.
    """
    if isinstance(options.names, tuple):
        return _checked(list(options.names), "--names")
    for key, section in (
        ("names", document),
        ("data.names", document.get("data")),
    ):  # MindYOLO's is data.names
        if isinstance(section, dict) and "names" in section:
            return _checked(section["names"], f"{data_file}: {key}")
    if data_file is not None and data_file == options.names:
        raise UserError(
            f"{data_file}: has neither `names` nor `data.names`; list the classes there, or give --names=ship,plane"
        )
    files = (
        [options.names]
        if options.names
        else [src / name for name in _NAME_FILES] + sorted(src.glob("*.names"))
    )
    for path in files:
        if path == options.names or path.is_file():
            return _checked([line.strip() for line in read_lines(path) if line.strip()], str(path))
    looked = ", ".join((_DATA_FILES[0], *_NAME_FILES[:2]))
    raise UserError(
        f"--names: no names of the classes in {src} ({looked}); give --names=FILE or --names=ship,plane"
    )


def _checked(names, where: str) -> tuple[str, ...]:
    if isinstance(names, dict):
        if sorted(names, key=str) != sorted(range(len(names)), key=str):
            raise UserError(f"{where}: the numbers of the classes must be 0 to {len(names) - 1}")
        names = [names[number] for number in range(len(names))]
    if (
        not isinstance(names, list)
        or not names
        or any(isinstance(name, list | dict | None) for name in names)
    ):
        raise UserError(f"{where}: expected a list of names, or `number: name` lines")
    names = tuple(" ".join(str(name).split()) for name in names)
    twice = sorted({name for name in names if names.count(name) > 1 or not name})
    if twice:
        raise UserError(f"{where}: empty or named twice: {', '.join(map(repr, twice))}")
    return names


def _data_yaml(src: Path, options: ReadOptions) -> tuple[dict, Path | None]:
    """The data.yaml given as names or found in `src`, and its path; empty where there is none."""
    given = (
        options.names
        if isinstance(options.names, Path) and options.names.suffix in (".yaml", ".yml")
        else None
    )
    for path in [given] if given else [src / name for name in _DATA_FILES]:
        if path != given and not path.is_file():
            continue
        try:
            document = load_yaml("\n".join(read_lines(path)))
        except ValueError as error:
            raise UserError(f"{path}: not valid YAML: {shown(error, 120)}") from error
        if not isinstance(document, dict):
            raise UserError(f"{path}: expected `names:` and other keys, found {type(document).__name__}")
        return document, path
    return {}, None


def label_path(image: Path, src: Path, options: ReadOptions) -> Path:
    """Where an image's labels are: the last `images` of its path (below `src`) is `labels`, else beside it."""
    if options.annotations:
        root = options.images or src / "images"
        inner = image.relative_to(root).parent if image.is_relative_to(root) else Path()
        return options.annotations / inner / f"{image.stem}.txt"
    beside = image.with_suffix(".txt")
    root = src if image.is_relative_to(src) else Path(image.anchor)
    parts = list(image.relative_to(root).parts)
    for place in range(len(parts) - 2, -1, -1):
        if parts[place] == "images":
            mirrored = root.joinpath(*parts[:place], "labels", *parts[place + 1 :]).with_suffix(".txt")
            return beside if beside.is_file() and not mirrored.is_file() else mirrored
    return beside


def _split(src: Path, options: ReadOptions, document, data_file, left_out: Counter) -> dict[str, list[Path]]:
    """Images of train and val."""
    if options.val_share is None:
        named = _from_data_yaml(src, document, data_file, options)
        places = [named.get(name) or _place(src, name, options) for name in options.split_names]
        known = [place for place in places if place]
        if len(known) == len(places):
            return {
                split: without_repeats(
                    (path for place in found for path in listed_images(place, src)), left_out
                )
                for split, found in zip(SPLITS, known)
            }
        if any(places) or options.split_names != SPLITS:
            absent = options.split_names[places.index(None)]
            raise UserError(
                f"--src: no images of {absent!r} in {src} (images/{absent}/, {absent}/images/ or {absent}.txt); "
                "choose --train_split and --val_split, or --val_share"
            )
    folder = options.images or (src / "images" if (src / "images").is_dir() else src)
    if not folder.is_dir():
        raise UserError(f"--images: {folder} is no folder")
    return split_by_share(images_below(folder), options, src)


def _place(src: Path, name: str, options: ReadOptions) -> list[Path] | None:
    """Folder or list of a split by its name; `valid` is another name of `val`."""
    for word in (name, "valid") if name == "val" else (name,):
        root = options.images or src / "images"
        for place in (root / word, src / word / "images", src / f"{word}.txt"):
            if place.exists():
                return [place]
    return None


def _from_data_yaml(src: Path, document: dict, data_file: Path | None, options) -> dict[str, list[Path]]:
    """Places of the splits that data.yaml names; relative ones are below its `path`, itself, or `src`."""
    roots = [src]
    if data_file is not None:
        roots.insert(0, data_file.parent)
        if isinstance(document.get("path"), str):
            roots = [root / document["path"] for root in roots] + roots
    found = {}
    for key in options.split_names:
        value = document.get(key)
        if value is None:
            continue
        words = value if isinstance(value, list) else [value]
        if not words or not all(isinstance(word, str) and word for word in words):
            raise UserError(f"{data_file}: {key}: expected a folder, a list file, or a list of these")
        found[key] = [_resolve(word, roots, f"{data_file}: {key}") for word in words]
    return found


def _resolve(word: str, roots: list[Path], where: str) -> Path:
    # Some tools write `../train/images` where they mean a folder beside data.yaml.
    for relative in (word, word.removeprefix("../")):
        for root in roots:
            with contextlib.suppress(OSError, ValueError):  # no name that a file could have
                if (root / relative).exists():
                    return root / relative
    raise UserError(
        f"{where}: no {shown(word)} in {' or '.join(map(str, dict.fromkeys(roots)))}; correct the path"
    )


def listed_images(place: Path, src: Path) -> list[Path]:
    """Images of a folder, or those a list file names, relative to the list, or to `src`."""
    if place.is_dir():
        return images_below(place)
    found = []
    for line in read_lines(place):
        if line.strip():
            path = Path(line.strip())
            beside = place.parent / path
            found.append(beside if beside.is_file() or not (src / path).is_file() else src / path)
    return found


def _labels_without_image(used: dict[Path, set[Path]], src: Path, options: ReadOptions) -> list[str]:
    """Label files whose image is in none of the folders that their own folder belongs to."""
    orphans = []
    for folder, image_folders in used.items():
        if not folder.is_dir():
            continue
        stems = {path.stem for place in image_folders for path in place.iterdir() if is_image(path)}
        orphans += [
            f"the image of {path}"
            for path in sorted(folder.glob("*.txt"))
            if path.stem not in stems and path.name not in _NOT_LABELS
        ]
    return orphans
