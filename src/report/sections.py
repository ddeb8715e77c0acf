"""The parts of a report as HTML text: small functions from data to text. All names are escaped."""

import math
from collections.abc import Sequence
from html import escape
from itertools import pairwise

import numpy as np

from ..evaluation.analysis import PAIR_IOU, PairedImage, confusion_matrix, score_thresholds
from ..evaluation.coco_metrics import SIZE_BUCKETS, CocoResult
from ..yolo_dataset import DetectionSet
from .gallery import gallery
from .history import EpochRow
from .svg import column_chart, line_chart, number_text

_CROWDS = (1, 6, 21, 51, 101, 201, 501)  # first counts of the ranges of objects an image


def section(name: str, title: str, body: str) -> str:
    """A part of the page with a heading that the page's links lead to."""
    return f'<section id="{escape(name)}"><h2>{escape(title)}</h2>{body}</section>'


def table(head: Sequence[str], rows: Sequence[Sequence[str]], keys: Sequence[int | str] | None = None) -> str:
    """A table of escaped text; the first column is left-aligned. `keys` are classes for the page's filter."""
    heading = "".join(f"<th>{escape(cell)}</th>" for cell in head)
    lines = []
    for number, row in enumerate(rows):
        key = f' data-class="{keys[number]}"' if keys is not None else ""
        lines.append(f"<tr{key}>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>")
    return f'<div class="wide"><table><thead><tr>{heading}</tr></thead><tbody>{"".join(lines)}</tbody></table></div>'


def chart(title: str, svg: str, note: str = "") -> str:
    """A chart under its title, with a note below."""
    foot = f"<small>{escape(note)}</small>" if note else ""
    return f'<div class="card"><h3>{escape(title)}</h3>{svg}{foot}</div>'


def headline(facts: Sequence[tuple[str, str]]) -> str:
    """Numbers in large letters, each over what it is."""
    cells = "".join(
        f"<div><b>{escape(value)}</b><small>{escape(name)}</small></div>" for name, value in facts
    )
    return f'<div class="facts">{cells}</div>'


def curves(rows: Sequence[EpochRow]) -> str:
    """Loss and its parts, learning rate, AP and speed over the epochs, and all of it as a table."""

    def over_epochs(title: str, *series: tuple[str, str], note: str = "") -> str:
        lines = [(name, [(row.epoch, getattr(row, field)) for row in rows]) for name, field in series]
        return chart(title, line_chart(lines, title=title, x_label="epoch", whole_x=True), note)

    charts = [
        over_epochs("Loss", ("total", "loss"), ("box", "box"), ("objectness", "objectness"), ("class", "class_loss"),
                    note="Mean over the steps of an epoch."),
        over_epochs("AP on the validation set", ("AP, IoU 0.50:0.95", "ap"), ("mAP@0.5", "ap50")),
        over_epochs("Learning rate", ("rate of an epoch's last step", "lr")),
        over_epochs("Speed", ("images a second, training alone", "pictures_per_second")),
    ]  # fmt: skip
    head = (
        "epoch", "step", "loss", "box", "objectness", "class", "learning rate", "AP", "mAP@0.5",
        "images/s", "seconds",
    )  # fmt: skip
    cells = [
        [
            str(row.epoch), str(row.step), *(f"{part:.2f}" for part in (row.loss, row.box, row.objectness)),
            f"{row.class_loss:.2f}", number_text(row.lr), *map(_share, (row.ap, row.ap50)),
            f"{row.pictures_per_second:.2f}", f"{row.seconds:.1f}",
        ]
        for row in rows
    ]  # fmt: skip
    every = f"<details><summary>all epochs</summary>{table(head, cells)}</details>"
    return f'<div class="cards two">{"".join(charts)}</div>{every}'


def _share(value: float) -> str:
    """A number between 0 and 1; nothing where there is none (NaN, or COCO's -1)."""
    return "" if math.isnan(value) or value < 0 else f"{value:.3f}"


def classes(result: CocoResult) -> str:
    """AP, AR, best F1 with its score threshold, and the precision-recall curve of each class."""
    present = [(number, entry) for number, entry in enumerate(result.classes) if entry.objects]
    recalls = np.linspace(0, 1, 101)
    series = [
        (f"{entry.name} {entry.ap50:.3f}", list(zip(recalls, entry.curve)))
        for _, entry in present
        if entry.curve
    ]
    head = ("class", "objects", "AP", "AP at 0.5", "AR", "best F1", "at score")
    cells = [
        [entry.name, str(entry.objects), *map(_share, (entry.ap, entry.ap50, entry.recall, entry.best_f1)),
         f"{entry.best_threshold:.3f}" if entry.best_f1 > 0 else ""]
        for _, entry in present
    ]  # fmt: skip
    body = table(head, cells, [number for number, _ in present])
    absent = [entry.name for entry in result.classes if not entry.objects]
    if absent:
        body += f"<p><small>Without ground truth, not in the mean: {escape(', '.join(absent))}</small></p>"
    plot = line_chart(
        series, title="Precision over recall", x_label="recall", y_range=(0, 1), x_range=(0, 1),
        keys=[number for number, entry in present if entry.curve],
    )  # fmt: skip
    note = "Precision over recall at IoU 0.5, up to 100 detections an image and class; its mean is AP at 0.5."
    return f'<div class="cards two">{chart("Precision and recall", plot, note)}<div class="card">{body}</div></div>'


