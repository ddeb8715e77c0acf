"""DOTA scenes cut into overlapping tiles with annotations in COCO's format."""

import shutil
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path

import cv2
import numpy as np

from ..base.atomic import write_json
from ..base.errors import UserError
from ..imaging.image_io import IMAGE_SUFFIXES, is_image, read_rgb, write_image
from ..imaging.tiling import PADDING, tile_starts
from ..logger import progress_bar
from .dota_labels import DotaObject, object_boxes, read_labels


@dataclass(frozen=True)
class SplitOptions:
    """How scenes are cut.

    Attributes:
        class_names: names that labels may have, in the order of the category ids 1, 2, ...
        tile_size: side of a tile in pixels.
        overlap: share of a tile that it has in common with its neighbour.
        min_visible: share of an object's box that must be in a tile for it to be a target there; an
            object of which less is visible is marked as ignore (iscrowd 1): no target, and no mistake when
            it is found.
        keep_empty: write tiles without objects too.
        suffix: .png (exact) or .jpg (smaller).
    """

    class_names: tuple[str, ...]
    tile_size: int = 600
    overlap: float = 0.2
    min_visible: float = 0.7
    keep_empty: bool = True
    suffix: str = ".png"


@dataclass
class SplitCounts:
    """What a split wrote."""

    scenes: int = 0
    tiles: int = 0
    empty_tiles: int = 0
    dropped_tiles: int = 0
    objects: Counter = field(default_factory=Counter)
    ignored: int = 0
    scene_objects: int = 0

    def __str__(self) -> str:
        lines = [
            f"{self.scenes} scenes with {self.scene_objects} objects -> {self.tiles} tiles"
            f" ({self.empty_tiles} of them without objects, {self.dropped_tiles} more left out)",
            f"{sum(self.objects.values())} objects on tiles, {self.ignored} cut ones marked as ignore",
        ]
        lines += [f"  {name:<20} {count}" for name, count in self.objects.items() if count]
        return "\n".join(lines)


def tile_objects(
    objects: list[DotaObject], boxes: np.ndarray, x: int, y: int, tile_w: int, tile_h: int, min_visible: float
) -> list[tuple[DotaObject, np.ndarray, bool]]:
    """Objects that a tile shows: the object, its box (4,) x1 y1 x2 y2 clipped to the tile, in the tile's
    pixels, and whether enough of it is visible to be a target.

    Args:
        objects: N objects of the scene.
        boxes: (N, 4) their boxes, as of `object_boxes`.
        x, y: the tile's place in the scene.
        tile_w, tile_h: its size.
        min_visible: see `SplitOptions`.
    """
    inside = np.clip(boxes - (x, y, x, y), 0, (tile_w, tile_h, tile_w, tile_h))
    width, height = (inside[:, 2:] - inside[:, :2]).T
    (shown,) = np.nonzero((width > 0) & (height > 0))
    area = (boxes[shown, 2] - boxes[shown, 0]) * (boxes[shown, 3] - boxes[shown, 1])
    is_target = width[shown] * height[shown] / area >= min_visible
    return [(objects[number], inside[number], bool(target)) for number, target in zip(shown, is_target)]


def split_scene(
    scene: Path, label_file: Path | None, out_dir: Path, options: SplitOptions
) -> tuple[list, Counter]:
    """Cut one scene; writes its tiles and returns their records (image entry, annotations) and counts."""
    image = read_rgb(scene)
    objects = read_labels(label_file, options.class_names) if label_file else []
    boxes = object_boxes(objects)
    height, width = image.shape[:2]
    size = options.tile_size
    params = (cv2.IMWRITE_PNG_COMPRESSION, 1) if options.suffix == ".png" else (cv2.IMWRITE_JPEG_QUALITY, 95)
    records, counts = [], Counter(scene_objects=len(objects))
    for y in tile_starts(height, size, options.overlap):
        for x in tile_starts(width, size, options.overlap):
            tile = image[y : y + size, x : x + size]
            shown = tile_objects(objects, boxes, x, y, tile.shape[1], tile.shape[0], options.min_visible)
            if not any(is_target for *_, is_target in shown) and not options.keep_empty:
                counts["dropped_tiles"] += 1
                continue
            if tile.shape[:2] != (size, size):
                # A constant tile size keeps the scale of objects when tiles are resized to the network.
                padded = np.full((size, size, 3), PADDING, np.uint8)
                padded[: tile.shape[0], : tile.shape[1]] = tile
                tile = padded
            name = f"{scene.stem}__x{x}__y{y}{options.suffix}"
            write_image(out_dir / name, tile, params)
            entry = {
                "file_name": name,
                "width": size,
                "height": size,
                "scene": scene.stem,
                "offset": [x, y],
                "scene_size": [width, height],
            }
            records.append((entry, [_annotation(*item, options) for item in shown]))
    return records, counts


