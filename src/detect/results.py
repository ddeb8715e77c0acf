"""Files of detections: JSON by image, CSV by box, or a COCO result file."""

import csv
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..base.atomic import atomic_write, write_json
from ..base.errors import UserError
from ..base.foreign_text import cell
from .detections import DETECTION, to_table, write_coco_json
from .postprocess import Detections


@dataclass(frozen=True)
class ImageDetections:
    """What was found in an image, in its own pixels."""

    path: Path
    width: int
    height: int
    found: Detections


def write_results(
    folder: Path, results: Sequence[ImageDetections], class_names: Sequence[str], formats: Sequence[str]
) -> list[Path]:
    """Write `detections.json`, `.csv` or COCO's `detections_coco.json` with `images.json`; the files.

    Raises:
        UserError: an unknown format, or a full disk.
    """
    files = []
    for name in formats:
        if name not in FORMATS:
            raise UserError(f"result_format: {name!r} is not one of {', '.join(FORMATS)}")
        files.append(FORMATS[name](folder, results, class_names))
    return files


def _write_json(folder: Path, results, class_names) -> Path:
    target = folder / "detections.json"
    document = [
        {
            "file": str(result.path),
            "width": result.width,
            "height": result.height,
            "detections": [
                {
                    "class": class_names[label],
                    "score": round(score, 6),
                    "box": [round(side, 3) for side in box],
                }
                for box, score, label in _rows(result.found)
            ],
        }
        for result in results
    ]
    write_json(target, document)
    return target


def _write_csv(folder: Path, results, class_names) -> Path:
    target = folder / "detections.csv"
    with atomic_write(target) as handle:
        writer = csv.writer(handle, lineterminator="\n")
        writer.writerow(["file", "class", "score", "x1", "y1", "x2", "y2"])
        for result in results:
            for box, score, label in _rows(result.found):
                corners = [f"{side:.3f}" for side in box]
                writer.writerow([cell(result.path), cell(class_names[label]), f"{score:.6f}", *corners])
    return target


def _write_coco(folder: Path, results, class_names) -> Path:
    """Ids count from 1; `images.json` has the images and categories that they mean."""
    target = folder / "detections_coco.json"
    category_ids = tuple(range(1, len(class_names) + 1))
    tables = [to_table(number, result.found, category_ids) for number, result in enumerate(results, start=1)]
    write_coco_json(target, np.concatenate([np.empty(0, DETECTION), *tables]))
    images = [
        {"id": number, "file_name": str(result.path), "width": result.width, "height": result.height}
        for number, result in enumerate(results, start=1)
    ]
    categories = [{"id": number, "name": name} for number, name in zip(category_ids, class_names)]
    write_json(folder / "images.json", {"images": images, "annotations": [], "categories": categories})
    return target


def _rows(found: Detections) -> zip:
    return zip(found.boxes.tolist(), found.scores.tolist(), found.classes.tolist())


FORMATS: dict[str, Callable[..., Path]] = {"json": _write_json, "csv": _write_csv, "coco": _write_coco}
