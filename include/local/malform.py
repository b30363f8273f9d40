"""What can be wrong or unusual with a log message: each entry makes one out of a good one.

The comment says what the pipeline makes of it: a dead letter with its reason, or an enriched message like any other.
"""

from __future__ import annotations

from collections.abc import Callable

# Large enough to notice, small enough for the default limits of a broker.
LARGE_BYTES = 64 * 1024
DEEP_LEVELS = 5_000


def _insert(more: bytes) -> Callable[[bytes], bytes]:
    """Add fields at the end of the object."""
    return lambda value: value[:-1] + b"," + more + b"}"


MALFORMATIONS: dict[str, Callable[[bytes], bytes | None]] = {
    "not-json": lambda value: b"connection reset by peer while reading " + value[40:80],  # invalid-json
    "cut-off": lambda value: value[: len(value) // 2],  # invalid-json
    "not-a-number": _insert(b'"duration":NaN'),  # invalid-json
    "not-utf8": lambda value: value.replace(b'"message":"', b'"message":"\xff\xfe', 1),  # invalid-encoding
    "array": lambda value: b"[" + value + b"]",  # not-an-object
    "missing-field": lambda value: value.replace(b'"level":', b'"severity":', 1),  # missing-field
    "wrong-type": lambda value: value.replace(b'"message":"', b'"message":42,"text":"', 1),  # wrong-type
    "tombstone": lambda value: None,  # empty-message
    "deep": _insert(b'"context":' + b"[" * DEEP_LEVELS + b"]" * DEEP_LEVELS),  # nested-too-deep
    "output-keys": _insert(b'"geo_country":"Atlantis","enrichment_errors":["from before"]'),  # enriched, overwritten
    "duplicate-key": _insert(b'"level":"error"'),  # enriched, the last one counts
    "large": _insert(b'"stack":"' + b"at com.example.Main.run " * (LARGE_BYTES // 24) + b'"'),  # enriched
}
