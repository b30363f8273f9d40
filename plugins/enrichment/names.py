"""Names that Kafka accepts for topics and groups, and which of the pipeline's topics may be the same one."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from itertools import combinations
from typing import Annotated

from pydantic import AfterValidator

TOPIC_LENGTH = 249
# Kafka's own; nobody may write there.
INTERNAL = ("__consumer_offsets", "__transaction_state", "__share_group_state", "__cluster_metadata")
GROUP_LENGTH = 200  # what is derived from it (groups of windows and repairs, transactional ids) is longer


def check_topic(name: str) -> str:
    """Check that Kafka accepts a topic's name. Raises `ValueError`."""
    if not re.fullmatch(r"[a-zA-Z0-9._-]+", name) or name in (".", ".."):
        raise ValueError("a topic's name is made of letters, digits, '.', '_' and '-', and is not '.' or '..'")
    if len(name) > TOPIC_LENGTH:
        raise ValueError(f"a topic's name has at most {TOPIC_LENGTH} characters")
    if name in INTERNAL:
        raise ValueError("this topic is Kafka's own")
    return name


def check_group(name: str) -> str:
    """Check that Kafka accepts a group's name, and that it cannot be confused with another. Raises `ValueError`."""
    if not name.strip():
        raise ValueError("a group must have a name")
    if name != name.strip() or not name.isprintable():
        raise ValueError("a group's name has no blank at its ends, and no control character")
    if len(name) > GROUP_LENGTH:
        raise ValueError(f"a group's name has at most {GROUP_LENGTH} characters here")
    return name


TopicName = Annotated[str, AfterValidator(check_topic)]
GroupName = Annotated[str, AfterValidator(check_group)]


def find_equal(topics: Mapping[str, str], may_be_equal: frozenset[str] = frozenset()) -> Iterator[str]:
    """What is wrong with topics, by the settings that name them: all must differ, except those that may be equal.

    To Kafka '.' and '_' are the same in a name: two topics cannot differ in these alone.
    """
    for (one, first), (other, second) in combinations(topics.items(), 2):
        if first == second and not {one, other} <= may_be_equal:
            yield f"{one} and {other} are the same topic, {first}: the pipeline would read or mix what it writes"
        elif first != second and first.replace(".", "_") == second.replace(".", "_"):
            yield f"{one}={first!r} and {other}={second!r} differ in '.' and '_' only: Kafka has but one of them"
