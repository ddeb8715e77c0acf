"""Names that Ascend's tools share: chips and precision modes."""

from ..base.errors import UserError

# Modes of MindSpore Lite and the mode of CANN (ATC, ONNX Runtime) that each stands for, as Lite documents them.
ACL_PRECISION = {
    "enforce_fp32": "force_fp32",
    "preferred_fp32": "allow_fp32_to_fp16",
    "enforce_fp16": "force_fp16",
    "enforce_origin": "must_keep_origin_dtype",
    "preferred_optimal": "allow_mix_precision",
}

# Cards by the beginning of the chip's name, longer beginnings first.
_CARDS = {
    "Ascend310P": "310P",
    "Ascend310B": "310B",
    "Ascend310": "310",
    "Ascend910B": "910B",
    "Ascend910_93": "910B",
    "Ascend910": "910",
}
_FIRST_910 = ("Ascend910A", "Ascend910B", "Ascend910ProA", "Ascend910ProB", "Ascend910PremiumA")


def card_of(soc_version: str) -> str:
    """The card, 310, 310P, 310B, 910 or 910B, of a chip's name such as Ascend310P3.

    `Ascend910B` without a number is a chip of the first 910; a 910B's name goes on, as in Ascend910B3.

    Raises:
        UserError: no name of a chip.
    """
    if soc_version in _FIRST_910:
        return "910"
    for beginning, card in _CARDS.items():
        if soc_version.startswith(beginning):
            return card
    raise UserError(
        f"soc_version: {soc_version!r} is no Ascend chip; give Ascend and the name that `npu-smi info` shows, "
        "such as Ascend310P3 or Ascend310B1"
    )
