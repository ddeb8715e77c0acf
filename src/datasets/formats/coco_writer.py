"""Labelled images as a data set in COCO's format, in the layout of `data_dir`, with a count of everything."""

import math
import os
import re
import shlex
import shutil
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from ...base.atomic import atomic_path, write_json
from ...base.errors import UserError, refusal
from ...logger import progress_bar
from .labelled import LabelledImage, LabelledObject, LabelledSet

PLACING = ("link", "copy")
_PLAIN_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_-]*")


@dataclass(frozen=True)
class WriteOptions:
    """How a data set is written.

    Attributes:
        labels: class names in the order of the network's outputs; None: as the format declares them, or those
            of the objects in the order of the alphabet.
        drop_other_classes: leave out, and count, objects of a class that is not in `labels`; otherwise an error.
        ignore_difficult: objects marked `difficult` are no targets (`iscrowd` 1); otherwise they are, and the mark
            is kept as `difficult` 1.
        placing: `link` (symbolic links to where they are) or `copy`.
    """

    labels: tuple[str, ...] | None = None
    drop_other_classes: bool = False
    ignore_difficult: bool = False
    placing: str = "link"


@dataclass
class ConvertedSet:
    """What a conversion wrote: classes, counts a split, what was left out and notes."""

    out: Path
    class_names: tuple[str, ...]
    images: dict[str, int] = field(default_factory=dict)
    empty: Counter = field(default_factory=Counter)
    objects: dict[str, Counter] = field(default_factory=dict)
    ignored: Counter = field(default_factory=Counter)
    left_out: Counter = field(default_factory=Counter)
    notes: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        lines = []
        for split, count in self.images.items():
            objects = self.objects[split]
            more = f", {self.ignored[split]} more ignored as difficult" if self.ignored[split] else ""
            lines.append(
                f"{split}: {count} images ({self.empty[split]} of them without objects), "
                f"{sum(objects.values())} objects{more}"
            )
            lines += [f"  {name:<20} {objects[name]}" for name in self.class_names]
        for reason, count in self.left_out.items():
            lines.append(f"left out: {count} {reason}")
        lines += [f"note: {note}" for note in self.notes]
        lines.append(f"train with: --data_dir={shlex.quote(str(self.out))} {labels_option(self.class_names)}")
        return "\n".join(lines)


def labels_option(names: tuple[str, ...]) -> str:
    """`--labels=...` as a shell takes it; names that YAML would read as something else are quoted."""
    if all(_PLAIN_NAME.fullmatch(name) and yaml.safe_load(name) == name for name in names):
        return f"--labels={','.join(names)}"
    text = yaml.safe_dump(list(names), default_flow_style=True, allow_unicode=True, width=math.inf).strip()
    return f"--labels={shlex.quote(text)}"


def write_coco(found: LabelledSet, out: Path, options: WriteOptions) -> ConvertedSet:
    """Write `out/{train,val}/` and `out/annotations/{train,val}.json`, all of it or nothing.

    Raises:
        UserError: a class that is not in `labels`, no objects at all, the place is taken, or the disk is full.
    """
    result = ConvertedSet(
        out, _classes(found, options), left_out=Counter(found.left_out), notes=list(found.notes)
    )
    _note_shared(found, result)
    documents = {split: _document(split, images, options, result) for split, images in found.splits.items()}
    if not sum(sum(objects.values()) for objects in result.objects.values()):
        raise UserError(f"--out: not one object is left ({dict(result.left_out)}); look at the labels")
    for split in documents:
        for place in (out / split, out / "annotations" / f"{split}.json"):
            if place.is_file() or (place.is_dir() and any(place.iterdir())):
                raise UserError(f"--out: {place} is there already; remove it or choose another folder")
    written: list[Path] = []
    try:
        for split, document in documents.items():
            if document["images"]:
                written += [out / split, out / "annotations" / f"{split}.json"]
                _place_images(out / split, found.splits[split], document, options)
                written[-1].parent.mkdir(parents=True, exist_ok=True)
        for split, document in documents.items():
            if document["images"]:
                write_json(out / "annotations" / f"{split}.json", document)
    except BaseException as error:
        for place in written:
            shutil.rmtree(place, ignore_errors=True) if place.is_dir() else place.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise UserError(f"--out: {refusal(error, out)}") from error
        raise
    return result


