"""Text from files, names and addresses of others, made fit for the place where it is shown.

For a log line or a message `one_printable`, for a cell of a table `cell`; names of files are made by
`src.base.file_names.file_stem`.
"""

import re

_LOGIN = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*://)[^/\s]*@")
_QUERY = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*://[^\s?#'\"]*)\?[^\s'\"#]*")
_FORMULA = ("=", "+", "-", "@", "\t", "\r")


class Lines(str):
    """A text of several lines that we made ourselves, of names that are printable, for the log."""


def one_printable(value: object, length: int = 4000) -> str:
    """One printable line of bounded length, without what an address holds of passwords and signatures."""
    text = without_secrets(str(value))
    text = text if len(text) <= length else text[:length] + "..."
    return "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in text)


def without_secrets(text: str) -> str:
    """Addresses without user, password and query, which may hold a signature."""
    return _QUERY.sub(r"\1", _LOGIN.sub(r"\1***@", text))


def cell(value: object) -> str:
    """A cell of a CSV that no spreadsheet takes for a formula: an apostrophe in front marks it as text."""
    text = one_printable(value)
    return f"'{text}" if text.startswith(_FORMULA) else text
