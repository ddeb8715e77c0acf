"""The one exception for mistakes that a user can mend: entry points print its line and exit with 2."""

import functools
import sys
from collections.abc import Callable


class UserError(Exception):
    """Bad input or options. The message is one line that names the file, the key and the remedy."""


def one_line(error: object, most: int = 200) -> str:
    """What an exception (or a text) says, in one line of at most so many characters; its type where it says nothing."""
    return " ".join(str(error).split())[:most] or type(error).__name__


def first_line(error: object, most: int = 160) -> str:
    """The first line of a long message, such as MindSpore's."""
    return one_line((str(error).strip().splitlines() or [type(error).__name__])[0], most)


def reports_mistakes(main: Callable[..., int | None]) -> Callable[..., int | None]:
    """Decorator of a program's main function: a `UserError` becomes one line on standard error and exit code 2."""

    @functools.wraps(main)
    def reported(*arguments, **named) -> int | None:
        try:
            return main(*arguments, **named)
        except UserError as error:
            print(f"error: {error}", file=sys.stderr)
            return 2

    return reported
