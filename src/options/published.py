"""The model zoo's and the DOTA version's YAML: their keys that ours do not have, and what became of two others.

Most of their keys are options here under the same name, some under another (`src.options.names`).
"""

from collections.abc import Mapping
from typing import Any

from ..base.errors import UserError, shown

WITHOUT_COUNTERPART = (
    "img_id_file_path",
    "result_files",
)  # of the program that scored an Ascend 310's raw files
OF_THE_LABELS = ("num_classes", "out_channel")
SUPPRESSED_AT = 0.6


def translate(
    document: Mapping[str, Any], labels: list[str], path: str
) -> tuple[dict[str, Any], list[str], list[str]]:
    """A document of options without the keys that only the published files have, those left out, and remarks.

    Args:
        document: keys and values of a file.
        labels: the classes where the file names none.
        path: the file, for messages.

    Raises:
        UserError: `num_classes` or `out_channel` do not agree with the labels.
    """
    _check_classes(document, document.get("labels", labels), path)
    kept = {
        key: value for key, value in document.items() if key not in (*WITHOUT_COUNTERPART, *OF_THE_LABELS)
    }
    left_out = [key for key in WITHOUT_COUNTERPART if key in document]
    other = [
        f"{key} {kept[key]}"
        for key in ("nms_thresh", "test_nms_thresh")
        if left_out and kept.get(key, SUPPRESSED_AT) != SUPPRESSED_AT
    ]
    remarks = [
        f"{path}: {', '.join(other)} is honoured; the published code ignored it and suppressed at {SUPPRESSED_AT}"
    ]
    return kept, left_out, remarks if other else []


def _check_classes(document: Mapping[str, Any], labels: Any, path: str) -> None:
    """`num_classes` and `out_channel` (three anchors of four sides, objectness and classes) follow from `labels`."""
    count = len(labels) if isinstance(labels, list) else 0
    for key, expected in (("num_classes", count), ("out_channel", 3 * (5 + count))):
        if key in document and document[key] != expected:
            raise UserError(
                f"{path}: {key}: {shown(document[key])}, but labels names {count} classes, which makes "
                f"{expected}; correct one of them"
            )
