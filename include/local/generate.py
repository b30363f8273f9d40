"""Make log messages as `stacklens-enriched` carries them, from a seed, and send them to Kafka or write them to a file.

    python -m include.local.generate --count 10000 --malformed 0.01 --seed 7 --output logs.jsonl.gz

Requests leave several log lines each, with the same user, address, request id and trace id; users and addresses are
skewed, as real ones are. Some keys are absent, some addresses private, IPv6 or none at all, some users and requests
unknown. `malformed` is the share of messages with which something is wrong or unusual: `include.local.malform` lists
what. The same seed and start give the same bytes.
"""

from __future__ import annotations

import argparse
import ipaddress
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from include.local.malform import MALFORMATIONS
from include.local.progress import progress
from include.local.records import Record, milliseconds, produce, write_file

REQUESTS_PER_BLOCK = 4_096  # draws are made in blocks: one call into numpy for thousands of messages
LINE_GAP_MS = 40  # mean time between two lines of a request

# Every line ends in a number of milliseconds: (service, level, message).
LINES = (
    ("api-gateway", "info", "GET /api/v2/orders HTTP/1.1 answered 200 with 1843 bytes to the mobile client in"),
    ("api-gateway", "info", "POST /api/v2/checkout HTTP/1.1 answered 201 with 612 bytes to the web client in"),
    ("api-gateway", "warn", "POST /api/v2/checkout HTTP/1.1 answered 429, the client is over its quota for"),
    ("auth-service", "info", "Session token verified for an active session, scopes orders:write and profile:read, in"),
    ("auth-service", "warn", "Second factor requested after a sign-in from a new device, challenge sent in"),
    ("payment-service", "info", "Payment processed by the acquirer, amount captured and receipt queued in"),
    ("payment-service", "info", "Zahlung über 49,90 € bestätigt, Beleg erstellt und zur Auslieferung übergeben in"),
    ("payment-service", "error", "Payment declined by the issuer with code 51, insufficient funds, answered in"),
    ("order-service", "info", "Order accepted, 3 items reserved in warehouse FRA-2 and handed to fulfilment in"),
    ("order-service", "debug", "Cart priced with 2 promotions and the regional tax rules, totals recomputed in"),
    ("inventory-service", "info", "Stock level updated for 3 items after reservation, replica acknowledged in"),
    ("notification-service", "info", "Order confirmation rendered from template order-v4 and queued for e-mail in"),
)
HEADS = tuple(f'","service":"{service}","level":"{level}","message":"{text} ' for service, level, text in LINES)
SERVICES = tuple(service.encode() for service, _, _ in LINES)

HEADERS: tuple[list[tuple[str, bytes | None]], ...] = (
    [],
    [("content-type", b"application/json")],
    [("content-type", b"application/json"), ("shipper", b"edge-1"), ("shipper", b"relay-4")],
    [("schema", b"\x00\x00\x07"), ("empty", b""), ("null", None)],
)

KNOWN_USERS = ("user-123", "user-456", "user-789")
# Of a hundred addresses in a row, those at these places are not public IPv4.
PRIVATE = {11: "10.{1}.{2}.{3}", 36: "192.168.{2}.{3}", 61: "172.16.{2}.{3}", 86: "127.0.0.{3}"}
IPV6 = {21: "2001:4860:4860::{4:x}", 46: "2a00:1450:4001:{5:x}::{4:x}", 71: "2600:1f18:{5:x}::{4:x}", 93: "fd00::{4:x}"}
INVALID = {56: "{0}.{1}.{2}.{3}.1", 97: "unknown-{4}"}
ABSENT_SHARES = (0.02, 0.05, 0.02)  # of requests without address, user, request id
UNKNOWN_SHARE = 0.01  # of requests whose user, and of those whose request, nobody knows


@dataclass(frozen=True, slots=True)
class Options:
    """What to generate. `skew` is the exponent of the distribution of users and addresses (0: all alike).

    `requests` ids from `req-000000` on, which the demonstration business data holds, are used in turn. `start_ms` is
    the time of the first message in milliseconds since the epoch, None: so that the last one is about now. (A topic
    that deletes by time soon deletes what is older.) `spacing_ms` is the mean time between two messages.
    """

    count: int = 10_000
    seed: int = 7
    malformed: float = 0.01
    users: int = 2_000
    addresses: int = 3_000
    skew: float = 1.1
    lines_per_request: tuple[int, int] = (1, 5)
    requests: int = 200_000
    start_ms: int | None = None
    spacing_ms: float = 1.0


