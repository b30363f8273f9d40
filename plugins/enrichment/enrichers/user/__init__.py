"""Who a user is: `user_id` in, the `user_` columns out, from the user-profile API."""

from __future__ import annotations

from typing import Annotated

import msgspec
from pydantic import Field

from enrichment.enrichers.declare import HourlyCacheSettings, LookupEnricher, prefixed
from enrichment.messages import USER_ID
from enrichment.variables import LONGEST, PositiveFloat, PositiveInt, room_config

TIMEOUT = "user-lookup-timeout"
SERVICE_ERROR = "user-service-error"
NOT_FOUND = "user-not-found"


class Profile(msgspec.Struct, frozen=True, gc=False, rename=prefixed("user_")):
    """Who a user is. `account_age_days` is in days, as the user service counts them."""

    subscription_tier: str | None = None
    account_age_days: int | None = None
    company: str | None = None


class UserSettings(HourlyCacheSettings):
    """The user-profile API and its cache."""

    model_config = room_config("USER_SERVICE_")

    conn_id: str = Field("user_service", description="Airflow connection (HTTP) of the user-profile API")
    timeout_sec: PositiveFloat = Field(5, description="time for the API to answer one request, all of it")
    task_timeout_sec: PositiveFloat = Field(
        300, description="time that a task may spend on the API; who is not answered for by then is repaired later"
    )
    batch_size: PositiveInt = Field(500, description="users in one request")
    concurrency: Annotated[int, Field(gt=0, le=1_000)] = Field(4, description="requests at once")
    retries: Annotated[int, Field(ge=0, le=1_000)] = Field(3, description="further tries of a request that failed")
    backoff_sec: Annotated[float, Field(ge=0, le=LONGEST)] = Field(
        0.2, description="pause before the second try; doubles, with jitter"
    )
    retry_after_max_sec: PositiveFloat = Field(30, description="longest Retry-After that is waited for")
    breaker_failures: PositiveInt = Field(5, description="failed requests in a row that open the circuit breaker")
    breaker_reset_sec: PositiveFloat = Field(30, description="time until an open breaker lets a request through")


USER = LookupEnricher(
    name="user",
    source="user-profile",
    title="profile by user",
    doc="Add the profile of each message's user.",
    key=USER_ID,
    columns=Profile,
    settings=UserSettings,
    open="enrichment.enrichers.user.api:open_source",
    outages={
        TIMEOUT: "the user service did not answer in time",
        SERVICE_ERROR: "the user service could not be asked",
    },
    unknown={NOT_FOUND: "the user service knows no such users"},
    cache_table="user_profile_cache",
)
