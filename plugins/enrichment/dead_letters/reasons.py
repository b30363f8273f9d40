"""Which dead letters are worth another try: a reason in, whether a redrive takes it by default and why out."""

from __future__ import annotations

from typing import NamedTuple

from enrichment.messages import Reason


class RedriveRule(NamedTuple):
    """Whether letters with a reason are sent in again unless a person says otherwise, and why."""

    by_default: bool
    why: str


_SAME_AGAIN = RedriveRule(False, "the message itself is at fault, and the same bytes fail again")
_MAY_ANSWER = RedriveRule(True, "the source may answer now")
_MAY_KNOW = RedriveRule(True, "the source may know it by now")
REDRIVE_RULES: dict[str, RedriveRule] = {
    Reason.INVALID_JSON: _SAME_AGAIN,
    Reason.INVALID_ENCODING: _SAME_AGAIN,
    Reason.NOT_AN_OBJECT: _SAME_AGAIN,
    Reason.MISSING_FIELD: _SAME_AGAIN,
    Reason.WRONG_TYPE: _SAME_AGAIN,
    Reason.EMPTY_MESSAGE: _SAME_AGAIN,
    Reason.NESTED_TOO_DEEP: _SAME_AGAIN,
    Reason.UNREADABLE_HEADERS: _SAME_AGAIN,
    Reason.MESSAGE_TOO_LARGE: RedriveRule(True, "the limit may have been raised"),
    Reason.MESSAGE_REFUSED: RedriveRule(False, "its topic refuses it: choose it once the topic's settings are changed"),
    Reason.PROCESSING_FAILED: RedriveRule(
        False, "it broke every batch that it was in: choose it once the code is mended"
    ),
    Reason.INVALID_IP: _SAME_AGAIN,
    Reason.GEO_LOOKUP_FAILED: _MAY_ANSWER,
    Reason.GEO_NOT_FOUND: _MAY_KNOW,
    Reason.USER_TIMEOUT: _MAY_ANSWER,
    Reason.USER_SERVICE_ERROR: _MAY_ANSWER,
    Reason.USER_NOT_FOUND: _MAY_KNOW,
    Reason.BUSINESS_NOT_FOUND: _MAY_KNOW,
    Reason.DATABASE_ERROR: _MAY_ANSWER,
    Reason.PRODUCER_ERROR: RedriveRule(False, "no letter has it: it is a whole batch that was not published"),
}
UNKNOWN = RedriveRule(False, "not a reason of this pipeline")
DEFAULT_REASONS = tuple(str(reason) for reason, repair in REDRIVE_RULES.items() if repair.by_default)
