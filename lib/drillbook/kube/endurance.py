"""Asking again while the control plane is away: what may be repeated, how long, and how a repeated change is recognised.

A read may always be repeated. A change may be repeated at once when the API server certainly did nothing (429, a
refused connection, an admission webhook that could not be called). Any other missing answer leaves it unknown; then
only a request that is the same done twice is repeated, and a conflict that its own first attempt caused is settled by
reading the object.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar

from drillbook.errors import Changed, KubernetesError

PATIENCE_SECONDS = 330.0
"""How long a server that has answered before may be away: a control plane that is upgraded takes minutes."""
FIRST_SECONDS = 2.0
"""How long the first answer of all is waited for: an address that is wrong should be reported at once."""
INTERNAL_SECONDS = 60.0
"""How long an internal error (500) is repeated: "leader changed" and a webhook that restarts pass, a bug stays."""
WARM_UP_SECONDS = 30.0
"""A server that has just come back refuses rights that it granted before, until its caches are filled."""
_FIRST_PAUSE, _LONGEST_PAUSE, _LONGEST_RETRY_AFTER = 0.1, 5.0, 60.0

T = TypeVar("T")


@dataclass
class Endurance:
    """How one client waits for its API server. ``say`` is called while it is away, with the reason and the seconds so far."""

    patience_seconds: float = PATIENCE_SECONDS
    say: Callable[[str, float], None] = lambda _why, _seconds: None
    answered: bool = False
    _away_at: float = field(default=float("-inf"), repr=False)

    def run(
        self,
        attempt: Callable[[], T],
        *,
        repeatable: bool,
        settle: Callable[[], T | None] | None = None,
        patience: float | None = None,
    ) -> T:
        """The first good answer to ``attempt``. ``repeatable``: doing it twice is the same as once.

        ``settle`` is asked when a repeated change meets 404 or 409: it returns the answer if that is this request's own
        doing, None if somebody else's. Raises the last KubernetesError when patience ends or it may not be repeated.
        """
        begun, pause, unknown = time.monotonic(), _FIRST_PAUSE, False
        while True:
            try:
                found = attempt()
            except KubernetesError as error:
                if unknown and settle is not None and error.status in (404, 409):
                    done = settle()
                    if done is not None:
                        return done
                now = time.monotonic()
                if not self._passes(error, now):
                    raise
                if not error.undone and error.status != 403:
                    if not repeatable:
                        raise
                    unknown = True
                limit = self.patience_seconds if patience is None else patience
                limit = min(limit, self._limit(error))
                wait = random.uniform(pause / 2, pause)  # noqa: S311 - jitter: many clients come back at once
                if error.retry_after is not None:
                    wait = max(wait, min(error.retry_after, _LONGEST_RETRY_AFTER))
                if now + wait - begun > limit:
                    if unknown and error.changed is Changed.NOTHING:
                        error.changed = Changed.UNKNOWN
                    raise
                if now - begun > 1:
                    self.say(error.what, now - begun)
                time.sleep(wait)
                pause = min(pause * 2, _LONGEST_PAUSE)
            else:
                self.answered = True
                return found

    def _passes(self, error: KubernetesError, now: float) -> bool:
        if is_passing(error):
            if error.status == 0:
                self._away_at = now
            return True
        return error.status == 403 and now - self._away_at < WARM_UP_SECONDS

    def _limit(self, error: KubernetesError) -> float:
        if error.status == 0 and not self.answered:
            return FIRST_SECONDS
        return INTERNAL_SECONDS if error.status == 500 else self.patience_seconds


def is_passing(error: BaseException) -> bool:
    """Whether a request that failed so may succeed when it is made again."""
    return isinstance(error, KubernetesError) and error.status in (0, 429, 500, 502, 503, 504)


__all__ = ["Endurance", "is_passing"]
