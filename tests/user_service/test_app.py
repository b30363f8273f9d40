"""The stand-in for the user service: who its users are, what it refuses, how it lies on request, how it ends."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import requests

from include.user_service.app import app_from_environment
from include.user_service.population import find_profile
from tests.fixtures.user_service import UserService


def get(service: UserService, path: str, **content: Any) -> requests.Response:
    return requests.get(service.base_url + path, timeout=5, **content)


def ask(service: UserService, *user_ids: Any, **content: Any) -> requests.Response:
    return requests.post(service.base_url + "/api/users/batch", json={"user_ids": user_ids}, timeout=5, **content)


def test_health_is_answered(user_service: UserService) -> None:
    """Whoever starts the service can see that it is up."""
    assert get(user_service, "/health").json()["status"] == "ok"


def test_profile_of_the_known_user(user_service: UserService) -> None:
    """The user of the documentation's example is premium, 365 days old and with Acme Corp."""
    profile = get(user_service, "/api/users/user-123").json()
    assert (profile["subscription_tier"], profile["account_age_days"], profile["company"]) == (
        "premium",
        365,
        "Acme Corp",
    )


@pytest.mark.parametrize(
    "user_id",
    ["nobody", "user-0", "user-01", "user-101", "user-", "user-1x", "User-1", "user-\N{ARABIC-INDIC DIGIT ONE}"],
)
def test_user_is_unknown_when_the_id_is_outside_the_population(
    make_user_service: Callable[..., UserService], user_id: str
) -> None:
    """Ids of other shapes and beyond the population's size are answered with 404 and JSON."""
    response = get(make_user_service(size=100), f"/api/users/{user_id}")
    assert response.status_code == 404
    assert response.json()["user_id"] == user_id


def test_population_is_deterministic_with_one_percent_missing() -> None:
    """The same ids exist in every run, and about one in a hundred of the range does not."""
    ids = [f"user-{n}" for n in range(1, 20_001)]
    missing = [user_id for user_id in ids if find_profile(user_id) is None]
    assert 100 < len(missing) < 300
    assert missing == [user_id for user_id in ids if find_profile(user_id) is None]
    assert find_profile("user-1") != find_profile("user-2")
    # Pinned: a change here changes what every stack and every test sees.
    first = find_profile("user-1")
    assert first is not None
    assert (first.subscription_tier, first.account_age_days, first.company) == ("free", 577, None)


def test_batch_names_found_and_unknown_users(user_service: UserService) -> None:
    """A batch answers each user once, as a profile or as not found."""
    answer = ask(user_service, "user-456", "nobody", "user-789", "nobody").json()
    assert set(answer["users"]) == {"user-456", "user-789"}
    assert answer["users"]["user-456"] == get(user_service, "/api/users/user-456").json()
    assert answer["not_found"] == ["nobody"]


@pytest.mark.parametrize(
    ("body", "status"),
    [
        pytest.param(b'{"user_ids": [' + b",".join([b'"user-1"'] * 1000) + b"]}", 200, id="1000 users"),
        pytest.param(b'{"user_ids": [' + b",".join([b'"user-1"'] * 1001) + b"]}", 413, id="1001 users"),
        pytest.param(b'{"user_ids": ["' + b"x" * 1024**2 + b'"]}', 413, id="large body"),
        pytest.param(b"user-1", 422, id="not JSON"),
        pytest.param(b'{"user_ids": [1]}', 422, id="wrong type"),
        pytest.param(b'{"user_ids": []}', 422, id="nobody asked for"),
        pytest.param(b"{}", 422, id="missing field"),
        pytest.param(b'{"user_ids": ["\xff"]}', 422, id="not UTF-8"),
    ],
)
def test_batch_is_bounded_and_checked(user_service: UserService, body: bytes, status: int) -> None:
    """A batch of more than 1,000 users, or one that is none, is refused."""
    assert requests.post(user_service.base_url + "/api/users/batch", body, timeout=5).status_code == status


def test_stats_count_requests_and_users(user_service: UserService) -> None:
    """What was asked is counted, so that a test can say how often it was."""
    ask(user_service, "user-123", "nobody")
    get(user_service, "/api/users/user-456")
    stats = user_service.stats()
    assert (stats["requests"], stats["users_served"], stats["not_found"], stats["in_flight_max"]) == (2, 2, 1, 1)


