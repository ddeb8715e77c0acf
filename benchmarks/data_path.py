"""How fast images are read and augmented by threads and by processes, and how long each holds Python's global lock.

    python -m benchmarks.data_path [--seconds 10] [--py_spy /path/to/py-spy] [--out FILE.json]

The images are drawn 600 x 600 tiles, augmented as in `configs/dota_yolov4.yaml` (mosaics of four in every second
sample, 416 to 736) in batches of 8; nothing trains. Each line is a process of its own, or several. py-spy
(`pip install py-spy`, in any environment) samples who holds the lock; without it those columns stay empty. The lock
held for t ms an image lets one process give at most 1000 / t images a second, however many threads and cores it has.
"""

import argparse
import itertools
import json
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np

from benchmarks.machine import load_average
from src.base.atomic import write_json
from src.config import load_config
from src.data_loader import TrainLoader
from src.distributed_sampler import DistributedSampler
from src.transforms import TrainAugment
from src.yolo_dataset import load_detection_set

ROOT = Path(__file__).resolve().parent.parent
RECIPE = ROOT / "configs/dota_yolov4.yaml"
THREADS, PROCESSES = (1, 2, 4, 8), (1, 2, 4)
TILES, SIDE, BOXES = 24, 600, 100
_SAMPLES = 500  # of the lock, a second


@dataclass(frozen=True)
class Feed:
    """What one arrangement gave.

    Attributes:
        processes: side by side.
        threads: of each.
        rate: images a second, of all.
        processor: milliseconds of a core an image.
        held: share of the time in which a process's lock was held; None without py-spy.
        lock: milliseconds an image for which it was held.
    """

    processes: int
    threads: int
    rate: float
    processor: float
    held: float | None
    lock: float | None


def write_tiles(folder: Path) -> None:
    """Drawn tiles and an annotation file with random boxes."""
    from src.commands.make_sample import write_scene

    for name in ("images", "labelTxt"):
        (folder / name).mkdir(parents=True)
    rng = np.random.default_rng(0)
    images, annotations = [], []
    for number in range(TILES):
        write_scene(folder, SIDE, number, 100 + number)
        images.append({"id": number, "file_name": f"S{number:04d}.png", "width": SIDE, "height": SIDE})
        for _ in range(BOXES):
            box = [*rng.uniform(0, SIDE - 60, 2).tolist(), *rng.uniform(8, 60, 2).tolist()]
            annotations.append({"id": len(annotations), "image_id": number, "category_id": 1, "bbox": box})
    categories = [{"id": 1, "name": "plane"}]
    document = {"images": images, "annotations": annotations, "categories": categories}
    (folder / "train.json").write_text(json.dumps(document))


def feed(folder: Path, threads: int, seconds: float) -> None:
    """Take batches for so long; a line when the first is there, and one of JSON at the end."""
    config = load_config([f"--config_path={RECIPE}"])
    dataset = load_detection_set(folder / "images", folder / "train.json", config.labels)
    loader = TrainLoader(
        dataset,
        DistributedSampler(len(dataset.records)),
        TrainAugment(mosaic=config.mosaic),
        batch_size=config.per_batch_size,
        shapes=config.train_shapes,
        resize_rate=1,
        max_box=config.max_box,
        seed=0,
        workers=threads,
    )
    batches = (batch for epoch in itertools.count() for batch in loader.epoch(epoch))
    next(batches)
    print("ready", flush=True)
    started, processor, images = time.perf_counter(), time.process_time(), 0
    while time.perf_counter() - started < seconds:
        images += len(next(batches).paths)
    passed = time.perf_counter() - started
    found = {"images": images, "seconds": passed, "processor": time.process_time() - processor}
    print(json.dumps(found), flush=True)
    batches.close()


def measure(folder: Path, processes: int, threads: int, seconds: float, py_spy: str) -> Feed:
    """Start the processes, sample the lock of the first, and add up what they gave."""
    words = [f"--feed={folder}", f"--threads={threads}", f"--seconds={seconds}"]
    children = [
        subprocess.Popen(
            [sys.executable, "-m", "benchmarks.data_path", *words],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(processes)
    ]
    for child in children:
        child.stdout.readline()
    held = lock_share(py_spy, children[0].pid, seconds, folder / "stacks.txt") if py_spy else None
    found = [json.loads(child.communicate()[0].splitlines()[-1]) for child in children]
    rate = sum(entry["images"] / entry["seconds"] for entry in found)
    processor = sum(entry["processor"] for entry in found) / sum(entry["images"] for entry in found)
    lock = None if held is None else 1000 * held * found[0]["seconds"] / found[0]["images"]
    return Feed(processes, threads, rate, 1000 * processor, held, lock)


def lock_share(py_spy: str, process: int, seconds: float, stacks: Path) -> float:
    """Share of the samples in which a thread of the process held the lock."""
    whole = max(1, int(seconds) - 1)
    subprocess.run(
        [py_spy, "record", "--gil", "--nonblocking", "--pid", str(process), "--duration", str(whole),
         "--rate", str(_SAMPLES), "--format", "raw", "--output", str(stacks)],
        check=True, capture_output=True,
    )  # fmt: skip
    counts = [int(line.rsplit(" ", 1)[1]) for line in stacks.read_text().splitlines()]
    return sum(counts) / (whole * _SAMPLES)


def line(found: Feed) -> str:
    """A row of the table."""
    cells = [found.processes, found.threads, f"{found.rate:.1f}", f"{found.processor:.1f}"]
    if found.held is None:
        cells += ["-", "-", "-"]
    else:
        cells += [f"{found.held:.0%}", f"{found.lock:.1f}", f"{1000 / max(found.lock, 1e-3):.0f}"]
    return f"| {' | '.join(map(str, cells))} |"


def main(argv: list[str] | None = None) -> int:
    """Measure each arrangement and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=10, help="of each line")
    parser.add_argument("--py_spy", default="", help="the program py-spy; empty: the lock is not sampled")
    parser.add_argument("--out", type=Path, help="JSON file of the results")
    parser.add_argument("--feed", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--threads", type=int, default=1, help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    if options.feed:
        feed(options.feed, options.threads, options.seconds)
        return 0
    print(f"load at the start {load_average()}")
    print(
        "| processes | threads of each | images/s | core ms an image | lock held | lock ms an image | images/s by it |"
    )
    print("| --- | --- | --- | --- | --- | --- | --- |")
    rows = []
    with tempfile.TemporaryDirectory(prefix="data-path-") as name:
        write_tiles(Path(name))
        for processes, threads in [
            *((1, threads) for threads in THREADS),
            *((each, 1) for each in PROCESSES[1:]),
        ]:
            rows.append(measure(Path(name), processes, threads, options.seconds, options.py_spy))
            print(line(rows[-1]), flush=True)
    print(f"load at the end {load_average()}")
    if options.out:
        write_json(options.out, [asdict(row) for row in rows], indent=1)
    return 0


if __name__ == "__main__":
    sys.exit(main())
