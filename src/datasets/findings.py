"""What can be wrong with a data set: kinds of problems with their remedies, those that were found, and the report."""

from collections import Counter
from dataclasses import dataclass

from ..layers.anchors import SECOND_PASS_OVERLAP


@dataclass(frozen=True)
class Kind:
    """A kind of problem: what it says, what to do, and whether training would stop at it."""

    text: str
    remedy: str
    stops: bool = False


KINDS = {
    "image_entry": Kind("entries of images cannot be used", "correct the annotation file", True),
    "duplicate_image_id": Kind("duplicate image ids", "give each image an id of its own", True),
    "duplicate_file_name": Kind("files are listed twice", "list each once, with all its objects"),
    "category_entry": Kind("categories cannot be used", "give each a name and a whole id of its own", True),
    "unknown_label": Kind("categories are not in labels", "set labels to your classes", True),
    "annotation_entry": Kind("annotations cannot be used", "correct the annotation file", True),
    "duplicate_annotation_id": Kind("duplicate annotation ids", "number the annotations anew"),
    "unknown_image": Kind("annotations name an image that is not listed", "list it or remove them", True),
    "unknown_category": Kind(
        "annotations name a category that is not listed", "list it or remove them", True
    ),
    "box_not_finite": Kind("boxes are not finite", "correct them; training leaves them out"),
    "box_without_area": Kind(
        "boxes have no area or a negative side", "correct them; training leaves them out"
    ),
    "box_outside": Kind("boxes lie outside their image", "correct them; training leaves them out"),
    "box_cut": Kind("boxes reach over their image's border", "correct them; training clips them"),
    "box_twice": Kind("duplicate boxes of the same class", "remove one of each"),
    "box_tiny": Kind("boxes are tiny in the network's input", "cut smaller tiles or train on a larger input"),
    "missing_file": Kind("images are missing", "copy them, or remove them from the annotations", True),
    "unlisted_file": Kind(
        "images are in no annotation file", "annotate or remove them; training ignores them"
    ),
    "unreadable_picture": Kind("images cannot be read", "replace them or remove them", True),
    "size_differs": Kind("images have another size than annotated", "correct width and height", True),
    "duplicate_picture": Kind("images have the same content", "keep one of each"),
    "train_in_val": Kind("images of val are in train too", "move them: a score on them says nothing"),
    "class_without_objects": Kind("classes have no objects", "add some, or take the class out of labels"),
    "crowded_picture": Kind(
        "images hold more objects than max_box", "raise max_box; training draws so many of them"
    ),
    "anchors_misfit": Kind(
        "sets have boxes that no anchor fits", "utils/make_anchors.py finds better anchors"
    ),
    "no_objects": Kind("sets have no objects", "check that the annotations are those of the images", True),
}


class Findings:
    """Problems by kind: how many, and the first few as examples.

    Args:
        most: examples of a kind that are kept.
    """

    def __init__(self, most: int = 5):
        self.most = most
        self.counts: Counter = Counter()
        self.examples: dict[str, list[str]] = {}

    def add(self, kind: str, example: str) -> None:
        """Count a problem of a kind of `KINDS`."""
        self.counts[kind] += 1
        examples = self.examples.setdefault(kind, [])
        if len(examples) < self.most:
            examples.append(example)

    def as_list(self) -> list[dict]:
        """What was found, in the order of `KINDS`, for JSON."""
        return [
            {
                "kind": name,
                "count": self.counts[name],
                "stops_training": kind.stops,
                "text": kind.text,
                "remedy": kind.remedy,
                "examples": self.examples[name],
            }
            for name, kind in KINDS.items()
            if self.counts[name]
        ]


def findings_text(findings: Findings, statistics: dict[str, dict]) -> str:
    """The statistics of each set and the problems with their examples, for a terminal."""
    lines = []
    for split, values in statistics.items():
        lines += _set_lines(split, values)
    problems = findings.as_list()
    for problem in sorted(problems, key=lambda entry: not entry["stops_training"]):
        mark = "STOPS" if problem["stops_training"] else "warns"
        lines.append(f"{mark}: {problem['count']} {problem['text']}: {problem['remedy']}")
        lines += [f"    {example}" for example in problem["examples"]]
        if problem["count"] > len(problem["examples"]):
            lines.append(f"    ... and {problem['count'] - len(problem['examples'])} more")
    total = sum(findings.counts.values())
    stops = sum(entry["count"] for entry in problems if entry["stops_training"])
    lines.append(f"{total} problems, {stops} of them stop training" if total else "no problems found")
    return "\n".join(lines)


def _set_lines(split: str, values: dict) -> list[str]:
    lines = [
        f"{split}: {values['annotations']}",
        f"  {values['pictures']} images ({values['pictures_without_objects']} without objects), "
        f"{values['objects']} objects, {values['ignored_regions']} ignored regions",
    ]
    for title, key in (
        ("objects an image", "objects_a_picture"),
        ("object side in the input, pixels", "object_side_in_input"),
    ):
        shown = ", ".join(f"{name} {value:.1f}" for name, value in values[key].items())
        lines.append(f"  {title}: {shown or 'none'}")
    if values["anchor_recall"] is not None:
        lines.append(
            f"  anchors: {values['anchor_recall']:.1%} of the boxes fit one (IoU over {SECOND_PASS_OVERLAP})"
        )
    counts = ", ".join(f"{name} {count}" for name, count in values["objects_by_class"].items())
    return [*lines, f"  objects by class: {counts}"]
