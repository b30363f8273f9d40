"""The service's routes: profiles one by one and in bulk, what was asked so far, and faults on request.

Bodies are decoded and encoded by msgspec rather than by response models: a batch of 500 takes a few milliseconds.

| variable                  | meaning                                                      |
| ------------------------- | ------------------------------------------------------------ |
| `USER_SERVICE_POPULATION` | users `user-1` to `user-<n>` exist, but for 1 % (1,000,000)  |
| `USER_SERVICE_TOKEN`      | bearer token that `/api/` asks for (none: open)              |
"""

from __future__ import annotations

import os
from typing import Annotated, Any, TypeVar

import msgspec
from fastapi import APIRouter, Depends, FastAPI, HTTPException, Request, Response

from include.user_service.faults import Fault
from include.user_service.population import DEFAULT_SIZE
from include.user_service.service import Service, respond

MAX_BATCH = 1_000
MAX_BODY_BYTES = 1024**2

T = TypeVar("T")


class BatchRequest(msgspec.Struct):
    """The body of `POST /api/users/batch`."""

    user_ids: Annotated[list[str], msgspec.Meta(min_length=1)]


def _service(request: Request) -> Service:
    service: Service = request.app.state.service
    return service


def _authorize(request: Request) -> None:
    _service(request).authorize(request.headers.get("authorization", ""))


def _body_docs(kind: type[msgspec.Struct]) -> dict[str, Any]:
    _, schemas = msgspec.json.schema_components([kind])
    return {"requestBody": {"content": {"application/json": {"schema": schemas[kind.__name__]}}, "required": True}}


api = APIRouter(prefix="/api", dependencies=[Depends(_authorize)])


@api.get("/users/{user_id}")
async def user(user_id: str, request: Request) -> Response:
    """The profile of one user; 404 names the user in JSON (`user_id`), or it could be anything's in our place."""
    service = _service(request)
    with service.counting():
        return await service.answer_one(user_id, _fault_asked_for(request))


@api.post("/users/batch", openapi_extra=_body_docs(BatchRequest))
async def batch(request: Request) -> Response:
    """The profiles of up to 1,000 users, and which of them do not exist."""
    service = _service(request)
    with service.counting():
        asked = _decode(await _body(request), BatchRequest)
        if len(asked.user_ids) > MAX_BATCH:
            raise HTTPException(413, f"{MAX_BATCH} users at most in one request")
        return await service.answer_many(asked.user_ids, _fault_asked_for(request))


@api.get("/stats")
async def stats(request: Request) -> Response:
    """What was asked so far."""
    return respond(_service(request).stats())


@api.get("/faults")
async def get_fault(request: Request) -> Response:
    """The fault that is set, or null."""
    return respond(_service(request).faults.fault)


@api.put("/faults", openapi_extra=_body_docs(Fault))
async def put_fault(request: Request) -> Response:
    """Set the fault of the requests that follow."""
    fault = _decode(await _body(request), Fault)
    _service(request).faults.set(fault)
    return respond(fault)


@api.delete("/faults", status_code=204)
async def delete_fault(request: Request) -> None:
    """Answer well again."""
    _service(request).faults.set(None)


async def _body(request: Request) -> bytes:
    body = bytearray()
    async for piece in request.stream():
        body += piece
        if len(body) > MAX_BODY_BYTES:
            raise HTTPException(413, f"{MAX_BODY_BYTES} bytes at most in one request")
    return bytes(body)


def _decode(body: bytes, kind: type[T]) -> T:
    try:
        return msgspec.json.decode(body, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise HTTPException(422, str(error)) from error


def _fault_asked_for(request: Request) -> Fault | None:
    header = request.headers.get("x-fault")
    return None if header is None else _decode(header.encode(), Fault)


def create_app(size: int = DEFAULT_SIZE, token: str | None = None) -> FastAPI:
    """A service with its own counters and faults. `size` is that of the population; without a token it is open."""
    app = FastAPI(title="StackLens user profiles (stand-in)")
    app.state.service = Service(size, token)
    app.include_router(api)

    @app.get("/health")
    async def health() -> dict[str, Any]:
        """Whether the service is up; asks for no token."""
        return {"status": "ok", "population": size}

    return app


def app_from_environment() -> FastAPI:
    """The service as its variables describe it. Raises `ValueError` naming the one that is wrong."""
    text = os.environ.get("USER_SERVICE_POPULATION", str(DEFAULT_SIZE))
    if not text.isdecimal():
        raise ValueError(f"USER_SERVICE_POPULATION={text!r}: a whole number of users is needed")
    return create_app(int(text), os.environ.get("USER_SERVICE_TOKEN") or None)


app = app_from_environment()
