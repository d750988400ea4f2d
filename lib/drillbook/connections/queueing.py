"""Queueing models of a connection pool: M/M/c for open arrivals (Erlang C), exact mean value analysis for a closed loop. Pure.

Times are in seconds, rates in transactions a second. Sources: L. Kleinrock, Queueing Systems I (1975), 3.5; M. Reiser and
S. Lavenberg, Mean-Value Analysis of Closed Multichain Queuing Networks, JACM 27 (1980), for stations of several servers.
"""

from __future__ import annotations

import math
from collections.abc import Mapping


def erlang_c(connections: int, load: float) -> float:
    """The probability that an arrival must wait: ``load`` = rate × holding time, in erlang; 1 where the load is not carried.

    ValueError if ``connections`` is less than 1 or ``load`` negative.
    """
    if connections < 1 or load < 0:
        raise ValueError(f"{connections} connections and {load} erlang: at least one connection, and no negative load")
    if load >= connections:
        return 1.0
    blocked = 1.0  # Erlang B by its recurrence, which does not overflow
    for count in range(1, connections + 1):
        blocked = load * blocked / (count + load * blocked)
    return blocked / (1 - load / connections * (1 - blocked))


def mean_wait(connections: int, rate: float, holding: float) -> float:
    """The mean wait for a connection; infinite where the load is not carried."""
    free = connections / holding - rate
    return erlang_c(connections, rate * holding) / free if free > 0 else math.inf


def latency_quantile(connections: int, rate: float, holding: float, quantile: float = 0.95) -> float:
    """The quantile of wait plus holding time, both exponential; infinite where the load is not carried."""
    service, free = 1 / holding, connections / holding - rate
    if free <= 0:
        return math.inf
    waits = erlang_c(connections, rate * holding)

    def longer(than: float) -> float:
        alone = math.exp(-service * than)
        if math.isclose(free, service, rel_tol=1e-9):
            both = (1 + service * than) * alone
        else:
            both = (free * alone - service * math.exp(-free * than)) / (free - service)
        return (1 - waits) * alone + waits * both

    low, high = 0.0, holding
    while longer(high) > 1 - quantile:
        high *= 2
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if longer(middle) > 1 - quantile else (low, middle)
    return high


def knee(latencies: Mapping[int, float], slack: float = 1.25) -> int | None:
    """The smallest pool from which on more connections gain nothing: the quantile stays within ``slack`` of the largest's.

    ``latencies`` by pool size; None if even the largest does not carry the load. ValueError if it is empty.
    """
    if not latencies:
        raise ValueError("no pool size was measured")
    sizes = sorted(latencies, reverse=True)
    if math.isinf(latencies[sizes[0]]):
        return None
    found = sizes[0]
    for size in sizes:
        if not latencies[size] <= slack * latencies[sizes[0]]:
            break
        found = size
    return found


def closed_loop(customers: int, demand: float, servers: int, delay: float) -> list[float]:
    """The throughput for 1 to ``customers`` transactions at once, by exact mean value analysis.

    Each needs ``demand`` at one station of ``servers`` servers (the processors) and ``delay`` where nobody queues (the
    application's own work within the transaction). ValueError if nothing takes any time.
    """
    if demand + delay <= 0 or servers < 1:
        raise ValueError("a transaction that takes no time has no throughput")
    found: list[float] = []
    busy = [1.0] + [0.0] * (servers - 1)  # the probability of 0, 1, … at the station, one customer earlier
    queue = 0.0
    for count in range(1, customers + 1):
        idle = sum((servers - 1 - number) * busy[number] for number in range(servers - 1))
        residence = demand / servers * (1 + queue + idle)
        throughput = count / (residence + delay)
        queue = throughput * residence
        after = [0.0] * servers
        for number in range(1, servers):
            after[number] = throughput * demand / number * busy[number - 1]
        rest = throughput * demand + sum((servers - number) * after[number] for number in range(1, servers))
        after[0] = max(0.0, 1 - rest / servers)
        busy = after
        found.append(throughput)
    return found


__all__ = ["closed_loop", "erlang_c", "knee", "latency_quantile", "mean_wait"]