def test_token_is_asked_for_when_one_is_set(make_user_service: Callable[..., UserService]) -> None:
    """With a token set only its bearer gets profiles; health stays open."""
    service = make_user_service(token="s3cret")
    assert get(service, "/api/users/user-123").status_code == 401
    assert ask(service, "user-123", headers={"Authorization": "Bearer wrong"}).status_code == 401
    assert ask(service, "user-123", headers={"Authorization": "Bearer s3cret"}).status_code == 200
    assert get(service, "/health").status_code == 200


def test_fault_of_a_header_hits_one_request(user_service: UserService) -> None:
    """A fault in the header spoils that request alone."""
    spoiled = get(user_service, "/api/users/user-1", headers={"X-Fault": '{"status": 429, "retry_after": "7"}'})
    assert (spoiled.status_code, spoiled.headers["Retry-After"]) == (429, "7")
    assert get(user_service, "/api/users/user-1").status_code == 200
    assert user_service.stats()["faults_injected"] == 1


def test_fault_is_set_until_it_ends(user_service: UserService) -> None:
    """A fault that was put hits all requests until it is deleted, and can be read back."""
    user_service.set_fault(status=503)
    assert get(user_service, "/api/faults").json()["status"] == 503
    assert [ask(user_service, "user-1").status_code for _ in range(2)] == [503, 503]
    user_service.end_fault()
    assert ask(user_service, "user-1").status_code == 200


def test_fault_hits_a_given_number_of_times(user_service: UserService) -> None:
    """A fault with a number of times is over after them."""
    user_service.set_fault(status=500, times=2)
    assert [ask(user_service, "user-1").status_code for _ in range(3)] == [500, 500, 200]


def test_fault_share_is_deterministic_by_seed(user_service: UserService) -> None:
    """The same seed spoils the same requests."""
    rounds = []
    for seed in (1, 1, 2):
        user_service.set_fault(status=500, share=0.5, seed=seed)
        rounds.append([ask(user_service, "user-1").status_code for _ in range(20)])
    assert rounds[0] == rounds[1] != rounds[2]
    assert set(rounds[0]) == {200, 500}


def test_fault_of_some_users_leaves_the_others(user_service: UserService) -> None:
    """A fault about one user spoils that profile and no other."""
    user_service.set_fault(answer="wrong-types", user_ids=["user-456"])
    users = ask(user_service, "user-123", "user-456").json()["users"]
    assert users["user-123"]["account_age_days"] == 365
    assert users["user-456"]["account_age_days"] == "old"


def test_unknown_fault_is_refused(user_service: UserService) -> None:
    """A misspelt fault is an error rather than no fault."""
    assert requests.put(user_service.base_url + "/api/faults", json={"latency": 1}, timeout=5).status_code == 422
    assert get(user_service, "/api/users/user-1", headers={"X-Fault": '{"answer": "none"}'}).status_code == 422


@pytest.mark.parametrize("text", ["", "many", "-1", "1e6"])
def test_population_variable_is_named_when_it_is_wrong(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    """A population that is no number stops the service with the variable's name."""
    monkeypatch.setenv("USER_SERVICE_POPULATION", text)
    with pytest.raises(ValueError, match="USER_SERVICE_POPULATION"):
        app_from_environment()


def test_service_finishes_the_request_under_way_when_terminated() -> None:
    """SIGTERM lets the answer under way through, then the process ends with 0."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "include.user_service", "--port", str(port)]
    environment = os.environ | {"USER_SERVICE_POPULATION": "50"}
    service = UserService(f"http://127.0.0.1:{port}")
    with subprocess.Popen(command, env=environment) as process, ThreadPoolExecutor(1) as pool:
        try:
            wait_until_healthy(service, process)
            slow = pool.submit(get, service, "/api/users/user-1", headers={"X-Fault": '{"latency_seconds": 0.3}'})
            while get(service, "/api/stats").json()["in_flight"] == 0:
                assert not slow.done()
            process.send_signal(signal.SIGTERM)
            assert slow.result().status_code == 200
            assert process.wait(timeout=10) == 0
        finally:
            process.kill()


def wait_until_healthy(service: UserService, process: subprocess.Popen[bytes]) -> None:
    while process.poll() is None:
        try:
            get(service, "/health")
            return
        except requests.ConnectionError:
            time.sleep(0.05)
    raise AssertionError(f"the service ended with {process.returncode}")
