"""What a network said of a batch of images, whatever its file gives, on the way to detections.

A network is run by one thread and its answer worked out by another beside it (`src.detect.detections`), so a backend
gives an answer that becomes detections when it is asked.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from .postprocess import Detections, PostprocessOptions, finish, postprocess


class Prediction(Protocol):
    """The network's answer for a batch."""

    def detections(
        self, image_wh: Iterable, geometry: Iterable, options: PostprocessOptions
    ) -> list[Detections]:
        """Detections of the batch's first images.

        Args:
            image_wh: width and height of each image.
            geometry: with `inverse` from pixels of the input to those of each image.
            options: thresholds.
        """


@dataclass(frozen=True)
class DecodedMaps:
    """Decoded maps (N, H, W, 3, 5 + C), boxes x y w h as shares of the input of (height, width) `input_hw`."""

    maps: list[np.ndarray]
    input_hw: tuple[int, int]

    def detections(self, image_wh, geometry, options: PostprocessOptions) -> list[Detections]:
        """See `Prediction`."""
        return [
            postprocess([level[row] for level in self.maps], wh, options, place, self.input_hw)
            for row, (wh, place) in enumerate(zip(image_wh, geometry))
        ]


@dataclass(frozen=True)
class FinalBoxes:
    """Boxes that a file has suppressed itself: (n, 6) x1 y1 x2 y2 in input pixels, score, class, for each image."""

    tables: list[np.ndarray]

    def detections(self, image_wh, geometry, options: PostprocessOptions) -> list[Detections]:
        """See `Prediction`; suppressed again only where the threshold is below 1."""
        return [
            self._of_image(table, wh, place, options)
            for table, wh, place in zip(self.tables, image_wh, geometry)
        ]

    @staticmethod
    def _of_image(table: np.ndarray, image_wh, geometry, options: PostprocessOptions) -> Detections:
        table = table[table[:, 4] >= options.score_threshold]
        table = table[np.argsort(-table[:, 4], kind="stable")][: options.max_candidates]
        boxes = geometry.inverse(table[:, :4].astype(np.float32))
        return finish(boxes, table[:, 4], table[:, 5].astype(np.int32), image_wh, options)


class MapBackend:
    """A backend (`src.detect.backends.Backend`) whose network gives decoded maps."""

    def predict(self, images: np.ndarray) -> list[np.ndarray]:
        """Decoded maps, (N, H, W, 3, 5 + classes) each, boxes x y w h in 0..1, of (N, 3, H, W) uint8 RGB."""
        raise NotImplementedError

    def detect(self, images: np.ndarray) -> Prediction:
        """See `Backend`."""
        return DecodedMaps(self.predict(images), images.shape[2:])
