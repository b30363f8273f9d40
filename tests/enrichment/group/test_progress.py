"""Whether a group is where draining goes on, and what a claim says when it is not."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import msgspec
import pytest

from enrichment.batch import Tail
from enrichment.group.choices import Astray, Why, explain
from enrichment.group.progress import Group, find_astray
from enrichment.kafka.offsets import Backlog
from enrichment.kafka.stamps import Stamp
from enrichment.store.positions import Position

OURS = Stamp(250, "dag/run/0", "id-1", 1)
TAIL = Tail(0, 249, 1_700_000_000_000, 17)
TAILED = msgspec.structs.replace(OURS, tail=TAIL)
OTHERS = [msgspec.structs.replace(TAIL, **{name: 5}) for name in ("timestamp", "checksum")]


def group(
    next_offset: int | None = 200, topic_id: str | None = "id-1", now: str | None = "id-1",
    found: Mapping[int, Tail] = MappingProxyType({}), **others: int,
) -> Group:  # fmt: skip
    """A group whose position in partition 0 is known, if any, and those of others."""
    known = {} if next_offset is None else {0: Position(0, next_offset, topic_id)}
    elsewhere = {int(p[1:]): Position(int(p[1:]), offset, topic_id) for p, offset in others.items()}
    return Group({**known, **elsewhere}, now, found)


@pytest.mark.parametrize(
    ("backlog", "known", "why"),
    [
        pytest.param(Backlog(0, 250, 0, 300), group(), Why.AHEAD, id="moved on"),
        pytest.param(Backlog(0, 250, 250, 300), group(), Why.AHEAD, id="moved on over what has left the log"),
        pytest.param(Backlog(0, 60, 0, 300), group(), Why.BEHIND, id="moved back"),
        pytest.param(
            Backlog(0, 150, 0, 300, Stamp(150, "dag/run/0", "id-1", 1)),
            group(),
            Why.BEHIND,
            id="an older commit came back",
        ),
        pytest.param(Backlog(0, None, 0, 300), group(), Why.FORGOTTEN, id="forgotten"),
        pytest.param(Backlog(0, None, 250, 300), group(), Why.FORGOTTEN, id="forgotten, and messages left the log"),
        pytest.param(Backlog(0, 200, 0, 150), group(), Why.PAST_END, id="truncated"),
        pytest.param(Backlog(0, 250, 0, 150, OURS), group(), Why.PAST_END, id="truncated, not recorded"),
        pytest.param(Backlog(0, None, 0, 199), group(), Why.PAST_END, id="truncated and forgotten"),
        pytest.param(Backlog(0, 9, 0, 2), group(None), Why.PAST_END, id="never published, moved past the end"),
        pytest.param(Backlog(0, None, 0, 300), group(now="id-2"), Why.ANEW, id="made anew with more"),
        pytest.param(Backlog(0, None, 0, 100), group(now="id-2"), Why.ANEW, id="made anew with less"),
        pytest.param(Backlog(0, 200, 0, 300), group(now="id-2"), Why.ANEW, id="made anew, and the group moved"),
        pytest.param(Backlog(0, 250, 0, 300, OURS), group(None, now="id-2"), Why.ANEW, id="made anew, ledger is new"),
        *(
            pytest.param(
                Backlog(0, 250, 0, 300, TAILED), group(found={0: other}), Why.REWRITTEN, id=f"another message {number}"
            )
            for number, other in enumerate(OTHERS)
        ),
        pytest.param(Backlog(0, 9, 0, 20), group(None, p1=5), Why.AHEAD, id="nothing published yet, moved on"),
    ],
)
def test_group_that_is_astray_is_found(backlog: Backlog, known: Group, why: Why) -> None:
    """Going on from there would leave messages out or publish them twice."""
    found = find_astray(backlog, known)
    assert found is not None
    assert found.why is why


@pytest.mark.parametrize(
    ("backlog", "known"),
    [
        pytest.param(Backlog(0, 200, 0, 300), group(), id="there"),
        pytest.param(Backlog(0, 200, 0, 200), group(), id="at the end"),
        pytest.param(Backlog(0, 250, 0, 300, OURS), group(), id="published, not recorded"),
        pytest.param(Backlog(0, 250, 0, 300, OURS), group(None), id="published, ledger is new"),
        pytest.param(Backlog(0, 250, 0, 300, OURS), group(topic_id="id-0"), id="published, ledger is restored"),
        pytest.param(Backlog(0, 250, 0, 300, TAILED), group(found={0: TAIL}), id="the message is there"),
        pytest.param(Backlog(0, 250, 250, 300, TAILED), group(), id="the message has left the log"),
        pytest.param(Backlog(0, 250, 0, 300, OURS), group(found={0: TAIL}), id="stamped before messages were compared"),
        pytest.param(Backlog(0, None, 0, 300), group(None), id="first use"),
        pytest.param(Backlog(0, 100, 0, 300), group(None), id="first use from an offset that was set"),
        pytest.param(Backlog(0, 100, 0, 300), group(None, topic_id=None, p1=5), id="upgraded database"),
        pytest.param(Backlog(0, None, 0, 300), group(None, p1=5), id="new partition"),
        pytest.param(Backlog(0, 7, 7, 300), group(None, p1=5), id="nothing published yet, at the log's start"),
        pytest.param(Backlog(0, None, 200, 300), group(), id="forgotten, all that was read has left the log"),
        pytest.param(Backlog(0, 200, 250, 300), group(), id="lost, for the policy to decide"),
        pytest.param(Backlog(0, 200, 0, 300), group(topic_id=None), id="recorded before ids were"),
        pytest.param(Backlog(0, 200, 0, 300), group(now=None), id="brokers without ids"),
    ],
)
def test_group_that_goes_on_is_not_refused(backlog: Backlog, known: Group) -> None:
    """The ledger may lag behind the group, and says nothing about a group that it does not know."""
    assert find_astray(backlog, known) is None


def test_refusal_has_every_way_to_go_on() -> None:
    """What was found, by partition and cause, and a command for each choice, with the offsets that it is about."""
    said = explain(
        [
            Astray(Backlog(0, 9, 0, 12), 2, Why.AHEAD),
            Astray(Backlog(1, None, 3, 8), 5, Why.FORGOTTEN),
            Astray(Backlog(3, None, 0, 8), 3, Why.ANEW),
        ],
        "in", "us", "broker:9092",
    )  # fmt: skip
    accept = "python -m enrichment.group accept-offsets --bootstrap-servers broker:9092 --database <address> "
    reset = "kafka-consumer-groups.sh --bootstrap-server broker:9092 --group us --topic in:"
    assert "partition 0: at 9, published to 2, the log has 0 to 12 (somebody moved it past messages" in said
    assert "partition 1: at None, published to 5, the log has 3 to 8 (Kafka has no offset" in said
    assert said.splitlines()[1:] == [
        "to go on where it has published to:",
        f"{reset}0 --reset-offsets --to-offset 2 --execute",
        f"{reset}1 --reset-offsets --to-offset 5 --execute",
        "to go on where the group is, which leaves out, or publishes again, what lies between:",
        f"{accept}--topic in --group us 0=9",
        "to start at the log's beginning, which publishes all of it that was published before again:",
        f"{accept}--topic in --group us 0=0 1=3 3=0",
        "to go on at the log's end, which leaves out all that waits:",
        f"{accept}--topic in --group us 0=12 1=8 3=8",
    ]


@pytest.mark.parametrize(
    ("astray", "unwanted"),
    [
        (Astray(Backlog(0, None, 0, 8), 3, Why.ANEW), "0=3"),
        (Astray(Backlog(0, None, 0, 8), 3, Why.ANEW), "--to-offset"),
        (Astray(Backlog(0, 9, 0, 2), 9, Why.PAST_END), "0=9"),
        (Astray(Backlog(0, 9, 0, 2), 9, Why.PAST_END), "--to-offset"),
        (Astray(Backlog(0, 9, 0, 20), 9, Why.REWRITTEN), "--to-offset"),
    ],
)
def test_refusal_does_not_advise_offsets_of_another_log(astray: Astray, unwanted: str) -> None:
    """Where an old topic was published to says nothing about a new one, and past its end nothing waits."""
    assert unwanted not in explain([astray], "in", "us", "broker:9092")