def confusion(matrix: np.ndarray, class_names: Sequence[str]) -> str:
    """The confusion matrix of classes that occur, as a table; the shade is the share of the row."""
    count = len(class_names)
    shown = [number for number in range(count) if matrix[number].any() or matrix[:, number].any()] + [count]
    names = [*class_names, "background"]
    head = "".join(f'<th><span class="turned">{escape(names[number])}</span></th>' for number in shown)
    rows = []
    for row in shown:
        total = int(matrix[row].sum())
        cells = []
        for column in shown:
            value = int(matrix[row, column])
            share = value / total if total else 0.0
            kind = "right" if row == column else "mistake"
            title = f"{names[row]} as {names[column]}: {value}, {share:.0%} of the row"
            cells.append(
                f'<td class="{kind}" style="--share:{share:.3f}" title="{escape(title)}">{value or ""}</td>'
            )
        rows.append(f"<tr><th>{escape(names[row])}</th>{''.join(cells)}</tr>")
    note = (
        "Row: the object's class. Column: the detection's. Last column: objects missed; last row: detections where "
        f"there is no object. Detections from each class's score of the best F1 on, paired at IoU {PAIR_IOU}."
    )
    return (
        f'<div class="wide"><table class="matrix"><thead><tr><th></th>{head}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div><small>{note}</small>"
    )


def sizes(result: CocoResult) -> str:
    """AP at IoU 0.5 of the size buckets."""
    names = [entry.name for entry in result.sizes]
    values = [entry.ap50 if entry.objects else math.nan for entry in result.sizes]
    plot = column_chart(
        names,
        values,
        title="AP at IoU 0.5 by size",
        x_label="side of the object in pixels (root of its area)",
    )
    cells = [[entry.name, str(entry.objects), _share(entry.ap50)] for entry in result.sizes]
    body = table(("side in pixels", "objects", "AP at 0.5"), cells)
    note = (
        f"Mean over the classes with objects of the size, up to {result.max_detections} detections an image and "
        "class. COCO's small, medium and large part at 32 and 96 pixels; aerial objects want finer steps."
    )
    return f'<div class="cards two">{chart("AP at IoU 0.5 by size", plot, note)}<div class="card">{body}</div></div>'


def data(sets: Sequence[tuple[str, DetectionSet]]) -> str:
    """Statistics of the sets: images, objects a class, sizes, objects an image."""
    names = sets[0][1].class_names
    counts = {title: object_counts(dataset) for title, dataset in sets}
    rows = [
        [name, *(str(int(counts[title][number])) for title, _ in sets)] for number, name in enumerate(names)
    ]
    rows.append(["all", *(str(int(counts[title].sum())) for title, _ in sets)])
    keys = [*range(len(names)), "all"]
    parts = [
        f'<div class="card"><h3>Objects</h3>{table(("class", *(title for title, _ in sets)), rows, keys)}</div>'
    ]
    for title, dataset in sets:
        sized, crowds = size_counts(dataset), crowd_counts(dataset)
        parts.append(
            chart(
                f"Sizes, {title}",
                column_chart(
                    list(sized), list(sized.values()), title="objects by size", x_label="side in pixels"
                ),
                dataset.describe(),
            )
        )
        parts.append(
            chart(
                f"Objects an image, {title}",
                column_chart(
                    list(crowds), list(crowds.values()), title="images by objects", x_label="objects"
                ),
                f"images with so many objects; at most {max(len(record.boxes) for record in dataset.records)}",
            )
        )
    return f'<div class="cards">{"".join(parts)}</div>'


def object_counts(dataset: DetectionSet) -> np.ndarray:
    """(classes,) objects of each class."""
    return np.bincount(
        np.concatenate([record.classes for record in dataset.records]), minlength=len(dataset.class_names)
    )


def size_counts(dataset: DetectionSet) -> dict[str, int]:
    """Objects in each of `SIZE_BUCKETS`, a side on a border in the larger one."""
    boxes = np.concatenate([record.boxes for record in dataset.records]).astype(np.float64)
    areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    borders = [high for _, high in list(SIZE_BUCKETS.values())[:-1]]
    found = np.bincount(np.searchsorted(borders, areas, side="right"), minlength=len(SIZE_BUCKETS))
    return dict(zip(SIZE_BUCKETS, found.tolist()))


def crowd_counts(dataset: DetectionSet) -> dict[str, int]:
    """Images with 0, 1 to 5, ... objects."""
    crowds = [len(record.boxes) for record in dataset.records]
    found = np.bincount(np.searchsorted(_CROWDS, crowds, side="right"), minlength=len(_CROWDS) + 1)
    names = ["0", *(f"{low}-{high - 1}" for low, high in pairwise(_CROWDS)), f"{_CROWDS[-1]}+"]
    return dict(zip(names, found.tolist()))


def evaluation(result: CocoResult, images: list[PairedImage], class_names: tuple[str, ...]) -> str:
    """All that an evaluation tells: classes, sizes, confusion and images.

    `images` are paired from `score_thresholds(result)` on.
    """
    matrix = confusion_matrix(images, len(class_names))
    kinds = "".join(
        f'<option value="{kind}">{text}</option>'
        for kind, text in (
            ("", "all"), ("best", "best"), ("worst", "worst"), ("crowded", "most crowded"),
            ("class", "further classes"),
        )
    )  # fmt: skip
    thresholds = ", ".join(
        f"{name} {score:.2f}" for name, score in zip(class_names, score_thresholds(result))
    )
    note = (
        "Dashed: an object missed, a detection wrong. Detections from each class's score of the best F1 on, "
        "0.30 where nothing was found."
    )
    return (
        section("classes", "Classes", classes(result))
        + section("sizes", "Sizes", sizes(result))
        + section("confusion", "Confusion", confusion(matrix, class_names))
        + section(
            "pictures", "Pictures",
            f'<p><label>show <select id="kind">{kinds}</select></label> <span id="shown"></span></p>'
            f'<p><small title="{escape(thresholds)}">{note}</small></p>{gallery(images, class_names)}',
        )
    )  # fmt: skip
