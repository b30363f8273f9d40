"""Which dead letters are worth another try: a reason in, whether a redrive takes it by default and why out."""

from __future__ import annotations

from typing import NamedTuple

from enrichment.enrichers.registry import REGISTRY
from enrichment.messages import Reason

MAX_ATTEMPTS = 3  # of a message, the first one included, unless a redrive is told otherwise


class RedriveRule(NamedTuple):
    """Whether dead letters with a reason are sent in again by default, and why."""

    by_default: bool
    why: str


SAME_AGAIN = RedriveRule(False, "the message itself is at fault, and the same bytes fail again")
_MAY_ANSWER = RedriveRule(True, "the source may answer now")
_MAY_KNOW = RedriveRule(True, "the source may know it by now")
_OF_MESSAGES: dict[str, RedriveRule] = {
    Reason.MESSAGE_TOO_LARGE: RedriveRule(True, "the limit may have been raised"),
    Reason.MESSAGE_REFUSED: RedriveRule(False, "its topic refuses it: choose it once the topic's settings are changed"),
    Reason.PROCESSING_FAILED: RedriveRule(
        False, "it broke every batch that it was in: choose it once the code is fixed"
    ),
    Reason.PRODUCER_ERROR: RedriveRule(False, "no dead letter has it: a whole batch was not published"),
}
UNKNOWN = RedriveRule(False, "not a reason of this pipeline")


def rule_of(reason: str) -> RedriveRule:
    """The rule of a reason; `UNKNOWN` for one that this release does not know."""
    declaration = REGISTRY.by_source.get(REGISTRY.source_of.get(reason, ""))
    if declaration is None:
        return _OF_MESSAGES.get(reason, SAME_AGAIN) if reason in set(Reason) else UNKNOWN
    if reason in declaration.invalid:
        return SAME_AGAIN
    return _MAY_ANSWER if reason in declaration.outages else _MAY_KNOW


def default_reasons() -> tuple[str, ...]:
    """The reasons with which dead letters are sent in again by default."""
    return tuple(reason for reason in all_reasons() if rule_of(reason).by_default)


def all_reasons() -> tuple[str, ...]:
    """The reasons that a dead letter may have: those of messages, then those that the enrichments declare."""
    return (*map(str, Reason), *REGISTRY.reasons)