def messages(options: Options) -> Iterator[Record]:
    """`options.count` records, in the order in which they would be logged."""
    return islice(_endless(options), options.count)


def _endless(options: Options) -> Iterator[Record]:
    rng = np.random.default_rng(options.seed)
    users, addresses = _users(options), _addresses(options, rng)
    user_odds, address_odds = _odds(options.users, options.skew), _odds(options.addresses, options.skew)
    fewest, most = options.lines_per_request
    malformations = tuple(MALFORMATIONS.values())
    first, clock = 0, _start(options)
    while True:
        requests = _requests(first, options, users, addresses, user_odds, address_odds, rng)
        lines = rng.integers(fewest, most, len(requests), endpoint=True)
        begins = clock + rng.exponential(options.spacing_ms * (fewest + most) / 2, len(requests)).cumsum()
        records = _lines(requests, np.repeat(np.arange(len(requests)), lines), np.repeat(begins, lines), rng)
        for i in np.flatnonzero(rng.random(len(records)) < options.malformed).tolist():
            good = records[i]
            malform = malformations[int(rng.integers(len(malformations)))]
            records[i] = good._replace(value=malform(good.value or b""))
        yield from records
        first, clock = first + len(requests), float(begins[-1])


def _start(options: Options) -> float:
    if options.start_ms is not None:
        return float(options.start_ms)
    return time.time() * 1000 - options.count * options.spacing_ms


# What the lines of a request share: the text before the span, the text after it, the record's key and headers.
_Request = tuple[str, str, bytes | None, list[tuple[str, bytes | None]]]


def _requests(
    first: int,
    options: Options,
    users: Sequence[str],
    addresses: Sequence[str],
    user_odds: NDArray[np.float64],
    address_odds: NDArray[np.float64],
    rng: np.random.Generator,
) -> list[_Request]:
    n = REQUESTS_PER_BLOCK
    traces = rng.bytes(8 * n).hex()
    who = np.searchsorted(user_odds, rng.random(n)).tolist()
    where = np.searchsorted(address_odds, rng.random(n)).tolist()
    absent = rng.random((3, n)) < np.array(ABSENT_SHARES)[:, None]
    no_address, no_user, no_request = absent.tolist()
    unknown_user, unknown_request = (rng.random((2, n)) < UNKNOWN_SHARE).tolist()
    made: list[_Request] = []
    for i in range(n):
        number = (first + i) % options.requests
        request_id = f"req-unknown-{number}" if unknown_request[i] else f"req-{number:06d}"
        user = f"nobody-{number}" if unknown_user[i] else users[who[i]]
        keys = (
            ("" if no_address[i] else f',"source_ip":"{addresses[where[i]]}"')
            + ("" if no_user[i] else f',"user_id":"{user}"')
            + ("" if no_request[i] else f',"request_id":"{request_id}"')
        )
        trace = traces[16 * i : 16 * i + 16]
        made.append(
            (
                f' ms","trace_id":"trace-{trace}","span_id":"span-',
                f'"{keys}}}',
                None if no_request[i] else request_id.encode(),
                HEADERS[i % len(HEADERS)],
            )
        )
    return made


def _lines(
    requests: Sequence[_Request], owners: NDArray[np.int64], begins: NDArray[np.float64], rng: np.random.Generator
) -> list[Record]:
    """The log lines of the requests, in the order of their times; `owners` and `begins` have one entry a line."""
    n = len(owners)
    times = (begins + rng.exponential(LINE_GAP_MS, n)).astype(np.int64)
    order = np.argsort(times, kind="stable")
    times = times[order]
    texts = np.datetime_as_string(times.astype("datetime64[ms]"), unit="ms", timezone="UTC").tolist()
    spans = rng.bytes(8 * n).hex()
    kinds = rng.integers(len(LINES), size=n).tolist()
    took = np.minimum(rng.lognormal(3.5, 1.0, n), 30_000).astype(np.int64).tolist()
    records = []
    for i, (owner, time_ms, text, kind, ms) in enumerate(
        zip(owners[order].tolist(), times.tolist(), texts, kinds, took, strict=True)
    ):
        before, after, key, headers = requests[owner]
        span = spans[16 * i : 16 * i + 16]
        value = f'{{"timestamp":"{text}{HEADS[kind]}{ms}{before}{span}{after}'.encode()
        records.append(Record(SERVICES[kind] if key is None else key, value, time_ms, headers))
    return records


