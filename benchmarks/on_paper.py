"""On paper: what data-parallel training on many cards moves and needs, and where it stops scaling.

    python -m benchmarks.on_paper --step_seconds 0.25 [--cards 8,64] [--batch 8] [--size 608]

Only two figures are measured, both here: the time of a core for an image (read, augment, planes) and the size of a
tile's file. The step's time on the cards must be given: there is no card here. Everything else is counted: images
travel as uint8, boxes as float32, gradients as float32 by a ring (each card sends and receives 2 (n - 1) / n of them).
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from src.commands.make_sample import write_scene
from src.config import load_config
from src.data_loader import planes_first
from src.imaging.image_io import read_rgb
from src.transforms import TrainAugment

GIGA = 1e9
MAX_BOX = load_config([]).max_box


def parameter_count(classes: int, shape: Sequence[int], layers: Sequence[int]) -> tuple[int, int]:
    """Trained values of the network and the number of tensors that hold them.

    Args:
        classes: number of classes.
        shape: channels of the backbone's five stages.
        layers: residual blocks of the stages.
    """
    blocks: list[tuple[int, int, int]] = []  # input channels, output channels, kernel; each with BatchNorm

    def conv(inputs: int, outputs: int, kernel: int = 1) -> int:
        blocks.append((inputs, outputs, kernel))
        return outputs

    stem = conv(3, shape[0] // 2, 3)
    inputs = stem
    for number, (outputs, count) in enumerate(zip(shape, layers)):
        inner, hidden = (outputs, stem) if number == 0 else (outputs // 2, outputs // 2)
        conv(inputs, outputs, 3)
        conv(outputs, inner)
        for _ in range(count):
            conv(inner, hidden)
            conv(hidden, inner, 3)
        conv(inner, inner)
        conv(outputs, inner)
        inputs = conv(2 * inner, outputs)
    c3, c4, c5 = (channels // 2 for channels in shape[2:])

    def five(inputs: int, channels: int) -> None:
        conv(inputs, channels)
        for _ in range(2):
            conv(channels, 2 * channels, 3)
            conv(2 * channels, channels)

    for before in (2 * c5, 4 * c5):  # in front of the pooling and behind it
        conv(before, c5)
        conv(c5, 2 * c5, 3)
        conv(2 * c5, c5)
    for high, low in ((c5, c4), (c4, c3)):
        conv(high, low)
        conv(2 * low, low)
        five(2 * low, low)
    for low, high in ((c3, c4), (c4, c5)):
        conv(low, high, 3)
        five(2 * high, high)
    heads = [(2 * channels, 3 * (5 + classes)) for channels in (c3, c4, c5)]
    for channels in (c3, c4, c5):
        conv(channels, 2 * channels, 3)
    values = sum(i * o * k * k + 2 * o for i, o, k in blocks) + sum(i * o + o for i, o in heads)
    return values, 3 * len(blocks) + 2 * len(heads)


def host_bytes(batch: int, size: int, max_box: int) -> int:
    """Bytes from a host to one card in a step: uint8 images and float32 boxes."""
    return batch * (3 * size * size + max_box * 5 * 4)


def ring_bytes(values: int, cards: int) -> float:
    """Bytes that each card sends (and as many that it receives) to average float32 gradients by a ring."""
    return 2 * (cards - 1) / cards * 4 * values


@dataclass(frozen=True)
class Machine:
    """What the cards are attached to.

    Attributes:
        cards_a_host: cards that share a host's cores.
        cores: of a host, for reading and augmenting.
        link: bytes a second that a card sends to its neighbour in the ring, the slowest of them.
        image_seconds: of a core, from file to planes.
        file_bytes: of a tile.
    """

    cards_a_host: int
    cores: int
    link: float
    image_seconds: float
    file_bytes: float


def demands(cards: int, batch: int, size: int, step_seconds: float, values: int, machine: Machine) -> dict:
    """What a step of `step_seconds` needs on so many cards.

    Returns:
        images_a_second (all cards), cores_needed (a host), storage (bytes a second, all cards), to_card (bytes a
        step and card), all_reduce (bytes a step and card), all_reduce_seconds, shortest_fed (shortest step that the
        host's cores can feed), efficiency (share of linear scaling where nothing overlaps).
    """
    on_host = min(cards, machine.cards_a_host)
    images = cards * batch / step_seconds
    exchange = ring_bytes(values, cards) / machine.link
    feed = on_host * batch * machine.image_seconds / machine.cores
    return {
        "images_a_second": images,
        "cores_needed": on_host * batch / step_seconds * machine.image_seconds,
        "storage": images * machine.file_bytes,
        "to_card": host_bytes(batch, size, MAX_BOX),
        "all_reduce": ring_bytes(values, cards),
        "all_reduce_seconds": exchange,
        "shortest_fed": feed,
        "efficiency": step_seconds / max(step_seconds + exchange, feed),
    }


def measure_image(size: int, images: int = 60) -> tuple[float, float]:
    """Processor seconds of one thread for a 600 x 600 PNG tile from file to planes, and the file's bytes."""
    cv2.setNumThreads(1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for kind in ("images", "labelTxt"):
            (folder / kind).mkdir()
        write_scene(folder, 600, 0, 7)
        path = next((folder / "images").iterdir())
        augment, rng = TrainAugment(), np.random.default_rng(0)
        corner = rng.uniform(0, 540, (100, 2))
        boxes = np.concatenate([corner, corner + 30], 1).astype(np.float32)
        classes, planes = np.zeros(100, np.int32), np.empty((3, size, size), np.uint8)
        started = time.thread_time()
        for _ in range(images):
            planes_first(augment(rng, read_rgb(path), boxes, classes, (size, size))[0], planes)
        return (time.thread_time() - started) / images, path.stat().st_size


def report(cards: int, found: dict, step_seconds: float, machine: Machine) -> str:
    """The demands in words, and what ends the scaling."""
    share = found["all_reduce_seconds"] / step_seconds
    hosts = -(-cards // machine.cards_a_host)
    lines = [
        f"{cards} cards on {hosts} host{'s' if hosts > 1 else ''}, a step of {step_seconds:g} s:",
        f"  images: {found['images_a_second']:.0f} a second; a core makes {1 / machine.image_seconds:.0f}, so "
        f"{found['cores_needed']:.0f} of a host's {machine.cores} cores",
        f"  from storage: {found['storage'] / GIGA:.2f} GB/s; host to a card: {found['to_card'] / 1e6:.1f} MB a step, "
        f"{found['to_card'] / step_seconds / GIGA:.3f} GB/s",
        f"  AllReduce: {found['all_reduce'] / 1e6:.0f} MB sent by each card, "
        f"{found['all_reduce_seconds'] * 1000:.0f} ms at {machine.link / GIGA:g} GB/s, {share:.0%} of the step if "
        "nothing overlaps",
        f"  at least {found['efficiency']:.0%} of linear scaling",
        f"  stops scaling: below {found['shortest_fed'] * 1000:.0f} ms a step the cores cannot feed the cards; below "
        f"{found['all_reduce_seconds'] * 1000:.0f} ms the exchange takes longer than the computing",
    ]
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> int:
    """Print the demands of each number of cards."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--step_seconds", type=float, required=True, help="of a step on a card, without exchange"
    )
    parser.add_argument("--cards", default="8,64", help="numbers of cards, separated by commas")
    parser.add_argument("--batch", type=int, default=8, help="images a card and step")
    parser.add_argument("--size", type=int, default=608, help="side of the input")
    parser.add_argument("--classes", type=int, default=16)
    parser.add_argument("--cards_a_host", type=int, default=8)
    parser.add_argument("--cores", type=int, default=96, help="of a host, for the data path")
    parser.add_argument(
        "--link", type=float, default=12.5, help="GB/s between neighbours of the ring (100 Gbit/s)"
    )
    options = parser.parse_args(argv)
    if options.step_seconds <= 0:
        parser.error("--step_seconds must be over 0")
    seconds, size_of_file = measure_image(options.size)
    machine = Machine(options.cards_a_host, options.cores, options.link * GIGA, seconds, size_of_file)
    values, tensors = parameter_count(options.classes, (64, 128, 256, 512, 1024), (1, 2, 8, 8, 4))
    print(
        f"{values / 1e6:.1f} million values in {tensors} tensors, {4 * values / 1e6:.0f} MB of gradients. A "
        f"core of this machine: {seconds * 1000:.1f} ms for an image from a PNG of {size_of_file / 1e3:.0f} KB to "
        f"{options.size}²"
    )
    for cards in map(int, options.cards.split(",")):
        found = demands(cards, options.batch, options.size, options.step_seconds, values, machine)
        print(report(cards, found, options.step_seconds, machine))
    print(
        "What to do there: JPEG tiles (fewer bytes) and more data threads (num_parallel_workers) for the cores; "
        "AllReduce fused into a few large ones that start while the backward pass still runs (MindSpore's "
        "comm_fusion), float16 gradients, or accumulate=2 for half the exchanges, for the links"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
