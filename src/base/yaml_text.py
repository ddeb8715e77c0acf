"""YAML of options and settings: data alone, of a size that such files have, or one kind of error."""

from itertools import accumulate

import yaml

from .errors import one_line

LONGEST = 200_000  # characters; default_config.yaml has 19,000
LONGEST_BYTES = 4 * LONGEST  # of a file in UTF-8
DEEPEST = 100  # brackets
MOST_VALUES = 100_000  # with every alias written out: a few lines of them can stand for billions


class _Loader(yaml.SafeLoader):
    """PyYAML's loader of plain data, for which the last of duplicate keys would count, unseen."""

    def construct_mapping(self, node, deep=False):
        seen = set()
        for key, _ in node.value if isinstance(node, yaml.MappingNode) else ():
            name = (key.tag, key.value) if isinstance(key, yaml.ScalarNode) else None
            if name is not None and name in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"duplicate key {key.value!r}", key.start_mark
                )
            seen.add(name)
        return super().construct_mapping(node, deep)


def load_yaml(text: str):
    """The first document of a YAML text: None, numbers, texts, lists and dictionaries.

    Tags never make objects (`safe_load`), and aliases cannot make a document that is larger than its text.

    Raises:
        ValueError: no YAML, duplicate keys, or too large; the message is one line.
    """
    if len(text) > LONGEST:
        raise ValueError(f"{len(text)} characters, more than {LONGEST}")
    depth = max(accumulate((letter in "[{") - (letter in "]}") for letter in text), default=0)
    if depth > DEEPEST:  # the parser's time grows with the square of it
        raise ValueError("nested too deeply")
    try:
        document = next(iter(yaml.load_all(text, Loader=_Loader)), None)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    except yaml.YAMLError as error:
        raise ValueError(one_line(error, 300)) from None
    except (ValueError, KeyError, IndexError, AttributeError, TypeError) as error:
        # What the constructors of numbers, dates and truth values raise: `2001-99-99`, `!!bool x`, `!!int ''`.
        raise ValueError(f"a value that is none: {one_line(error, 120)}") from None
    if _size(document, {}, set()) > MOST_VALUES:
        raise ValueError(f"more than {MOST_VALUES} values when its aliases are written out")
    return document


def _size(node, known: dict[int, int], open_nodes: set[int]) -> int:
    """Number of values of a document, aliases counted each time; one that contains itself is endless."""
    if not isinstance(node, list | dict | tuple | set):
        return 1
    key = id(node)
    if key in open_nodes:
        raise ValueError("a value contains itself")
    if key not in known:
        open_nodes.add(key)
        parts = [*node.keys(), *node.values()] if isinstance(node, dict) else node
        known[key] = 1 + sum(_size(part, known, open_nodes) for part in parts)
        open_nodes.remove(key)
    return known[key]
