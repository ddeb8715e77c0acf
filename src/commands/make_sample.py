"""Draw a sample of aerial scenes in DOTA's format: OUT/{train,val}/{images,labelTxt}."""

import argparse
import contextlib
import os
import re
import sys
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path

from ..base.errors import UserError
from ..datasets.dota_labels import write_labels
from ..datasets.sample.scenes import draw_scene
from ..imaging.image_io import write_image
from ..logger import progress_bar

VAL_SEEDS = 1_000_000  # keeps the seeds of held-out scenes apart from those of training scenes


def write_scene(folder: Path, size: int, number: int, seed: int) -> Counter:
    """Draw one scene into folder/images and folder/labelTxt; objects by class."""
    image, labels = draw_scene(seed, size)
    write_image(folder / "images" / f"S{number:04d}.png", image)
    write_labels(folder / "labelTxt" / f"S{number:04d}.txt", labels, gsd=0.18)
    return Counter(entry.name for entry in labels)


def make_sample(out: Path, train_scenes: int, val_scenes: int, seed: int, size: int, workers: int) -> None:
    """Draw both splits and print what they hold."""
    for split, count, first in (("train", train_scenes, 0), ("val", val_scenes, VAL_SEEDS)):
        folder = out / split
        for name in ("images", "labelTxt"):
            (folder / name).mkdir(parents=True, exist_ok=True)
        seeds = [first + 1000 * seed + number for number in range(count)]
        totals: Counter = Counter()
        context = get_context("spawn")
        with (
            ProcessPoolExecutor(workers, mp_context=context) as pool,
            progress_bar(count, split, "scene") as bar,
        ):
            for found in pool.map(partial(write_scene, folder, size), range(count), seeds):
                totals.update(found)
                bar.update()
        print(f"{split}: {count} scenes of {size}x{size}, {sum(totals.values())} objects")
        for name, number in totals.most_common():
            print(f"  {name:<20} {number}")


def remove_sample(folder: Path) -> None:
    """Remove the scenes and labels of an earlier sample, and the folders that are empty then; all else stays."""
    for name, ending in (("images", "png"), ("labelTxt", "txt")):
        for file in (folder / name).glob(f"S*.{ending}"):
            if re.fullmatch(r"S[0-9]{4,}", file.stem):
                file.unlink()
    for place in (folder / "images", folder / "labelTxt", folder):
        with contextlib.suppress(OSError):  # holds what others made, or is not there
            place.rmdir()


def main(argv: list[str] | None = None) -> int:
    """Parse the options and draw; the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument(
        "--out", type=Path, required=True, default=argparse.SUPPRESS, help="folder of the sample"
    )
    parser.add_argument("--train_scenes", type=int, default=48, help="scenes to train on")
    parser.add_argument("--val_scenes", type=int, default=12, help="held-out scenes")
    parser.add_argument("--size", type=int, default=1080, help="side of a scene in pixels")
    parser.add_argument("--seed", type=int, default=1, help="another seed draws other scenes")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="processes")
    parser.add_argument("--overwrite", action="store_true", help="replace an earlier sample in OUT")
    args = parser.parse_args(argv)
    if min(args.train_scenes, args.val_scenes, args.workers) < 1 or args.size < 300 or args.seed < 0:
        parser.error("at least one scene of each split, one worker, size >= 300 and seed >= 0 are needed")
    try:
        for split in ("train", "val"):
            if (args.out / split).exists():
                if not args.overwrite:
                    raise UserError(f"--out: {args.out / split} is there already; --overwrite replaces it")
                remove_sample(args.out / split)
        make_sample(args.out, args.train_scenes, args.val_scenes, args.seed, args.size, args.workers)
    except (UserError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0