def _odds(ranks: int, skew: float) -> NDArray[np.float64]:
    """Cumulative odds of ranks 0, 1, 2 ... with weights 1, 2^-skew, 3^-skew ..."""
    weights = np.arange(1, ranks + 1, dtype=np.float64) ** -skew
    odds: NDArray[np.float64] = weights.cumsum() / weights.sum()
    odds[-1] = 1.0  # rounding must not leave a gap at the end
    return odds


def _users(options: Options) -> list[str]:
    return [*KNOWN_USERS, *(f"user-{1_000 + i}" for i in range(options.users))][: options.users]


def _addresses(options: Options, rng: np.random.Generator) -> list[str]:
    shapes = {**PRIVATE, **IPV6, **INVALID}
    made = []
    for rank in range(options.addresses):
        shape = shapes.get(rank % 100)
        parts = (*rng.integers(1, 255, 4).tolist(), rank, int(rng.integers(1, 0xFFFF)))
        made.append(_public_ipv4(rng) if shape is None else shape.format(*parts))
    return made


def _public_ipv4(rng: np.random.Generator) -> str:
    while True:
        address = ipaddress.IPv4Address(int(rng.integers(1 << 24, 224 << 24)))
        if address.is_global:
            return str(address)


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """The command line; exits with a message when it is wrong."""
    defaults = Options()
    parser = argparse.ArgumentParser(
        prog="python -m include.local.generate", description="Generate log messages for the enrichment pipeline."
    )
    parser.add_argument("--count", type=int, default=defaults.count, help="messages (default %(default)s)")
    parser.add_argument("--rate", type=float, default=0, help="messages a second (default: as fast as it goes)")
    parser.add_argument("--malformed", type=float, default=defaults.malformed, help="share (default %(default)s)")
    parser.add_argument("--seed", type=int, default=defaults.seed, help="(default %(default)s)")
    parser.add_argument("--users", type=int, default=defaults.users, help="distinct users (default %(default)s)")
    parser.add_argument("--addresses", type=int, default=defaults.addresses, help="distinct (default %(default)s)")
    parser.add_argument("--skew", type=float, default=defaults.skew, help="0: all alike (default %(default)s)")
    parser.add_argument("--lines-per-request", type=_bounds, default=defaults.lines_per_request, help="(default 1-5)")
    parser.add_argument("--requests", type=int, default=defaults.requests, help="known ids (default %(default)s)")
    parser.add_argument("--start", help="ISO 8601 time of the first message (default: so that the last one is now)")
    parser.add_argument("--topic", default="stacklens-enriched", help="(default %(default)s)")
    target = parser.add_mutually_exclusive_group(required=True)
    target.add_argument("--bootstrap-servers", help="send to this Kafka")
    target.add_argument("--output", help="write to this .jsonl or .jsonl.gz file; - is the standard output")
    chosen = parser.parse_args(arguments)
    for name in ("count", "users", "addresses", "requests"):
        if getattr(chosen, name) < 1:
            parser.error(f"--{name} must be at least 1")
    if not 0 <= chosen.malformed <= 1:
        parser.error("--malformed is a share between 0 and 1")
    return chosen


def _bounds(text: str) -> tuple[int, int]:
    fewest, _, most = text.partition("-")
    bounds = int(fewest), int(most or fewest)
    if not 1 <= bounds[0] <= bounds[1]:
        raise argparse.ArgumentTypeError(f"{text!r} is not like 1-5")
    return bounds


def options_of(chosen: argparse.Namespace) -> Options:
    """The options of a command line; messages that are sent at a rate begin now."""
    start_ms = milliseconds(chosen.start) if chosen.start else int(time.time() * 1000) if chosen.rate else None
    return Options(
        count=chosen.count,
        seed=chosen.seed,
        malformed=chosen.malformed,
        users=chosen.users,
        addresses=chosen.addresses,
        skew=chosen.skew,
        lines_per_request=chosen.lines_per_request,
        requests=chosen.requests,
        start_ms=start_ms,
        spacing_ms=1000 / chosen.rate if chosen.rate else Options().spacing_ms,
    )


def main(arguments: Sequence[str]) -> int:
    """Generate as the command line says."""
    chosen = parse(arguments)
    records = messages(options_of(chosen))
    if chosen.output:
        write_file(records, Path("/dev/stdout" if chosen.output == "-" else chosen.output))
        return 0
    with progress(f"messages sent to {chosen.topic}", chosen.count) as advance:
        produce(records, chosen.bootstrap_servers, chosen.topic, chosen.rate, advance)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
