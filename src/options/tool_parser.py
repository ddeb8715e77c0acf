"""How a tool's own options are parsed: its docstring is the help, and no option is cut short.

A tool that also takes options as of train.py parses its own by `parse_known_args` and hands the rest to `load_config`:
a short form of one of its own could be an option of the rest.
"""

import argparse


def tool_parser(description: str | None, epilog: str | None = None) -> argparse.ArgumentParser:
    """A parser that shows both texts as they are written."""
    return argparse.ArgumentParser(
        description=description,
        epilog=epilog,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
