"""Airflow looks for plugins in the files of this folder (not in `enrichment/`, see `.airflowignore`): here it is."""

from enrichment.orchestration.plugin import EnrichmentPlugin

__all__ = ["EnrichmentPlugin"]
