"""Files of models before they are parsed: what is looked at costs nothing, and no parser takes it back."""

from pathlib import Path

from ..base.errors import UserError

LARGEST = (
    2 << 30
)  # bytes: Protocol Buffers, which `.ckpt`, `.mindir` and `.onnx` are, have no larger messages


def check_file(path: Path) -> None:
    """Refuse what is no message of Protocol Buffers of a possible size, such as a sparse file of zeros.

    Raises:
        UserError: too large, empty, or it does not start as such a file does.
    """
    size = path.stat().st_size
    if size > LARGEST:
        raise UserError(f"{path}: {size} bytes, more than {LARGEST}: not a model's file; choose another one")
    with path.open("rb") as handle:
        if handle.read(1) in (b"", b"\0"):  # a field's number is never 0
            raise UserError(
                f"{path}: empty or zeros: not a model's file; copy it again or choose another one"
            )
