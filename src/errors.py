"""The one exception for mistakes that a user can mend: entry points print its line and exit with 2."""

import functools
import sys
from collections.abc import Callable


class UserError(Exception):
    """Bad input or options. The message is one line that names the file, the key and the remedy."""


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
