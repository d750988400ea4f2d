"""What an index rehearsal and a connection load drill have measured, as their reports are given it."""

from __future__ import annotations

from typing import Any

_ROW: dict[str, Any] = {
    "index": "idx_incidents_status_sla_deadline",
    "table": "synergyflow_incidents.incidents",
    "claim": "50-70 % faster",
    "class": "unusable",
    "measured": "not used; 108 pages, 2,099 rows",
    "variant": "overdue incidents (now, generic plan)",
    "why": "another plan is cheaper: it could be used; the planner takes Seq Scan incidents",
    "corrected": "CREATE INDEX idx_incidents_status_sla_deadline ON synergyflow_incidents.incidents (sla_deadline)",
    "corrected_query": "",
    "rule": "equality columns first, then range",
    "costs_unproven": "",
    "unstable": [],
    "hot": [["an incident moves on", 0.0, 0.0]],
    "wal_bytes": 43.0,
    "size_bytes": 73728,
    "build_seconds": 0.2,
    "lock": "ShareLock",
    "pages_before": 108,
    "pages_after": 12,
    "only_limited": False,
    "used_with_all": False,
}


def _variant(name: str) -> dict[str, Any]:
    times = {"acquire": "1.3 / 7.3 / 46.1 ms", "query": "4.5 / 33.8 / 75.8 ms", "latency": "33.8 / 100.4 / 184.3 ms"}
    counts = {"throughput": 224.7, "timeouts": 0, "waiting": 4, "arrivals": 261, "pool": 4}
    return times | counts | {"name": name, "refusals": [], "saturation": "2% open, 98% closed loop"}


def _point(pool: int, p95_ms: float, throughput: float) -> dict[str, Any]:
    modelled = {"modelled_p95_ms": p95_ms * 1.2, "modelled_throughput": throughput * 1.1}
    return modelled | {"pool": pool, "p95_ms": p95_ms, "throughput": throughput, "timeouts": 0}


FACTS: dict[str, Any] = {
    "index_claims": {"migration": "V011", "digest": "7" * 64, "server_version": "18.6", "rows": [_ROW]},
    "load_comparison": {
        "decision": "UNPROVEN",
        "reached": "by the Service shared-postgres-load",
        "untrusted": "",
        "pooler": "at most 0 clients waited (cl_waiting), longest wait 0.00 s, in 66 looks",
        "variants": [_variant("baseline"), _variant("candidate")],
        "criteria": [
            {
                "name": "p95 latency",
                "required": "below 200 ms, by the upper end of the 95 % interval",
                "measured": "90 ms (68 to 100); 0.987 (0.522 to 1.09) of the baseline's: no difference seen",
                "decision": "UNPROVEN",
            }
        ],
    },
    "load_curve": {
        "pods": 2,
        "rate": 40.0,
        "holding_ms": 38.63,
        "holds": True,
        "assumption": "",
        "knee": 2,
        "modelled_knee": 2,
        "pooler": "",
        "points": [_point(1, 217.0, 57.7), _point(2, 104.0, 120.0), _point(3, 84.0, 163.7)],
    },
}
