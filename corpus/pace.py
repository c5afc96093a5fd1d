"""How fast a server is asked: slower after every refusal, faster again with every answer, never before it said.

    due       seconds before the next request to a host: the pace it has taken so far, or what its Retry-After left open
    refused   that pace is halved, from `first_wait_s` up to a minute between requests
    answered  it is doubled, and what was lost is forgotten
    lost      seconds spent on a host, waiting or in stalls, since it last answered: over all that was asked of it

Who waits, and when to give up, is corpus/remote_body.py's part.
"""

from __future__ import annotations

import contextlib
import datetime
import email.utils
import math
import time
from collections.abc import Callable
from dataclasses import dataclass

__all__ = ["SLOWEST_S", "Access", "Pace", "retry_after"]

SLOWEST_S = 60.0  # between two requests, unless the server says more


@dataclass(frozen=True)
class Access:
    """budget_s: of waiting, per file, and per host that answers nothing. first_wait_s: after the first refusal.

    stall_s: without a byte. cache: a local folder.
    """

    user_agent: str = "crawl-to-tokens"
    budget_s: float = 600.0
    first_wait_s: float = 1.0
    stall_s: float = 60.0
    cache: str | None = None


class Pace:
    """Of one reader. sleep, clock: how to wait, for tests. tries: requests made; waited: seconds slept, in all."""

    def __init__(
        self, first_wait_s: float, sleep: Callable[[float], None] = time.sleep, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.first_wait_s = first_wait_s
        self.sleep, self.clock = sleep, clock
        self.delays: dict[str, float] = {}  # by host: seconds before each request
        self.closed_until: dict[str, float] = {}  # by host: when its Retry-After ends
        self.lost: dict[str, float] = {}
        self.refused_at: dict[str, float] = {}
        self.tries = 0
        self.waited = 0.0

    def due(self, host: str) -> float:
        return max(self.delays.get(host, 0.0), self.closed_until.get(host, 0.0) - self.clock())

    def pause(self, seconds: float) -> None:
        self.tries += 1
        if seconds > 0:
            self.waited += seconds
            self.sleep(seconds)

    def spend(self, host: str, seconds: float) -> None:
        self.lost[host] = self.lost.get(host, 0.0) + seconds

    def given_up(self, host: str, budget_s: float) -> bool:
        """It has cost the budget, and it is not yet time to see whether it is back: asked for nothing, it costs nothing."""
        delay = self.delays.get(host, 0.0)
        if self.lost.get(host, 0.0) + delay <= budget_s:
            return False
        return self.clock() - self.refused_at.get(host, -math.inf) < min(delay, budget_s)

    def refused(self, host: str, at_least: float) -> None:
        self.refused_at[host] = self.clock()
        self.delays[host] = min(SLOWEST_S, max(self.first_wait_s, 2 * self.delays.get(host, 0.0)))
        if at_least > 0:
            self.closed_until[host] = self.clock() + at_least

    def answered(self, host: str) -> None:
        self.lost[host] = 0.0
        delay = self.delays.get(host, 0.0) / 2
        self.delays[host] = delay if delay >= self.first_wait_s / 4 else 0.0


def retry_after(error: Exception) -> float:
    """Seconds the server asks to wait, as a number or a date; 0 where it does not."""
    headers = getattr(error, "headers", None)
    value = headers.get("Retry-After") if headers is not None and hasattr(headers, "get") else None
    if value is None:
        return 0.0
    with contextlib.suppress(ValueError):
        return max(0.0, float(value))
    with contextlib.suppress(ValueError, TypeError):
        moment = email.utils.parsedate_to_datetime(value)
        return max(0.0, (moment - datetime.datetime.now(datetime.UTC)).total_seconds())
    return 0.0
