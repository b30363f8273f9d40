"""The findings of the conservation check, and what a replay was to take."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from confluent_kafka import Message

from enrichment.conservation.fingerprint import is_appended, labels_of, said_timestamp
from enrichment.conservation.origins import Parts, window_of


class Defect(StrEnum):
    """What can be wrong with the output of an input message."""

    MISSING = "missing"
    DOUBLED = "doubled"
    ALTERED = "altered"
    MISORDERED = "misordered"
    INVENTED = "invented"  # an output of an offset at which no message is


@dataclass(slots=True)
class ConservationReport:
    """What the check found. `read` counts input messages; `foreign` outputs belong to inputs that were not checked;
    `redriven` dead letters have been sent in again, and are counted as nothing else. `older` are enriched messages that
    were published before an enrichment was declared, by its name."""

    read: int = 0
    analytics: int = 0
    partial: int = 0
    dead: int = 0
    corrections: int = 0
    foreign: int = 0
    redriven: int = 0
    older: Counter[str] = field(default_factory=Counter)
    defects: Counter[Defect] = field(default_factory=Counter)
    examples: dict[Defect, list[str]] = field(default_factory=lambda: defaultdict(list))
    enriched_by: Counter[str] = field(default_factory=Counter)
    partial_errors: Counter[str] = field(default_factory=Counter)
    dead_reasons: Counter[str] = field(default_factory=Counter)

    @property
    def ok(self) -> bool:
        """Whether every input message has exactly one output, and the right one."""
        return not self.defects and self.read == self.analytics + self.dead

    @classmethod
    def sum_of(cls, shares: Sequence[ConservationReport], seen: int, examples: int) -> ConservationReport:
        """The sum of the reports of all shares, each input partition in one of them; all have seen the same `outputs`.
        Keeps at most so many `examples` of each defect."""
        whole = cls(redriven=shares[0].redriven)
        for share in shares:
            for name in ("read", "analytics", "partial", "dead", "corrections"):
                setattr(whole, name, getattr(whole, name) + getattr(share, name))
            for name in ("older", "defects", "enriched_by", "partial_errors", "dead_reasons"):
                getattr(whole, name).update(getattr(share, name))
            for defect, found in share.examples.items():
                whole.examples[defect] = (whole.examples[defect] + found)[:examples]
        # What is foreign to one share may be another's.
        ours = sum(seen - share.redriven - share.foreign for share in shares)
        whole.foreign = seen - whole.redriven - ours
        return whole

    def summary(self) -> str:
        """The verdict and the counts, and the first examples of each defect."""
        verdict = "holds" if self.ok else "is BROKEN"
        outputs = f"{self.analytics:,} analytics ({self.partial:,} partial), {self.dead:,} dead letters"
        corrected = f"{self.corrections:,} corrections; " if self.corrections else ""
        foreign = f"{self.foreign:,} foreign outputs"
        lines = [f"conservation {verdict}: {self.read:,} messages in, {outputs}; {corrected}{foreign}"]
        if self.redriven:
            lines.append(f"dead letters sent in again, and no outputs any more: {self.redriven:,}")
        for name, count in self.older.items():
            lines.append(f"published before {name} was declared, so without its columns: {count:,}")
        for defect, count in self.defects.most_common():
            lines += [f"{defect}: {count:,}", *(f"  {example}" for example in self.examples[defect])]
        return "\n".join(lines)


@dataclass(frozen=True, slots=True)
class Expected:
    """What a replay was to take: messages of a time, `[start, end)` in milliseconds, that are `wanted` (None: all)."""

    replay_id: str
    start: int
    end: int
    wanted: Callable[[Message], bool] | None = None

    @classmethod
    def of(
        cls, replay_id: str, start: int, end: int, services: Collection[str] = (), levels: Collection[str] = ()
    ) -> Expected:
        """With a replay's filters: messages of these services and levels; empty: of all."""
        filters = [(name, set(allowed)) for name, allowed in (("service", services), ("level", levels)) if allowed]

        def wanted(message: Message) -> bool:
            fields = labels_of(message.value() or b"")
            found = {name: value for name, value in fields.items() if isinstance(value, str)}
            return all(found.get(name) in allowed for name, allowed in filters)

        return cls(replay_id, start, end, wanted if filters else None)

    def made(self, output: Message, parts: Parts, *, is_letter: bool = False) -> bool:
        """Whether an output is the replay's, and of this time: an output has its input's time; a dead letter states it,
        and may have another itself. Where it has the broker's time, the window that its batch names must be within."""
        if parts.replay != self.replay_id:
            return False
        if not is_appended(output):
            return self._in_time(said_timestamp(output) if is_letter else output.timestamp()[1])
        try:
            start, end = window_of(parts.batch_id)
        except ValueError:
            return False
        return self.start // 1000 * 1000 <= start and end <= self.end

    def takes(self, message: Message) -> bool:
        """Whether an input message must have an output."""
        return self._in_time(message.timestamp()[1]) and (self.wanted is None or self.wanted(message))

    def _in_time(self, timestamp: int) -> bool:
        return self.start <= timestamp < self.end