def _classes(found: LabelledSet, options: WriteOptions) -> tuple[str, ...]:
    if options.labels:
        twice = sorted({name for name in options.labels if options.labels.count(name) > 1})
        if twice:
            raise UserError(f"--labels: named twice: {', '.join(twice)}")
        return options.labels
    if found.class_names:
        return found.class_names
    names = {entry.name for images in found.splits.values() for item in images for entry in item.objects}
    return tuple(sorted(names))


def _note_shared(found: LabelledSet, result: ConvertedSet) -> None:
    """Say where the held-out set is not held out, and which images need a larger `max_box`."""
    places = [{item.path.resolve() for item in images} for images in found.splits.values()]
    shared = set.intersection(*places) if len(places) > 1 else set()
    if shared:
        result.notes.append(
            f"{len(shared)} images are in both train and val (first {min(shared)}): results on val mislead"
        )
    most = max((len(item.objects) for images in found.splits.values() for item in images), default=0)
    if most > 600:  # the option's default
        result.notes.append(f"an image has {most} objects; train with --max_box={most}")


def _document(split: str, labelled: list[LabelledImage], options: WriteOptions, result: ConvertedSet) -> dict:
    """COCO's document of a split; counts go to `result`."""
    numbers = {name: number for number, name in enumerate(result.class_names, start=1)}
    images, annotations = [], []
    counts = result.objects[split] = Counter()
    for item, name in zip(labelled, file_names([item.path for item in labelled])):
        images.append({"id": len(images) + 1, "file_name": name, "width": item.width, "height": item.height})
        targets = 0
        seen = set()
        for entry in item.objects:
            if entry.name not in numbers:
                if not options.drop_other_classes:
                    raise UserError(
                        f"{entry.where}: class {entry.name!r} is not in --labels; add it, or --drop_other_classes"
                    )
                result.left_out[f"objects of class {entry.name!r}"] += 1
                continue
            bbox, fault = _bbox(entry, item)
            if fault or (entry.name, *bbox) in seen:
                result.left_out[f"boxes {fault}" if fault else "duplicate boxes"] += 1
                continue
            seen.add((entry.name, *bbox))
            ignored = entry.difficult and options.ignore_difficult
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": len(images),
                    "category_id": numbers[entry.name],
                    "bbox": bbox,
                    "area": round(bbox[2] * bbox[3], 2),
                    "iscrowd": int(ignored),
                    "ignore": int(ignored),
                    "difficult": int(entry.difficult),
                    "segmentation": [],
                }
            )
            targets += not ignored
            if ignored:
                result.ignored[split] += 1
            else:
                counts[entry.name] += 1
        result.empty[split] += not targets
    result.images[split] = len(images)
    categories = [{"id": number, "name": name} for name, number in numbers.items()]
    return {"images": images, "annotations": annotations, "categories": categories}


def _bbox(entry: LabelledObject, item: LabelledImage) -> tuple[list[float], str]:
    """COCO's [x, y, width, height] clipped to the image, or why it is left out."""
    x1, y1, x2, y2 = entry.box
    if x2 <= x1 or y2 <= y1:
        return [], "without area"
    x1, y1 = round(max(x1, 0.0), 3), round(max(y1, 0.0), 3)
    width, height = round(min(x2, item.width) - x1, 3), round(min(y2, item.height) - y1, 3)
    if x1 >= item.width or y1 >= item.height or x2 <= 0 or y2 <= 0:
        return [], "outside their image"
    if width <= 0 or height <= 0:
        return [], "without area"
    return [x1, y1, width, height], ""


def file_names(paths: list[Path]) -> list[str]:
    """A name for each image: its own; where several share one, with their folders in front.

    Raises:
        UserError: names that still clash.
    """
    shared = Counter(path.name for path in paths)
    clashing = [path.resolve() for path in paths if shared[path.name] > 1]
    root = Path(os.path.commonpath([path.parent for path in clashing])) if clashing else Path()
    names = [
        path.name if shared[path.name] == 1 else "__".join(path.resolve().relative_to(root).parts)
        for path in paths
    ]
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise UserError(f"--src: several images would be named {twice[0]}; rename them")
    return names


def _place_images(folder: Path, images: list[LabelledImage], document, options: WriteOptions) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    with progress_bar(len(images), folder.name, "image") as bar:
        for item, entry in zip(images, document["images"]):
            target = folder / entry["file_name"]
            if options.placing == "link":
                target.symlink_to(item.path.resolve())
            else:
                with atomic_path(target) as temporary:
                    shutil.copyfile(item.path, temporary)
            bar.update()
