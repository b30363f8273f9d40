"""Counts of messages by what they hold, as metrics and rollups keep them: the most frequent values of each, and one
count of the others."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping

# By what is counted: messages by value.
Contents = dict[str, dict[str, int]]

DEAD_LETTERS = "dead letters"  # by reason and detail; all other contents are named by their columns
OTHERS = "\N{HORIZONTAL ELLIPSIS}"  # what all values that are not kept count under
SEPARATOR = "\t"  # between the values of a combination
KEPT = 200
LONGEST = 120  # characters of a value


def shown(values: Iterable[object]) -> str:
    """A value, or a combination of them, as a key of JSON: shortened, and without what PostgreSQL cannot store."""
    return SEPARATOR.join(
        str(value)[:LONGEST].replace("\0", "\N{REPLACEMENT CHARACTER}").replace(SEPARATOR, " ") for value in values
    )


def kept(counts: Mapping[str, int], most: int = KEPT) -> dict[str, int]:
    """The most frequent values, the first in the alphabet where they are equal, and the others as one."""
    if len(counts) <= most:
        return dict(counts)
    ordered = sorted((item for item in counts.items() if item[0] != OTHERS), key=lambda item: (-item[1], item[0]))
    rest = sum(count for _, count in ordered[most:]) + counts.get(OTHERS, 0)
    return dict(ordered[:most]) | {OTHERS: rest}


def total_contents(found: Iterable[Mapping[str, Mapping[str, int]]]) -> Contents:
    """The sum of contents."""
    totals: dict[str, Counter[str]] = {}
    for contents in found:
        for name, counts in contents.items():
            totals.setdefault(name, Counter()).update(counts)
    return {name: kept(counts) for name, counts in totals.items()}
