"""The method of the published augmentation and post-processing, written from its description, for the benchmark.

Augmentation: PIL resize of the whole image to its random size, pasted on a grey canvas; flip; colours through
float HSV of every pixel; mean and deviation on the host. Post-processing: a Python loop over all boxes of all heads
that fills a list a class, then greedy DIoU suppression a class.
"""

import numpy as np
from PIL import Image

from benchmarks.peers.serve import Case, serve

MEAN, STD = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])


def rgb_to_hsv(rgb: np.ndarray) -> np.ndarray:
    """(H, W, 3) in 0..1, both; hue as share of the circle."""
    high, low = rgb.max(-1), rgb.min(-1)
    spread = high - low
    safe = np.where(spread == 0, 1, spread)
    r, g, b = np.moveaxis(rgb, -1, 0)
    sector = np.select(
        [spread == 0, high == r, high == g], [0, (g - b) / safe % 6, (b - r) / safe + 2], (r - g) / safe + 4
    )
    return np.stack([sector / 6, np.where(high == 0, 0, spread / np.where(high == 0, 1, high)), high], -1)


def hsv_to_rgb(hsv: np.ndarray) -> np.ndarray:
    """Inverse of `rgb_to_hsv`."""
    hue, saturation, value = np.moveaxis(hsv, -1, 0)
    shift = np.array([5, 3, 1])
    k = (shift + hue[..., None] * 6) % 6
    return value[..., None] * (1 - saturation[..., None] * np.clip(np.minimum(k, 4 - k), 0, 1))


def augment(
    image: np.ndarray, boxes: np.ndarray, rng: np.random.Generator, size: int
) -> tuple[np.ndarray, np.ndarray]:
    """An image (H, W, 3) uint8 with boxes (n, 5) to the network's input (3, size, size) float32 and its boxes."""
    height, width = image.shape[:2]
    for _ in range(10):
        aspect = rng.uniform(0.7, 1.3) / rng.uniform(0.7, 1.3)
        scale = rng.uniform(0.25, 2)
        new_w, new_h = (int(scale * size * aspect), int(scale * size)) if aspect < 1 else (
            int(scale * size), int(scale * size / aspect)
        )  # fmt: skip
        dx = int(rng.uniform(min(0, size - new_w), max(0, size - new_w)))
        dy = int(rng.uniform(min(0, size - new_h), max(0, size - new_h)))
        placed = boxes.copy()
        placed[:, [0, 2]] = boxes[:, [0, 2]] * new_w / width + dx
        placed[:, [1, 3]] = boxes[:, [1, 3]] * new_h / height + dy
        centres = (placed[:, :2] + placed[:, 2:4]) / 2
        placed[:, :4] = placed[:, :4].clip(0, size)
        sides = placed[:, 2:4] - placed[:, :2]
        placed = placed[((centres >= 0) & (centres < size) & (sides > 1)).all(1)]
        if len(placed) or not len(boxes):
            break
    resized = Image.fromarray(image).resize((max(1, new_w), max(1, new_h)), Image.Resampling.BICUBIC)
    canvas = Image.new("RGB", (size, size), (128, 128, 128))
    canvas.paste(resized, (dx, dy))
    if rng.random() < 0.5:
        canvas = canvas.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        placed[:, [0, 2]] = size - placed[:, [2, 0]]
    hue = rng.uniform(-0.1, 0.1)
    saturation, value = (
        factor if rng.random() < 0.5 else 1 / factor for factor in (rng.uniform(1, 1.5), rng.uniform(1, 1.5))
    )
    hsv = rgb_to_hsv(np.asarray(canvas, np.float32) / 255)
    hsv[..., 0] = (hsv[..., 0] + hue) % 1
    hsv[..., 1] = (hsv[..., 1] * saturation).clip(0, 1)
    hsv[..., 2] = (hsv[..., 2] * value).clip(0, 1)
    normalised = (hsv_to_rgb(hsv) - MEAN) / STD
    return np.ascontiguousarray(normalised.transpose(2, 0, 1), np.float32), placed


def detect(maps: list[np.ndarray], width: int, height: int, score_threshold: float, nms_threshold: float):
    """Detections of one image.

    Args:
        maps: decoded maps (H, W, 3, 5 + C), boxes x y w h as shares of the input.
        width, height: of the image.
        score_threshold: lowest objectness x class probability.
        nms_threshold: DIoU above which the lower box of a class is dropped.

    Returns:
        Rows [class, x, y, w, h, score] in image pixels.
    """
    by_class: dict[int, list] = {}
    for level in maps:
        for row in level.reshape(-1, level.shape[-1]):
            label = int(row[5:].argmax())
            score = float(row[4] * row[5 + label])
            if score < score_threshold:
                continue
            x, y, w, h = row[0] * width, row[1] * height, row[2] * width, row[3] * height
            left, top = max(0.0, float(x - w / 2)), max(0.0, float(y - h / 2))
            w, h = min(float(x + w / 2) - left, float(width)), min(float(y + h / 2) - top, float(height))
            if w > 0 and h > 0:
                by_class.setdefault(label, []).append([left, top, w, h, score])
    found = []
    for label, rows in by_class.items():
        rows = np.array(rows)
        found += [[label, *rows[index]] for index in diou_nms(rows, nms_threshold)]
    return found


def diou_nms(rows: np.ndarray, threshold: float) -> list[int]:
    """Greedy suppression of (n, 5) x y w h score, sides counted as w + 1 and h + 1; indices kept, best first."""
    x1, y1 = rows[:, 0], rows[:, 1]
    x2, y2 = x1 + rows[:, 2], y1 + rows[:, 3]
    area = (x2 - x1 + 1) * (y2 - y1 + 1)
    order = np.argsort(-rows[:, 4], kind="stable")
    kept = []
    while order.size:
        best, rest = order[0], order[1:]
        kept.append(int(best))
        w = np.maximum(0, np.minimum(x2[best], x2[rest]) - np.maximum(x1[best], x1[rest]) + 1)
        h = np.maximum(0, np.minimum(y2[best], y2[rest]) - np.maximum(y1[best], y1[rest]) + 1)
        overlap = w * h / (area[best] + area[rest] - w * h)
        centres = ((x1[best] + x2[best] - x1[rest] - x2[rest]) ** 2) / 4
        centres = centres + ((y1[best] + y2[best] - y1[rest] - y2[rest]) ** 2) / 4
        hull = (np.maximum(x2[best], x2[rest]) - np.minimum(x1[best], x1[rest])) ** 2
        hull = hull + (np.maximum(y2[best], y2[rest]) - np.minimum(y1[best], y1[rest])) ** 2
        order = rest[overlap - centres / hull <= threshold]
    return kept


def augment_case(size: int, data: str, images: int) -> Case:
    """So many times a file's image, one after the other."""
    arrays = np.load(data)
    image, boxes = arrays["image"], arrays["boxes"]
    rng = np.random.default_rng(0)

    def run() -> None:
        for _ in range(images):
            augment(image, boxes, rng, size)

    return {"augment": run}, {}


def detect_case(data: str, size: int) -> Case:
    """One image's decoded maps of a file, of as many pixels as the input."""
    arrays = np.load(data)
    runs = {}
    for kind in ("trained", "untrained"):
        maps = [arrays[f"{kind}{level}"] for level in range(3)]
        runs[kind] = lambda maps=maps: len(detect(maps, size, size, 0.001, 0.6))
    return runs, {}


if __name__ == "__main__":
    serve({"augment": augment_case, "detect": detect_case})
