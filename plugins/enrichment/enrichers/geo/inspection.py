"""Reads all of a MaxMind-format database, as a process of its own: a damaged one may crash or hang its reader.

    python -m enrichment.enrichers.geo.inspection <path> <addresses as JSON> <seconds> <bytes>

Prints its `Findings` as JSON. Exits with `NO_DATABASE` for a file that does not open as one; any other signal or
exception is the file's fault, and the parent reports it (`enrichment.enrichers.geo.inspector`).

The search tree is read by numpy, each node once, however many paths lead to it: a tree may share its parts, have
cycles, and pretend to have more leaves than could ever be visited. Then the reader that tasks use reads every record
once, so that no lookup in this file can meet a record that was not read before.
"""

from __future__ import annotations

import hashlib
import resource
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path
from typing import Any, NamedTuple

import maxminddb
import msgspec
import numpy as np

from enrichment.enrichers.geo.records import UNREADABLE, PlaceReader, look_up

NO_DATABASE, UNFINISHED = 3, 4  # exit codes
# Records whose places are read; all others are only decoded.
SAMPLE_RECORDS = 20_000
# Decoding a record takes microseconds. Records that are made of references to one another can take for ever, each.
RECORD_SECONDS = 1.0
MAX_TYPE_LENGTH = 100
# Between search tree and data.
SEPARATOR_BYTES = 16
COLUMNS_TOLD = 8

Nodes = np.ndarray[Any, np.dtype[np.uint32]]
Rows = np.ndarray[Any, np.dtype[np.int64]]


class Findings(msgspec.Struct, frozen=True):
    """The contents of a database. Records count once for each network that has them; `places` and unreadable ones are
    counted in a sample. `columns` are names that its records have; `countries` has the codes that were asked for."""

    database_type: str
    build_epoch: int
    sha256: str
    records: int
    sampled: int
    places: int
    cities: int
    unreadable: int
    columns: tuple[str, ...] = ()
    countries: dict[str, str | None] = {}

    @property
    def build(self) -> str:
        """Type and time of its build, as the ledger names it."""
        return build_name(self.database_type, self.build_epoch)


class Tree(NamedTuple):
    """The search tree's nodes: where each leads to for a bit that is 0, or 1."""

    left: Nodes
    right: Nodes

    @property
    def nodes(self) -> int:
        """How many there are; a larger number in a node is a record."""
        return len(self.left)


class Leaves(NamedTuple):
    """Each record that the tree leads to: how many networks have it, and an address of one of them."""

    counts: list[int]
    addresses: list[int]


def build_name(database_type: str, build_epoch: int) -> str:
    """Type and time of a build as one name."""
    return f"{database_type}-{build_epoch}"


