"""So many calls a minute: each caller alone, reads and writes apart, and Redis may be away."""

from uuid import uuid4

import pytest
from fastapi import FastAPI

from app.http.limiting import RateLimited, RateLimiter
from tests.fixtures.api import Caller

AWAY = "unix:///nowhere/redis.sock?db=0"


@pytest.mark.parametrize("redis_url", [None, AWAY])
def test_one_too_many_is_refused_and_told_when_there_is_room(redis_url: str | None) -> None:
    limiter, caller, other = RateLimiter(reads=3, writes=1, redis_url=redis_url), uuid4(), uuid4()
    for _ in range(3):
        limiter.require(caller, "GET")
    with pytest.raises(RateLimited) as refused:
        limiter.require(caller, "GET")
    assert 1 <= refused.value.retry_after <= 60
    limiter.require(other, "GET")
    limiter.require(caller, "POST")
    with pytest.raises(RateLimited):
        limiter.require(caller, "DELETE")


def test_the_door_answers_429(app: FastAPI, officer: Caller) -> None:
    app.state.limiter = RateLimiter(reads=1, writes=1, redis_url=None)
    assert officer.get("/v1/erasure-requests").status_code == 200
    refused = officer.get("/v1/erasure-requests")
    assert (refused.status_code, refused.json()["code"]) == (429, "rate-limited")
    assert 1 <= int(refused.headers["retry-after"]) <= 60
    assert refused.headers["content-type"] == "application/problem+json"
