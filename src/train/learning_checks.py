"""Signs that a training cannot go well, as warnings that a person can act on: before it starts, and on its way."""

from collections import deque
from pathlib import Path

import numpy as np

from ..datasets.check import LOW_RECALL
from ..layers.anchors import SECOND_PASS_OVERLAP, fit_of
from ..yolo_dataset import DetectionSet

EXPLODED = 10.0  # times the median of the loss
_STEPS, _WINDOW = 20, 200  # in a row until it is said; losses that the median is of
_SHOWN = 5


def warnings_before(
    train: DetectionSet,
    validation: DetectionSet | None,
    rates: np.ndarray,
    anchors: np.ndarray,
    input_hw: tuple[int, int],
) -> list[str]:
    """What is odd about a run that is about to start, one line each; none where all is well.

    Args:
        train: the training set.
        validation: the set that is evaluated on the way, if any.
        rates: learning rate of each step.
        anchors: (9, 2) width and height in pixels of the input.
        input_hw: (height, width) of the input, a middle one where there are several.
    """
    found = [
        _unseen_classes(train),
        _misfit(train, anchors, input_hw),
        _zero_rate(rates),
        _evaluates_training_images(train, validation) if validation else "",
    ]
    return [line for line in found if line]


def _unseen_classes(train: DetectionSet) -> str:
    classes = np.concatenate([record.classes for record in train.records])
    counts = np.bincount(classes, minlength=len(train.class_names))
    unseen = [name for name, count in zip(train.class_names, counts) if not count]
    if not unseen:
        return ""
    return (
        f"{train.ann_file}: no objects of {len(unseen)} of {len(counts)} classes ({_some(unseen)}): they cannot be "
        "learned; add some, or take them out of labels"
    )


def _misfit(train: DetectionSet, anchors: np.ndarray, input_hw: tuple[int, int]) -> str:
    counts = [len(record.boxes) for record in train.records]
    boxes = np.concatenate([record.boxes for record in train.records])
    sizes = np.repeat([(record.width, record.height) for record in train.records], counts, axis=0)
    recall = fit_of((boxes[:, 2:] - boxes[:, :2]) / sizes * input_hw[::-1], anchors).recall
    if recall >= LOW_RECALL:
        return ""
    return (
        f"anchor_scales: only {recall:.1%} of the training boxes, in an input of {input_hw[1]}x{input_hw[0]}, overlap "
        f"an anchor by more than {SECOND_PASS_OVERLAP}; utils/make_anchors.py finds anchors for them, smaller tiles "
        "make objects larger"
    )


def _zero_rate(rates: np.ndarray) -> str:
    if rates.any():
        return ""
    return "lr: the learning rate is 0 in every step of this run, nothing will be learned; set lr"


def _evaluates_training_images(train: DetectionSet, validation: DetectionSet) -> str:
    trained = {record.path.resolve() for record in train.records}
    both = [record.path for record in validation.records if record.path.resolve() in trained]
    if Path(train.ann_file).resolve() == Path(validation.ann_file).resolve():
        return (
            f"{train.ann_file}: training and evaluation read the same annotations, so AP says how well images are "
            "remembered; set ann_val_file to a held-out set"
        )
    if not both:
        return ""
    return (
        f"{validation.ann_file}: {len(both)} of its {len(validation.records)} images are trained on too "
        f"({_some([str(path) for path in both])}), so AP is too high; take them out of one of the sets"
    )


def _some(names: list[str]) -> str:
    return ", ".join(names[:_SHOWN]) + (", ..." if len(names) > _SHOWN else "")


class LossWatch:
    """Says once that the loss has exploded: many steps in a row over ten times the median of those before."""

    def __init__(self):
        self.usual: deque[float] = deque(maxlen=_WINDOW)
        self.high, self.said = 0, False

    def update(self, loss: float) -> str:
        """Take the loss of a step; a line to warn with, or nothing."""
        if self.said:
            return ""
        median = float(np.median(self.usual)) if len(self.usual) >= _STEPS else float("inf")
        if loss <= EXPLODED * median:
            self.high = 0
            self.usual.append(loss)
            return ""
        self.high += 1
        if self.high < _STEPS:
            return ""
        self.said = True
        return (
            f"the loss ({loss:.4g}) has been over {EXPLODED:g} times its median ({median:.4g}) for {_STEPS} steps: "
            "training has probably gone astray; stop, go on from a checkpoint before that (resume_yolov4) with a "
            "lower lr, or set clip_norm or warmup_epochs"
        )
