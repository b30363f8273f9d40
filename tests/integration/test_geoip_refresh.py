"""A newer geo database while a batch is under way."""

from __future__ import annotations

import json
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from airflow.sdk.execution_time.context import OutletEventAccessors

from enrichment.batches.pipeline import run_stages
from enrichment.conservation.committed import log_ranges, read
from enrichment.enrichers.declare import LookupEnricher
from enrichment.enrichers.geo import GEO, GeoSettings
from enrichment.enrichers.geo.refresh.install import refresh
from enrichment.enrichers.geo.refresh.sources import FileSource
from enrichment.orchestration import batches
from enrichment.settings import load, load_room
from tests.fixtures.geo import BUILT_AT, city, write_geo_database
from tests.fixtures.pipeline import MakePipeline, message


def test_batch_is_of_one_build_when_a_newer_one_is_installed(
    make_pipeline: MakePipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its messages have the places of the build that `geo` opened, as the ledger says; the next batch has the newer."""
    present = write_geo_database(tmp_path / "City.mmdb", {"8.8.0.0/16": city("Oldtown")})
    newer = write_geo_database(tmp_path / "newer.mmdb", {"8.8.0.0/16": city("Newtown")}, BUILT_AT + 1)
    pipeline = make_pipeline(
        KAFKA_CHUNK_SIZE="50", GEO_IP_DATABASE_PATH=str(present), GEO_IP_KNOWN_ADDRESSES="8.8.8.8=US"
    )
    monkeypatch.setattr(batches, "resources", pipeline.resources)
    monkeypatch.setattr(batches, "get_current_context", dict)

    def run(run_id: str, *, meanwhile: bool) -> str | None:
        """The tasks of a run's one batch, with a refresh behind `geo` or without; returns the ledger's build."""
        pipeline.produce([message(n) for n in range(200)])
        [batch] = pipeline.claim(run_id)

        def look_up(drained: Any, declaration: LookupEnricher, earlier: Any) -> Any:
            looked_up = batches.look_up.function(drained, declaration.name, earlier)
            if meanwhile and declaration is GEO:
                refresh(load_room(GeoSettings), FileSource(str(newer)))
            return looked_up

        publish = partial(batches.publish.function, outlet_events=OutletEventAccessors())
        run_stages(batch.to_manifest(), batches.drain.function, look_up, publish)
        with pipeline.resources() as r:
            job = r.ledger.get(batch.batch_id)
        return job.source_builds.get("geo") if job else None

    def cities() -> list[str]:
        topic = load().kafka.output_topic
        servers = pipeline.bootstrap_servers
        with closing(read(servers, topic, log_ranges(servers, topic))) as outputs:
            return [json.loads(output.value() or b"")["geo_city"] for output in outputs]

    assert run("first", meanwhile=True) == f"Test-City-{BUILT_AT}"
    assert cities() == ["Oldtown"] * 200
    assert run("second", meanwhile=False) == f"Test-City-{BUILT_AT + 1}"
    assert sorted(cities()) == ["Newtown"] * 200 + ["Oldtown"] * 200
