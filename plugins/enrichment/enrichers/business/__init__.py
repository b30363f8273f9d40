"""The context of a request and its risk: `request_id` in, the `business_` columns out, from a query over the users' own
tables and from the risk rules."""

from __future__ import annotations

from pathlib import Path

import msgspec
from pydantic import Field

from enrichment import sql
from enrichment.enrichers.declare import EVERY_EARLIER, CountedColumns, EnricherSettings, LookupEnricher, prefixed
from enrichment.errors import SettingsError
from enrichment.messages import REQUEST_ID
from enrichment.variables import HomePath, PositiveFloat, room_config

NOT_FOUND = "business-context-not-found"
DATABASE_ERROR = "database-connection-error"

# The default risk rules.
DEFAULT_RULES = Path(__file__).with_name("risk_rules.toml")
QUERY = "business_context/fetch"


class Context(msgspec.Struct, frozen=True, gc=False, rename=prefixed("business_")):
    """What a request was about, read from the users' own tables. `amount` is in units of `currency`."""

    unit: str | None = None
    transaction_type: str | None = None
    amount: float | None = None
    currency: str | None = None


class Risk(msgspec.Struct, frozen=True, gc=False, rename=prefixed("business_")):
    """How risky a request looks: a score in [0, 1], its level, and the names of the rules that fired."""

    risk_score: float | None = None
    risk_level: str | None = None
    fraud_indicators: tuple[str, ...] | None = None


class BusinessSettings(EnricherSettings):
    """The business context, its cache, and the risk rules."""

    model_config = room_config("BUSINESS_")

    risk_rules_path: HomePath = Field("", description="TOML file of the risk rules; empty: the one beside the code")
    query_timeout_sec: PositiveFloat = Field(
        30, description="time for the query over your own tables, waiting for locks included; longer is their outage"
    )
    cache_ttl_minutes: PositiveFloat = Field(30, description="how long a context may be served")

    @property
    def cache_ttl_sec(self) -> float:
        """See `EnricherSettings`."""
        return 60 * self.cache_ttl_minutes

    @property
    def rules_file(self) -> Path:
        """The file of the risk rules."""
        return Path(self.risk_rules_path).expanduser() if self.risk_rules_path else DEFAULT_RULES

    @property
    def contents(self) -> tuple[bytes, ...]:
        """See `EnricherSettings`: the rules, and the query over the users' own tables."""
        try:
            rules = self.rules_file.read_bytes()
        except OSError as unreadable:
            raise SettingsError(f"BUSINESS_RISK_RULES_PATH={str(self.rules_file)!r}: {unreadable}") from unreadable
        return rules, sql.load(QUERY).encode()


BUSINESS = LookupEnricher(
    name="business",
    source="business-context",
    title="context and risk by request",
    doc="Add the business context of each message's request, and the risk that follows from it and from all that was "
    "added before.",
    key=REQUEST_ID,
    columns=Context,
    computed=Risk,
    reads=EVERY_EARLIER,
    settings=BusinessSettings,
    open="enrichment.enrichers.business.risk_scorer:open_source",
    outages={DATABASE_ERROR: "your tables could not be asked"},
    unknown={NOT_FOUND: "your tables have no such requests"},
    cache_table="business_context_cache",
    dependents=("business_risks",),
    counted=(
        CountedColumns(columns=("business_unit", "business_risk_level"), title="Risk levels by business unit"),
        CountedColumns(columns=("business_fraud_indicators",), title="Fraud indicators"),
    ),
)
