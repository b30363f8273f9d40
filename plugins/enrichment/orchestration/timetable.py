"""The timetable of DAGs that only a backfill or a person starts, whose runs still cover a window each."""

from __future__ import annotations

from airflow.timetables.base import DagRunInfo, DataInterval, TimeRestriction
from airflow.timetables.interval import CronDataIntervalTimetable


class ReplayTimetable(CronDataIntervalTimetable):
    """Windows from one tick of a cron expression to the next; the scheduler gets none of them while catchup is off.

    No schedule (`None`) could not be backfilled, and a past `end_date` would keep the tasks of a backfill from running.
    """

    def next_dagrun_info(
        self, *, last_automated_data_interval: DataInterval | None, restriction: TimeRestriction
    ) -> DagRunInfo | None:
        """The next window for a backfill, which asks with catchup on; none for the scheduler."""
        if not restriction.catchup:
            return None
        return super().next_dagrun_info(
            last_automated_data_interval=last_automated_data_interval, restriction=restriction
        )
