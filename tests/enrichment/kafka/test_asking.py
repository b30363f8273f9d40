"""Requests to a broker: how long each try may take, and when they end."""

from __future__ import annotations

import pytest
from confluent_kafka import KafkaError, KafkaException

from enrichment.kafka.asking import SLICE_SECONDS, with_retries

SILENT = KafkaException(KafkaError(KafkaError._TIMED_OUT))
REFUSED = KafkaException(KafkaError(KafkaError.TOPIC_AUTHORIZATION_FAILED))


def test_first_try_may_be_shorter_than_the_others() -> None:
    """A request that a new client never sent is asked again soon; a slow broker then has its time."""
    tries: list[float] = []

    def ask(seconds: float) -> str:
        tries.append(seconds)
        if len(tries) < 4:
            raise SILENT
        return "answer"

    assert with_retries(ask, 20, first=0.15) == "answer"
    assert tries == [0.15, *[SLICE_SECONDS] * 3]


def test_silence_is_raised_when_its_time_is_over() -> None:
    """Not before: a coordinator may take a while to come up."""
    tries: list[float] = []

    def ask(seconds: float) -> None:
        tries.append(seconds)
        raise SILENT

    with pytest.raises(KafkaException, match="_TIMED_OUT"):
        with_retries(ask, 0.3)
    assert len(tries) > 2


def test_refusal_is_raised_at_once() -> None:
    """Asking again would not change it."""
    tries: list[float] = []

    def ask(seconds: float) -> None:
        tries.append(seconds)
        raise REFUSED

    with pytest.raises(KafkaException, match="TOPIC_AUTHORIZATION_FAILED"):
        with_retries(ask, 20)
    assert len(tries) == 1
