"""Batches as manifests: what XComs and the ledger hold, of earlier releases, too."""

from __future__ import annotations

from enrichment.batch import Batch

QUARANTINED = Batch("b", "in", "group", 0, (), quarantined=True)


def test_manifest_keeps_the_name_of_the_ledgers_column() -> None:
    """A quarantined batch is `set_aside` in XComs and in `enrichment_jobs`, as in earlier releases."""
    manifest = QUARANTINED.to_manifest()
    assert manifest["set_aside"] is True
    assert "quarantined" not in manifest
    assert Batch.from_manifest(manifest) == QUARANTINED
