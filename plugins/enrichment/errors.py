"""The exception family: what went wrong with a whole batch, said so that an operator can act on it.

A bad message is never one of these: it becomes a dead letter or a partially enriched message
(`enrichment.messages.Reason`).
"""

from __future__ import annotations


class EnrichmentError(Exception):
    """Something about a whole batch or the configuration is wrong; the task fails and Airflow retries it."""


class SettingsError(EnrichmentError):
    """An environment variable is missing or has an unusable value; the message names it and what it takes."""


class SchemaError(EnrichmentError):
    """The migrations and the database do not fit together; nothing was changed, and the message says what to do."""


class TopicRefused(EnrichmentError):
    """A broker did not create one of the pipeline's topics; the message names it and has what the broker said."""


class OffsetsMoved(EnrichmentError):
    """Somebody else moved the group, or Kafka forgot it; nothing was published, and the message says what to do."""


class OffsetsLost(EnrichmentError):
    """Messages that were never read have left the log: retention is shorter than the pipeline's delay."""


class WindowLost(EnrichmentError):
    """Messages of the window to be replayed have left the log; replay a later window, or allow what is left."""


class ReplayRefused(EnrichmentError):
    """The replay cannot be made as it was asked for; the message says what to change."""


class BatchUnbalanced(EnrichmentError):
    """Read does not equal enriched + partial + dead; nothing was committed, the code is at fault."""


class StagingMissing(EnrichmentError):
    """A file staged by an earlier task is gone; clear the batch's `drain` task together with those after it."""


class ServiceLevelMissed(EnrichmentError):
    """An hour missed what is promised; nothing is broken that another try would mend, look at its breaches."""


class PublishRefused(EnrichmentError):
    """The broker refused the transaction; nothing of it is visible, and the next try publishes it again."""


class RefreshFailed(EnrichmentError):
    """A newer geo database could not be fetched or written; the one in use is kept, and the next try starts anew."""


class DatabaseRefused(EnrichmentError):
    """What was offered as a geo database is none that we can use; the one in use is kept. Ask whoever made the file."""


class RunRefused(EnrichmentError):
    """A run was triggered with parameters that its DAG does not have; nothing was done, name those that it has."""


class MetadataNotCleaned(EnrichmentError):
    """`airflow db clean` failed; its output is in the log, and the next try goes on from where it stopped."""


class SourceUnavailable(EnrichmentError):
    """A lookup's source did not answer; `reason` is the word that goes into `enrichment_errors`."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail


class OutageHeld(EnrichmentError):
    """A source is down for a whole batch, which waits for it: nothing to do until the declared deadline."""


class RepairIncomplete(EnrichmentError):
    """Partial messages stay as they are: they left the log before their source was back, or every attempt failed."""


class LayerUnavailable(EnrichmentError):
    """A cache tier did not answer; the lookup goes on without it."""
