"""Wrong passwords are slowed down, and nobody can lock out somebody else."""

from collections.abc import Callable
from typing import Any

import pytest
from identities import ADMIN, AGENT_KEY, TLS_SECRET
from sqlalchemy.exc import OperationalError

from paddock_mlflow.logins import ADDRESS, PAIR, USER, Attempts, TooManyLogins

SEARCH = "/api/2.0/mlflow/experiments/search"
CHAT = "/gateway/mlflow/v1/chat/completions"


class Clock:
    def __init__(self) -> None:
        self.seconds = 1000.0

    def __call__(self) -> float:
        return self.seconds


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def attempts(clock: Clock) -> Attempts:
    return Attempts(clock)


def wrong() -> bool:
    return False


def right() -> bool:
    return True


def never() -> bool:
    raise AssertionError("the password was looked at")


def fail(attempts: Attempts, times: int, *, user: str = "admin", address: str = "203.0.113.9") -> None:
    for _ in range(times):
        assert attempts.check(user, address, wrong, local=False) is False


def refused(attempts: Attempts, *, user: str = "admin", address: str = "203.0.113.9") -> int:
    with pytest.raises(TooManyLogins) as error:
        attempts.check(user, address, never, local=False)
    return error.value.retry_after


def test_an_address_that_fails_too_often_waits_for_its_next_attempt(attempts: Attempts, clock: Clock) -> None:
    fail(attempts, ADDRESS.burst)
    assert refused(attempts) == ADDRESS.seconds
    # Another name does not help, nor does the right password.
    assert refused(attempts, user="ada") == ADDRESS.seconds

    clock.seconds += ADDRESS.seconds - 1
    assert refused(attempts) == 1
    clock.seconds += 1
    assert attempts.check("admin", "203.0.113.9", right, local=False)


def test_a_right_password_costs_nothing(attempts: Attempts) -> None:
    for _ in range(10 * USER.burst):
        assert attempts.check("ada", "203.0.113.9", right, local=False)


def test_one_user_from_many_addresses(attempts: Attempts, clock: Clock) -> None:
    for number in range(USER.burst):
        fail(attempts, 1, address=f"198.51.100.{number}")
    assert refused(attempts, address="192.0.2.1") == USER.seconds
    # Others at the same new address go on.
    assert attempts.check("ada", "192.0.2.1", right, local=False)
    # It ends by itself, whatever strangers sent meanwhile.
    clock.seconds += USER.seconds
    assert attempts.check("admin", "192.0.2.1", right, local=False)


def test_strangers_do_not_lock_out_who_has_logged_in_before(attempts: Attempts) -> None:
    assert attempts.check("admin", "192.0.2.1", right, local=False)

    for number in range(USER.burst):
        fail(attempts, 1, address=f"198.51.100.{number}")
    fail(attempts, ADDRESS.burst, user="ada", address="192.0.2.1")

    assert refused(attempts, user="grace", address="192.0.2.1")
    assert attempts.check("admin", "192.0.2.1", right, local=False)
    # Even there the password can't be tried at will.
    fail(attempts, PAIR.burst, address="192.0.2.1")
    assert refused(attempts, address="192.0.2.1") == PAIR.seconds


def test_who_sits_at_the_machine_is_never_locked_out_by_others(attempts: Attempts) -> None:
    for number in range(USER.burst):
        fail(attempts, 1, address=f"198.51.100.{number}")
    assert refused(attempts, address="172.18.0.1")
    assert attempts.check("admin", "172.18.0.1", right, local=True)


def test_attempts_at_the_same_moment_count_before_they_are_looked_at(attempts: Attempts) -> None:
    looked_at = 0

    def nested() -> bool:
        nonlocal looked_at
        looked_at += 1
        with pytest.raises(TooManyLogins) if looked_at == ADDRESS.burst else _nothing():
            attempts.check("admin", "203.0.113.9", nested, local=False)
        return False

    attempts.check("admin", "203.0.113.9", nested, local=False)
    assert looked_at == ADDRESS.burst


class _nothing:
    def __enter__(self) -> None: ...
    def __exit__(self, *_: object) -> None: ...