def _annotation(entry: DotaObject, box: np.ndarray, is_target: bool, options: SplitOptions) -> dict:
    x1, y1, x2, y2 = (round(value, 2) for value in box.tolist())
    width, height = round(x2 - x1, 2), round(y2 - y1, 2)
    return {
        "category_id": options.class_names.index(entry.name) + 1,
        "bbox": [x1, y1, width, height],
        "area": round(width * height, 2),
        "iscrowd": int(not is_target),
        "ignore": int(not is_target),
        "difficult": int(entry.difficult),
        "segmentation": [],
    }


def find_scenes(src: Path) -> list[Path]:
    """Scenes of `src/images`, by name.

    Raises:
        UserError: no scenes.
    """
    image_dir = src / "images"
    if not image_dir.is_dir():
        raise UserError(f"--src: {image_dir} is no folder; expected images/ and labelTxt/ in {src}")
    scenes = sorted(path for path in image_dir.iterdir() if is_image(path))
    if not scenes:
        raise UserError(f"--src: no images ({', '.join(IMAGE_SUFFIXES)}) in {image_dir}")
    return scenes


def labelled_scenes(src: Path) -> list[tuple[Path, Path]]:
    """Scenes of `src/images` with their files in `src/labelTxt`, by name.

    Raises:
        UserError: no scenes, a scene without a label file or a label file without a scene.
    """
    scenes, label_dir = find_scenes(src), src / "labelTxt"
    pairs = [(scene, label_dir / f"{scene.stem}.txt") for scene in scenes]
    missing = [label for _, label in pairs if not label.is_file()]
    if missing:
        raise UserError(f"--src: {len(missing)} scenes have no label file, first {missing[0]}")
    stems = {scene.stem for scene in scenes}
    orphans = sorted(label for label in label_dir.glob("*.txt") if label.stem not in stems)
    if orphans:
        raise UserError(
            f"--src: {len(orphans)} label files have no scene in {src / 'images'}, first {orphans[0]}"
        )
    return pairs


def split_set(src: Path, out: Path, split: str, options: SplitOptions, workers: int = 1, labels: bool = True):
    """Cut all scenes of `src` to `out/{split}/` and `out/annotations/{split}.json`; returns `SplitCounts`.

    The result does not depend on the number of workers; after an error nothing of it stays.

    Raises:
        UserError: bad input, or the output folder has tiles of an earlier run.
    """
    pairs: Sequence[tuple[Path, Path | None]]
    pairs = labelled_scenes(src) if labels else [(scene, None) for scene in find_scenes(src)]
    out_dir, ann_file = out / split, out / "annotations" / f"{split}.json"
    if out_dir.is_dir() and any(out_dir.iterdir()):
        raise UserError(f"--out: {out_dir} is not empty; remove it or choose another folder")
    try:
        out_dir.mkdir(parents=True, exist_ok=True)
        ann_file.parent.mkdir(parents=True, exist_ok=True)
        return _split_pairs(pairs, out_dir, ann_file, options, workers)
    except BaseException:
        shutil.rmtree(out_dir, ignore_errors=True)  # tiles without annotations, which a second try would meet
        raise


def _split_pairs(pairs, out_dir: Path, ann_file: Path, options: SplitOptions, workers: int) -> SplitCounts:
    counts, images, annotations = SplitCounts(scenes=len(pairs)), [], []
    with progress_bar(len(pairs), f"split {out_dir.name}", "scene") as bar:
        for records, scene_counts in _run(pairs, out_dir, options, workers):
            counts.scene_objects += scene_counts["scene_objects"]
            counts.dropped_tiles += scene_counts["dropped_tiles"]
            for entry, found in records:
                images.append({"id": len(images) + 1, **entry})
                for annotation in found:
                    annotations.append({"id": len(annotations) + 1, "image_id": len(images), **annotation})
                targets = [annotation for annotation in found if not annotation["iscrowd"]]
                counts.objects.update(options.class_names[entry["category_id"] - 1] for entry in targets)
                counts.ignored += len(found) - len(targets)
                counts.empty_tiles += not targets
            bar.update()
    counts.tiles = len(images)
    categories = [{"id": number, "name": name} for number, name in enumerate(options.class_names, start=1)]
    write_json(ann_file, {"images": images, "annotations": annotations, "categories": categories})
    return counts


def _run(pairs, out_dir, options, workers):
    if workers == 1:
        yield from (split_scene(scene, label, out_dir, options) for scene, label in pairs)
        return
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        jobs = [pool.submit(split_scene, scene, label, out_dir, options) for scene, label in pairs]
        try:
            yield from (job.result() for job in jobs)
        finally:
            for job in jobs:
                job.cancel()
