"""The one exception for mistakes that a user can mend: entry points print its line and exit with 2."""

import errno
import functools
import sys
from collections.abc import Callable

from .foreign_text import one_printable

# What a disk or a folder refuses; no writer foresees it at every call that makes a file or folder.
_REFUSALS = {
    errno.ENOSPC: "free disk space there",
    errno.EDQUOT: "free disk space there",
    errno.EROFS: "choose a folder that can be written to",
    errno.EACCES: "choose a place that can be read and written",
    errno.ENAMETOOLONG: "choose a shorter name",
    errno.EIO: "look at the disk or the mount",
    errno.EPIPE: "what reads it has ended",
}


_LONGEST_LINE = 1200


class UserError(Exception):
    """Bad input or options. The message is one line that names the file, the key and the remedy.

    What a file or a file's name brings into it, line breaks or a terminal's control codes, is written out.
    """

    def __str__(self) -> str:
        return shown(super().__str__(), _LONGEST_LINE)


def shown(value: object, length: int = 80) -> str:
    """A value from a file or a command line for a message: one printable line of bounded length."""
    return one_printable(value, length)


def refusal(error: OSError, place: object = "") -> str:
    """One line on an error of the disk or of a folder's rights: the place, the reason and the remedy."""
    place = place or error.filename or "a file"
    remedy = _REFUSALS.get(error.errno or 0, "choose another folder")
    verb = "used" if error.errno in (errno.ENAMETOOLONG, errno.EIO) else "written"
    return f"{shown(place, 300)}: cannot be {verb} ({error.strerror or error}); {remedy}"


def one_line(error: object, most: int = 200) -> str:
    """What an exception (or a text) says, in one line of at most so many characters; its type where it says nothing."""
    return " ".join(str(error).split())[:most] or type(error).__name__


def first_line(error: object, most: int = 160) -> str:
    """The first line of a long message, such as MindSpore's."""
    return one_line((str(error).strip().splitlines() or [type(error).__name__])[0], most)


def reports_mistakes(main: Callable[..., int | None]) -> Callable[..., int | None]:
    """Decorator of a program's main function: a mistake becomes one line on standard error and exit code 2.

    That is a `UserError`, or a full disk or a missing right that was not foreseen where it was met.
    """

    @functools.wraps(main)
    def reported(*arguments, **named) -> int | None:
        try:
            return main(*arguments, **named)
        except UserError as error:
            print(f"error: {error}", file=sys.stderr)
            return 2
        except OSError as error:
            if error.errno not in _REFUSALS:
                raise
            print(f"error: {refusal(error)}", file=sys.stderr)
            return 2

    return reported