def inspect(path: Path, addresses: Sequence[str]) -> Findings:
    """Read everything. Raises `maxminddb.InvalidDatabaseError` or `ValueError` for a file that is not a database."""
    with path.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    with maxminddb.open_database(path, maxminddb.MODE_MMAP_EXT) as reader:
        about = reader.metadata()
        only_ipv4 = about.ip_version == 4
        places = PlaceReader()
        leaves = find_leaves(read_tree(path, about), 32 if only_ipv4 else 128)
        step = max(1, len(leaves.counts) // SAMPLE_RECORDS)
        sampled = found = cities = unreadable = 0
        columns: dict[str, None] = {}
        for row, (count, record) in enumerate(zip(leaves.counts, _records(reader, leaves, only_ipv4), strict=True)):
            if isinstance(record, Exception):
                sampled, unreadable = sampled + count, unreadable + count
            elif row % step == 0:
                sampled += count
                if isinstance(record, dict) and len(columns) < COLUMNS_TOLD:
                    columns.update(dict.fromkeys(map(str, record)))
                try:
                    place = places.read(record)
                except UNREADABLE:
                    unreadable += count
                else:
                    found += count if place else 0
                    cities += count if place and place.city else 0
        return Findings(
            _type(about.database_type), int(about.build_epoch), sha256, sum(leaves.counts), sampled, found, cities,
            unreadable, tuple(columns)[:COLUMNS_TOLD],
            {address: _country(reader, places, address, only_ipv4) for address in addresses},
        )  # fmt: skip


def read_tree(path: Path, about: maxminddb.reader.Metadata) -> Tree:
    """The nodes as numbers. Raises `ValueError` where the file is too short for its metadata."""
    if about.ip_version not in (4, 6) or about.record_size not in (24, 28, 32) or about.node_count < 1:
        raise ValueError(f"{about.node_count} nodes of {about.record_size} bits for IPv{about.ip_version}")
    width = about.record_size // 4
    if about.node_count * width + SEPARATOR_BYTES > path.stat().st_size:
        raise ValueError(f"the file is too short for its {about.node_count} nodes")
    nodes = np.memmap(path, np.uint8, mode="r", shape=(about.node_count, width))

    def number(*places: int) -> Nodes:
        value = np.zeros(about.node_count, np.uint32)
        for place in places:
            value = value << np.uint32(8) | nodes[:, place]
        return value

    if about.record_size == 24:
        return Tree(number(0, 1, 2), number(3, 4, 5))
    if about.record_size == 32:
        return Tree(number(0, 1, 2, 3), number(4, 5, 6, 7))
    middle, highest = number(3), np.uint32(24)  # its halves are the highest bits of both
    return Tree(
        (middle >> np.uint32(4)) << highest | number(0, 1, 2),
        (middle & np.uint32(15)) << highest | number(4, 5, 6),
    )


def find_leaves(tree: Tree, bits: int) -> Leaves:
    """Every record that a lookup of an address of so many bits can reach; nodes are visited once."""
    parents, depths = _visit(tree, bits)
    reached = np.flatnonzero(depths >= 0)
    kids = np.concatenate([tree.left[reached], tree.right[reached]])
    is_record = np.flatnonzero(kids > tree.nodes)
    _, first, counts = np.unique(kids[is_record], return_index=True, return_counts=True)
    chosen = is_record[first]
    nodes, sides = reached[chosen % len(reached)], chosen // len(reached)
    halves = np.zeros((2, len(nodes)), np.uint64)  # of each address: the 64 bits to the right, and those to the left

    def set_bit(rows: Rows, depth: Rows) -> None:
        place = bits - 1 - depth
        halves[place >> 6, rows] |= np.uint64(1) << (place & 63).astype(np.uint64)

    right = np.flatnonzero(sides)
    set_bit(right, depths[nodes[right]].astype(np.int64))
    while (inner := np.flatnonzero(depths[nodes] > 0)).size:
        above = parents[nodes[inner]]
        is_right = tree.left[above] != nodes[inner]
        set_bit(inner[is_right], depths[above[is_right]].astype(np.int64))
        nodes[inner] = above
    low, high = halves.tolist()
    return Leaves(counts.tolist(), [left << 64 | right for left, right in zip(high, low, strict=True)])


def _visit(tree: Tree, bits: int) -> tuple[Nodes, np.ndarray[Any, np.dtype[np.int16]]]:
    """The parent and depth in bits at which each node is first reached; depth -1 for unreachable nodes."""
    parents = np.zeros(tree.nodes, np.uint32)
    depths = np.full(tree.nodes, -1, np.int16)
    frontier = np.zeros(1, np.uint32)
    depths[0] = 0
    for depth in range(1, bits):
        following = []
        for table in tree:
            kids = table[frontier]
            nodes, first = np.unique(kids, return_index=True)
            new = (nodes < tree.nodes) & (depths[np.minimum(nodes, tree.nodes - 1)] < 0)
            parents[nodes[new]] = frontier[first[new]]
            depths[nodes[new]] = depth
            following.append(nodes[new])
        frontier = np.concatenate(following)
        if not frontier.size:
            break
    return parents, depths


def _records(reader: maxminddb.Reader, leaves: Leaves, only_ipv4: bool) -> Iterator[object]:  # noqa: FBT001
    """Each record, or what reading it raised. Raises `ValueError` for one that takes far too long."""
    address_of = IPv4Address if only_ipv4 else IPv6Address
    before = time.process_time()
    for number in leaves.addresses:
        try:
            record: object = reader.get(address_of(number))
        except UNREADABLE as damaged:
            record = damaged
        now = time.process_time()
        if now - before > RECORD_SECONDS:
            raise ValueError(f"the record of {address_of(number)} takes {now - before:.1f} s to be decoded")
        before = now
        yield record


def _country(reader: maxminddb.Reader, places: PlaceReader, address: str, only_ipv4: bool) -> str | None:  # noqa: FBT001
    try:
        place = places.read(look_up(reader, address, only_ipv4=only_ipv4))
    except (*UNREADABLE, ValueError):
        return None
    return place.country_code if place else None


def _type(name: object) -> str:
    """It goes into columns of PostgreSQL and into logs."""
    if not isinstance(name, str) or not name.isprintable() or not 0 < len(name) <= MAX_TYPE_LENGTH:
        raise ValueError(f"its database_type is {str(name)[:MAX_TYPE_LENGTH]!r}")
    return name


def _limit(seconds: int, size: int) -> None:
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    _, hard = resource.getrlimit(resource.RLIMIT_CPU)
    most = seconds + 1 if hard == resource.RLIM_INFINITY else min(seconds + 1, hard)
    resource.setrlimit(resource.RLIMIT_CPU, (min(seconds, most), most))
    with suppress(ValueError, OSError):  # not every system can; the time is limited all the same
        resource.setrlimit(resource.RLIMIT_AS, (size, size))


def main(arguments: Sequence[str]) -> int:
    """Inspect one file within the limits; returns the exit code."""
    path, addresses, seconds, size = arguments
    _limit(int(seconds), int(size))
    try:
        findings = inspect(Path(path), msgspec.json.decode(addresses, type=list[str]))
    except (maxminddb.InvalidDatabaseError, ValueError) as broken:
        sys.stderr.write(f"{broken}\n")
        return NO_DATABASE
    except MemoryError as greedy:  # numpy's too, which has a text of its own
        sys.stderr.write(f"it needs more memory than a file of its size does {greedy}\n")
        return UNFINISHED
    except OSError as unreadable:  # the disk's, or the system's
        sys.stderr.write(f"{unreadable}\n")
        return UNFINISHED
    sys.stdout.buffer.write(msgspec.json.encode(findings))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
