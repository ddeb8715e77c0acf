"""The one exception for mistakes that a user can mend: entry points print its line and exit with 2."""


class UserError(Exception):
    """Bad input or options. The message is one line that names the file, the key and the remedy."""
