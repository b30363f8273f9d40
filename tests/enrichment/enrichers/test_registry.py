"""What follows from declarations, and which declarations contradict each other."""

from __future__ import annotations

import subprocess
import sys
from contextlib import suppress
from dataclasses import replace

import msgspec
import pytest

from enrichment.enrichers import ENRICHERS
from enrichment.enrichers.business import BUSINESS
from enrichment.enrichers.declare import CountedColumns, HourlyCacheSettings, LookupEnricher, prefixed
from enrichment.enrichers.geo import GEO
from enrichment.enrichers.registry import REGISTRY, TAKEN, Registry
from enrichment.enrichers.testing import declared
from enrichment.enrichers.user import USER
from enrichment.settings import rooms
from enrichment.variables import room_config
from tests.conftest import REPOSITORY


class Asn(msgspec.Struct, frozen=True, rename=prefixed("asn_")):
    """Somebody's own columns."""

    number: int | None = None


class AsnSettings(HourlyCacheSettings):
    """With a prefix of their own."""

    model_config = room_config("ASN_")


ASN = replace(
    GEO, name="asn", source="asn-list", columns=Asn, settings=AsnSettings, invalid={},
    outages={"asn-down": "it is"}, unknown={"asn-unknown": "it is"}, cache_table="asn_cache", counted=(),
)  # fmt: skip


def test_order_is_the_contracts() -> None:
    """The words and columns that consumers of the topic know, in their order."""
    assert list(REGISTRY.by_source) == ["geo-ip", "user-profile", "business-context"]
    assert REGISTRY.keys == ("source_ip", "user_id", "request_id")
    assert REGISTRY.output_columns == (
        "geo_country", "geo_country_code", "geo_region", "geo_city", "geo_latitude", "geo_longitude", "geo_timezone",
        "geo_network_type", "user_subscription_tier", "user_account_age_days", "user_company", "business_unit",
        "business_transaction_type", "business_amount", "business_currency", "business_risk_score",
        "business_risk_level", "business_fraud_indicators", "enrichment_sources", "enrichment_errors",
        "enrichment_stale", "enriched_at",
    )  # fmt: skip
    assert REGISTRY.outages == {
        "geo-ip-lookup-failed": "geo-ip", "user-lookup-timeout": "user-profile", "user-service-error": "user-profile",
        "database-connection-error": "business-context",
    }  # fmt: skip


def test_each_is_behind_those_that_it_reads() -> None:
    """All earlier ones, some by name, or none."""
    some = replace(ASN, reads=("user",))
    registry = Registry([GEO, USER, some, BUSINESS])
    assert [registry.earlier(e) for e in (GEO, some, BUSINESS)] == [(), (USER,), (GEO, USER, some)]
    seconds = {"geo": 3.0, "user": 1.0, "asn": 4.0, "business": 2.0, "publish": 9.0}
    assert registry.seconds_side_by_side(seconds) == 1 + 4 + 2


def test_two_may_have_the_same_key() -> None:
    """It is drained once."""
    assert Registry([GEO, ASN]).keys == ("source_ip",)


@pytest.mark.parametrize(
    ("enrichers", "why"),
    [
        ([replace(ASN, name="publish")], "'publish' cannot be an enrichment's name"),
        ([replace(ASN, name="As N")], "'As N' cannot be an enrichment's name"),
        ([GEO, replace(ASN, name="geo")], "a name of their own: geo"),
        ([GEO, replace(ASN, source="geo-ip")], "a source of their own: geo-ip"),
        ([GEO, replace(ASN, cache_table="geo_ip_cache")], "a cache table of their own: geo_ip_cache"),
        ([GEO, replace(ASN, unknown=GEO.unknown)], "a reason of their own: geo-ip-not-found"),
        ([replace(ASN, outages={"invalid-json": "no"})], "a reason of their own: invalid-json"),
        ([GEO, replace(ASN, settings=GEO.settings)], "a prefix of settings of their own: GEO_IP_"),
        ([GEO, replace(ASN, columns=GEO.columns)], "a column of their own: geo_city"),
        ([replace(ASN, columns=msgspec.defstruct("C", [("service", str | None, None)]))], "a column of their own"),
        ([replace(ASN, key="asn_number")], "cannot be a key: asn_number"),
        ([replace(ASN, key='a "quoted" name')], "must not contain"),
        ([replace(ASN, reads=("user",)), USER], "asn reads user, which does not stand before it"),
        ([replace(ASN, outages={})], "asn has no reason for a source that cannot be asked"),
        ([replace(ASN, columns=msgspec.defstruct("C", [("asn_n", int)]))], "C.asn_n must be one of"),
        ([replace(ASN, columns=msgspec.defstruct("C", [("asn_n", list[int] | None, None)]))], "C.asn_n must be one of"),
        ([replace(ASN, counted=(CountedColumns(columns=("asn_number",), title=""),))], "asn cannot count asn_number"),
        ([replace(ASN, counted=(CountedColumns(columns=("geo_city",), title=""),))], "asn cannot count geo_city"),
        ([replace(ASN, counted=(CountedColumns(columns=(), title=""),))], "asn cannot count"),
    ],
)
def test_contradictions_are_refused(enrichers: list[LookupEnricher], why: str) -> None:
    """When the declarations are read, with what is wrong."""
    with pytest.raises(ValueError, match=why):
        Registry(enrichers)


def test_declared_enrichments_are_gone_behind_the_block() -> None:
    """A test's own ones are no other test's."""
    before = REGISTRY.output_columns
    with suppress(KeyError), declared(*ENRICHERS, ASN):
        assert REGISTRY.output_columns != before
        raise KeyError("something goes wrong inside")
    assert (REGISTRY.output_columns, REGISTRY.enrichers) == (before, ENRICHERS)


@pytest.mark.processes
def test_declarations_are_cheap_to_import() -> None:
    """DAG files import them: what only tasks need is not loaded with them."""
    code = (
        "import sys, enrichment.enrichers.registry, enrichment.orchestration.batches; "
        "print(*{'pandas', 'numpy', 'pyarrow', 'confluent_kafka', 'geoip2', 'psycopg'} & sys.modules.keys())"
    )
    ran = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=REPOSITORY,
        env={"PYTHONPATH": str(REPOSITORY / "plugins"), "AIRFLOW_HOME": "/nonexistent"},
    )  # fmt: skip
    assert ran.stdout.split("\n")[-2].strip() == ""


def test_names_that_are_taken_are_those_of_tasks_and_rooms() -> None:
    """Whoever adds a room of settings finds out here."""
    assert {"claim", "drain", "publish", "clean", *rooms()} - {e.name for e in ENRICHERS} == TAKEN
