"""Warnings on a run, where people look: its note in the UI.

A task cannot write a note by itself: Airflow's execution API, all that a task can reach, sets one only when a run is
triggered. So it is written through the public REST API, as a person would, with the login in the connection
`ENRICHMENT_AIRFLOW_API_CONN_ID`. Without that connection, and when the API does not answer, the warnings are in the log
and in the ledger alone: a note is not worth a failed task.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from airflow.sdk import get_current_context

if TYPE_CHECKING:
    import requests

    from enrichment.resources import Resources

log = logging.getLogger(__name__)
NOTE_LENGTH = 1000  # the API's own limit
MORE = "\n\n… More in the tasks' logs."
TIMEOUT_SECONDS = 10


def note_warnings(r: Resources, batch_ids: Iterable[str]) -> None:
    """Put the ledger's warnings about these batches into the note of this task's run."""
    jobs = [r.ledger.get(batch_id) for batch_id in batch_ids]
    texts = [text for job in jobs if job is not None for text in job.warnings]
    if texts:
        context = get_current_context()
        add_note(r.settings.pipeline.airflow_api_conn_id, context["dag"].dag_id, context["run_id"], texts)


def add_note(conn_id: str, dag_id: str, run_id: str, texts: Iterable[str]) -> None:
    """Append texts to a run's note; those that it already has are not repeated."""
    import requests
    from airflow.sdk import BaseHook
    from airflow.sdk.exceptions import AirflowNotFoundException

    from enrichment.errors import SettingsError
    from enrichment.sources.connections import http_base_url

    try:
        connection = BaseHook.get_connection(conn_id)
    except AirflowNotFoundException:
        log.info("note.skipped: there is no connection %s to write notes on runs with", conn_id)
        return
    try:
        with requests.Session() as session:
            base_url = http_base_url(connection)
            run = f"{base_url}/api/v2/dags/{quote(dag_id, safe='')}/dagRuns/{quote(run_id, safe='')}"
            token = _token(session, base_url, connection)
            session.headers["Authorization"] = f"Bearer {token}"
            before = _answer(session, "GET", run)["note"] or ""
            after = joined(before, texts)
            if after != before:
                _answer(session, "PATCH", run, params={"update_mask": "note"}, json={"note": after})
    except (requests.RequestException, SettingsError, KeyError, ValueError) as failed:
        log.warning("note.failed conn_id=%s dag_id=%s run_id=%s error=%r", conn_id, dag_id, run_id, failed)


def joined(before: str, texts: Iterable[str]) -> str:
    """A note with these texts appended, as far as there is room."""
    parts = [before] if before else []
    for text in texts:
        if text not in before and text not in parts:
            parts.append(text)
    note = "\n\n".join(parts)
    if len(note) <= NOTE_LENGTH:
        return note
    return note.removesuffix(MORE)[: NOTE_LENGTH - len(MORE)] + MORE


def _token(session: requests.Session, base_url: str, connection: Any) -> str:
    """A bearer token: the password itself where there is no login, or the one that Airflow gives for both."""
    if not connection.login:
        return str(connection.password)
    credentials = {"username": connection.login, "password": connection.password}
    return str(_answer(session, "POST", f"{base_url}/auth/token", json=credentials)["access_token"])


def _answer(session: requests.Session, method: str, url: str, **content: Any) -> dict[str, Any]:
    answer = session.request(method, url, timeout=TIMEOUT_SECONDS, **content)
    answer.raise_for_status()
    return dict(answer.json())