def test_addresses_of_one_ipv6_network_are_one(attempts: Attempts) -> None:
    for number in range(ADDRESS.burst):
        fail(attempts, 1, address=f"2001:db8::{number:x}")
    assert refused(attempts, address="2001:db8::ffff")
    fail(attempts, 1, address="2001:db8:0:1::1")
    fail(attempts, ADDRESS.burst, address="::ffff:203.0.113.9")
    assert refused(attempts, address="203.0.113.9")


def test_a_database_that_is_away_costs_nobody_an_attempt(attempts: Attempts) -> None:
    def away() -> bool:
        raise OperationalError("SELECT", {}, Exception("connection refused"))

    for _ in range(2 * ADDRESS.burst):
        with pytest.raises(OperationalError):
            attempts.check("admin", "203.0.113.9", away, local=False)


def test_memory_is_bounded(attempts: Attempts, monkeypatch: pytest.MonkeyPatch) -> None:
    from paddock_mlflow import logins

    monkeypatch.setattr(logins, "REMEMBERED", 100)
    for number in range(300):
        attempts.check(f"user-{number}", f"198.51.{number // 250}.{number % 250}", right, local=False)
        attempts.check(f"other-{number}", f"203.0.{number // 250}.{number % 250}", wrong, local=False)
    assert len(attempts._buckets) == len(attempts._known) == 100


def test_a_page_of_another_site_spends_nothing_with_a_persons_password(server: Any) -> None:
    """A browser sends it along, whoever asks. A key is sent by whom it belongs to."""
    call = {"model": "no-such-endpoint", "messages": []}
    for origin, status in (("https://evil.test", 403), ("null", 403), ("http://localhost:3000", 404)):
        answer = server.http.post(CHAT, json=call, headers={"Origin": origin}, auth=ADMIN)
        assert answer.status_code == status, origin
    key = {"Authorization": f"Bearer {AGENT_KEY}", "Origin": "vscode-file://vscode-app"}
    assert server.http.post(CHAT, json=call, headers=key).status_code == 404


@pytest.fixture
def fresh(server: Any, monkeypatch: pytest.MonkeyPatch) -> Callable[..., dict[str, str]]:
    """No attempts so far; returns the headers of somebody who comes through the TLS proxy."""
    from paddock_mlflow import identity

    monkeypatch.setattr(identity, "_ATTEMPTS", Attempts())
    return lambda address: {"X-Paddock-Tls": TLS_SECRET, "X-Forwarded-For": address}


def test_the_server_answers_429_and_says_when(server: Any, fresh: Callable[..., dict[str, str]]) -> None:
    stranger = fresh("203.0.113.9")
    for _ in range(ADDRESS.burst):
        answer = server.http.post(SEARCH, json={}, headers=stranger, auth=("admin", "wrong"))
        assert answer.status_code == 401

    # The right password, too: it would tell that it is right.
    answer = server.http.post(SEARCH, json={}, headers=stranger, auth=ADMIN)
    assert (answer.status_code, answer.json()["error_code"]) == (429, "REQUEST_LIMIT_EXCEEDED")
    assert 0 < int(answer.headers["Retry-After"]) <= ADDRESS.seconds
    call = server.http.post(CHAT, json={"model": "x", "messages": []}, headers=stranger, auth=ADMIN)
    assert (call.status_code, call.json()["error"]["code"]) == (429, "rate_limit_exceeded")
    assert 0 < int(call.headers["Retry-After"]) <= ADDRESS.seconds

    # What a client says of its address counts for nothing, and others are not concerned.
    claimed = stranger | {"X-Forwarded-For": "192.0.2.7, 203.0.113.9"}
    assert server.http.post(SEARCH, json={}, headers=claimed, auth=ADMIN).status_code == 429
    assert (
        server.http.post(SEARCH, json={"max_results": 1}, headers=fresh("192.0.2.7"), auth=ADMIN).status_code
        == 200
    )
    assert server.http.post(SEARCH, json={"max_results": 1}, auth=ADMIN).status_code == 200
