"""The centre on one page: the stages of a batch in order, each streaming chunk by chunk from staged files to staged
files.

claim -> drain (read, decode) -> geo and user side by side -> business -> publish (route, produce, commit) -> record. A
stage holds one chunk in memory, whatever the batch. Every stage may run twice: it replaces what it staged, and publish
looks first.
"""

from __future__ import annotations

from enrichment.batches.claim import claim, settle
from enrichment.batches.drain import drain
from enrichment.batches.enrich import enrich
from enrichment.batches.publish import PUBLISH_ORDER, publish, record
from enrichment.batches.staged import Drained, Published

__all__ = ["PUBLISH_ORDER", "Drained", "Published", "claim", "drain", "enrich", "publish", "record", "settle"]
