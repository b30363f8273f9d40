"""Requests to a broker: how long each try may take, and when they end."""

from __future__ import annotations

import math

import pytest
from confluent_kafka import KafkaError, KafkaException

from enrichment.kafka.asking import SLICE_SECONDS, with_retries

SILENT = KafkaException(KafkaError(KafkaError._TIMED_OUT))
REFUSED = KafkaException(KafkaError(KafkaError.TOPIC_AUTHORIZATION_FAILED))


class Broker:
    """Refuses a number of requests, and keeps how long each might take."""

    def __init__(self, refusals: float, refusal: KafkaException) -> None:
        self.tries: list[float] = []
        self._refusals, self._refusal = refusals, refusal

    def ask(self, seconds: float) -> str:
        """One request."""
        self.tries.append(seconds)
        if len(self.tries) <= self._refusals:
            raise self._refusal
        return "answer"


def test_first_try_may_be_shorter_than_the_others() -> None:
    """A request that a new client never sent is asked again soon; a slow broker then has its time."""
    broker = Broker(3, SILENT)
    assert with_retries(broker.ask, 20, first=0.15) == "answer"
    assert broker.tries == [0.15, *[SLICE_SECONDS] * 3]


def test_silence_is_raised_when_its_time_is_over() -> None:
    """Not before: a coordinator may take a while to come up."""
    broker = Broker(math.inf, SILENT)
    with pytest.raises(KafkaException, match="_TIMED_OUT"):
        with_retries(broker.ask, 0.3)
    assert len(broker.tries) > 2


def test_refusal_is_raised_at_once() -> None:
    """Asking again would not change it."""
    broker = Broker(1, REFUSED)
    with pytest.raises(KafkaException, match="TOPIC_AUTHORIZATION_FAILED"):
        with_retries(broker.ask, 20)
    assert len(broker.tries) == 1
