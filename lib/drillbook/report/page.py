"""A run as a page: one self-contained file that an engineer reads at night and an auditor files.

It says first what was shown, then how long it took, where the boundary ran and what was not tested; then every check,
every step and every circumstance. It is computed from the journal like the record, and loads nothing from anywhere.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import segno

from drillbook.errors import Changed, EvidenceError, EvidenceUnwritable
from drillbook.evidence import Journal, Ledger, record
from drillbook.evidence.canonical import canonical, sha256
from drillbook.evidence.facts import Facts
from drillbook.model import show_seconds
from drillbook.report import cards, claims, guidance, load, timeline
from drillbook.report.cards import show_bytes, show_instant

REPORT = "report.html"

_MEANING = {
    "verified": "Every required check was seen to hold, and what the run had to undo is proven undone.",
    "failed": "Something that was observed contradicts what this run set out to show.",
    "unproven": "Not everything that the claim needs was observed: this run neither proves nor disproves it.",
    "planned": "A plan changes nothing and claims nothing.",
    "refused": "The run ended before anything was changed, and claims nothing.",
    "waiting": "The run is at a gate and has no verdict yet.",
}
_WORDS = {"planned": "PLAN", "refused": "REFUSED", "waiting": "WAITING"}
_SIGNS = {"planned": "planned", "refused": "refused", "waiting": "open"}
LONG_TEXT = 160  # a list longer than this is folded
_SHOWN_ELSEWHERE = frozenset(
    {"achieved", "answer", "claim", "index_claims", "load_comparison", "load_curve", "reach", "test"}
)

Section = tuple[str, list[tuple[str, str]]]


def render(run_dir: Path) -> Path:
    """Write ``report.html`` into the run's folder and answer its path.

    Works for a run that is not closed yet, and says so. Raises :class:`EvidenceError` if there is no journal,
    :class:`EvidenceUnwritable` if the page can't be written.
    """
    events = Journal(run_dir / "journal.jsonl").events()
    if not events or events[0]["type"] != "opened":
        raise EvidenceError(
            f"{run_dir} holds no journal of a run", todo="Name the folder of a run: `drillbook list` shows them."
        )
    opened = events[0]
    ledger = Ledger.of(run_dir.resolve().parent.parent, str((opened.get("site") or {}).get("name", "")))
    page = html(record(events), ledger=ledger.opening(str(opened.get("run_id"))))
    path = run_dir / REPORT
    part = path.with_name(f".{REPORT}.part")
    try:
        part.write_text(page, encoding="utf-8")
        part.replace(path)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise EvidenceUnwritable(
            f"{path} can't be written: {error.strerror}",
            todo="Make room for it, then run `drillbook finish`.",
            changed=Changed.UNKNOWN,
        ) from error
    return path


def html(found: Mapping[str, Any], *, ledger: tuple[Mapping[str, Any], str] | None = None) -> str:
    """The page of a record; pure. ``ledger`` is the entry that opened the run with its line's digest, if there is one."""
    said, learned = found["verdict"], Facts.read(found["facts"])
    outcome = said["outcome"]
    word = said["verdict"] or _WORDS[outcome]
    closed = said["closed_by"] is not None
    return (
        cards.environment()
        .get_template("report.html.j2")
        .render(
            word=word,
            sign=said["verdict"] or _SIGNS[outcome],
            headline=(said["reasons"] or [said["headline"]])[0],
            meaning=_MEANING[outcome] if closed else "This run is not closed: what follows is what was seen so far.",
            answer=learned.answer or "",
            causes=said["reasons"][1:],
            guides=guidance.guides(found),
            record=found,
            title=_title(found, word),
            runbook=str(found["test"]["runbook"]).replace("-", " ").capitalize(),
            where=_where(found),
            tally=_tally(found),
            figures=[*(cards.figure(item) for item in found["objectives"]["measured"]), *_long_term_figures(found)],
            bars=cards.phase_bars(found["when"]["phases"]),
            forecast=compared_forecast(found),
            marks=cards.marks(boundary(found)),
            recovery=learned.achieved.recovery_seconds if learned.achieved else None,
            reach=_reach(found),
            claims=_claims(found),
            load=_load(learned),
            sections=sections(found),
            people=_people(found),
            digest=(digest := sha256(canonical(found) + b"\n")),
            code=_code(found, digest),
            ledger=ledger[0] if ledger else None,
            ledger_sha256=ledger[1] if ledger else "",
        )
    )


def _people(found: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Who asked, who ran and who approved: names as they were given, identities as the API server knows them."""
    who, requester = found["who"], found["who"].get("requester") or {}
    actor = who["actor"] or {}
    rows = [("Requested by", requester.get("name") or "not named")]
    rows += [("Ticket", requester["ticket"])] if requester.get("ticket") else []
    rows.append(("Run by", f"{actor.get('username') or 'unknown'} (identity: {actor.get('strength') or 'unknown'})"))
    for gate in who["approver"] or ():
        for one in gate.get("approvals") or ():
            name = f"{one['actor']['name']}, " if one["actor"].get("name") else ""
            known = f"{name}{one['actor']['username']} (identity: {one['actor'].get('strength') or 'unknown'})"
            rows.append((f"Approved: {gate['section']}", known))
    return rows


def _code(found: Mapping[str, Any], digest: str) -> str:
    """Run and digest as a QR code, so that a printed page leads back to the file that it was made from."""
    code = segno.make(f"run {found['record']['id']} record.json sha256 {digest}", error="m", micro=False)
    return code.svg_inline(border=4, light="#fff", omitsize=True)


def compared_forecast(found: Mapping[str, Any]) -> dict[str, Any] | None:
    """The forecast compared with what was achieved, as texts; None for a run that made no forecast."""
    group = found.get("forecast")
    if not group:
        return None
    achieved = {
        row["name"]: row["achieved_seconds"] for row in group["compared"] if row["achieved_seconds"] is not None
    }
    predicted = group["predicted"]
    return {
        "words": cards.forecast_words(predicted),
        "rows": cards.forecast_rows(predicted, achieved),
        "advice": cards.advice_lines(predicted),
    }


def boundary(found: Mapping[str, Any]) -> list[dict[str, str]]:
    """The points of the boundary's time line, in the order in which they happened; those not seen are left out.

    The commit that recovery stopped before is the one that came first after the target, often a tenant's: it is named
    apart from the mistake and the second marker, unless it is one of them.
    """
    points: list[dict[str, str]] = []

    def add(label: str, at: Any, kind: str, detail: str = "") -> None:
        if at:
            points.append({"label": label, "at": str(at), "kind": kind, "detail": detail})

    target = found["target"]["requested"] or {}
    before, after, newest = (target.get(key) or {} for key in ("last_before", "first_after", "newest"))
    own, at = target.get("own_marker", False), (target.get("target") or {}).get("target_time")
    at = at or before.get("committed_at")  # a target that names a transaction lies just after the commit before it
    mistake = _result(found, "SimulateMistake")
    second = mistake.get("after") or {}
    add("Base backup ends", (found["backup"] or {}).get("end_time"), "kept")
    if own:
        add("Marker before", at, "kept", _xid(_result(found, "MarkBefore").get("marker") or before))
    else:
        add("Last commit before", before.get("committed_at"), "kept", _xid(before))
    add("Target", at, "target")
    if _short_xid(after) not in (_short_xid(mistake), _short_xid(second)):
        add("First commit after", after.get("committed_at"), "left", _xid(after))
    rows = mistake.get("rows_deleted")
    add("Mistake", mistake.get("at"), "mistake", f"{rows:,} rows deleted" if rows is not None else "")
    if own and second:
        add("Marker after", second.get("written_at"), "left", _xid(second))
    else:
        add("Newest archived commit", newest.get("committed_at"), "left", _xid(newest))
    if not target:
        return []
    return sorted(points, key=lambda point: datetime.fromisoformat(point["at"]))


def _reach(found: Mapping[str, Any]) -> str:
    """The archive as it was read, with the target; "" where it was not."""
    drawn = Facts.read(found["facts"]).reach
    if not drawn:
        return ""
    target = ((found["target"]["requested"] or {}).get("target") or {}).get("target_time") or ""
    return timeline.svg({**drawn, "target": target}, standalone=False)


def _claims(found: Mapping[str, Any]) -> str:
    """An index migration's claims and what was measured, "" where the run rehearsed none."""
    measured = Facts.read(found["facts"]).index_claims
    return claims.html(measured) if measured else ""


def _load(learned: Facts) -> list[str]:
    """What a load drill measured: the comparison, and the curve."""
    found = [load.comparison_html(learned.load_comparison)] if learned.load_comparison else []
    return found + ([load.curve_html(learned.load_curve)] if learned.load_curve else [])


def _long_term_figures(found: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What an annual restore is for: how long it takes until each of its backups can be used; nothing for another run."""
    achieved = ((found["facts"].get("long_term") or {}).get("achieved") or {}).items()
    tile = {"objective": None, "met": None, "share": None}
    return [
        {
            "name": {"oldest": "oldest backup restored in", "random": "random one restored in"}.get(name, name),
            "value": show_seconds(one["retrieval_seconds"] + one["recovery_seconds"]),
            "says": f"retrieval {show_seconds(one['retrieval_seconds'])}, recovery {show_seconds(one['recovery_seconds'])}",
        }
        | tile
        for name, one in achieved
    ]


def _result(found: Mapping[str, Any], step: str) -> Mapping[str, Any]:
    """What a step of this name answered; nothing if it did not run or did not end well."""
    return next((item["result"] for item in found["steps"] if item.get("step") == step and item["result"]), {})


def _short_xid(commit: Mapping[str, Any]) -> int | None:
    """A transaction's number as the WAL has it, without its epoch."""
    return int(commit["xid"]) & 0xFFFFFFFF if commit.get("xid") else None


def sections(found: Mapping[str, Any]) -> list[Section]:
    """The details behind the verdict, each a heading and its rows; groups that the run has nothing for are left out."""
    target, copy, around = found["target"], found["copy"], found["circumstances"]
    told = {"left_out"} & set(copy["quarantine"] or {})  # said once, under its own heading
    made = {key: value for key, value in (copy["cluster"] or {}).items() if key not in told}
    wanted = (target["requested"] or {}).get("target") or {}
    pages: list[tuple[str, Any]] = [
        ("Base backup", found["backup"]),
        ("WAL chain", target["chain"]),
        ("Recovery target", {key: value for key, value in wanted.items() if value not in (None, False)}),
        ("Attempts", _attempts(target.get("attempts") or [])),
        ("Point reached", target["reached"]),
        ("Recovery window", target["window"]),
        ("Archive lag before the run", around["archive_lag"]),
        ("Recovery copy", made),
        ("Quarantine of the copy", copy["quarantine"]),
        ("Source", found["system"]["cluster"]),
        (
            "Who",
            (found["who"]["actor"] or {})
            | {
                "requested_by": (found["who"].get("requester") or {}).get("name"),
                "ticket": (found["who"].get("requester") or {}).get("ticket"),
            },
        ),
        ("When", _when(found)),
        ("Test", {key: value for key, value in found["test"].items() if key not in ("runbook", "mode")}),
        ("Versions", found["versions"]),
        ("Controls", {"references": found["controls"]["references"]} if found["controls"]["references"] else None),
        ("Clocks", around["clocks"]),
        ("Git", around["git"]),
        *((_name(name), value) for name, value in found["facts"].items() if name not in _SHOWN_ELSEWHERE),
    ]
    return [(heading, rows) for heading, value in pages if (rows := rows_of(value))]


def _attempts(targets: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Each target that the run was to recover to, and the copy that was made for it."""
    told = {}
    for one in targets:
        asked = [f"{name} {value}" for name, value in one["parameters"].items() if name.startswith("target_") and value]
        copy = ((one.get("copy") or {}).get("ref") or {}).get("name")
        told[f"attempt {one['attempt']}"] = f"{', '.join(asked) or 'end of the archive'}; copy {copy or 'not made'}"
    return told


def rows_of(value: Any, prefix: str = "") -> list[tuple[str, str]]:
    """A JSON value as rows of name and text, units and instants written for people; empty values are left out.

    The items of a list that would be a long text are on lines of their own.
    """
    if not isinstance(value, Mapping):
        return [] if value in (None, "", [], {}) else [("Value", _text("", value))]
    rows: list[tuple[str, str]] = []
    for key, item in value.items():
        name = _name(f"{prefix} {key}".strip())
        if isinstance(item, Mapping):
            short = set(item) == {"namespace", "name"}
            rows += [(name, f"{item['namespace']}/{item['name']}")] if short else rows_of(item, name)
        elif item not in (None, "", []):
            rows.append((name, _text(key, item)))
    return rows


def _name(key: str) -> str:
    if "." in key:  # the name of a table or a package
        return key
    return cards.show_name({"seconds": "duration", "segment_bytes": "segment_size"}.get(key, key))


def _text(key: str, value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if (isinstance(value, int | float) and key.endswith("_seconds")) or key == "seconds":
        return show_seconds(value)
    if isinstance(value, int | float) and key.endswith("_bytes"):
        return show_bytes(value)
    if isinstance(value, str) and (key.endswith(("_at", "_time")) or key == "at"):
        return show_instant(value)
    if key in ("postgresql", "pg_version") and str(value).isdigit():
        return cards.show_version(str(value))
    if isinstance(value, list):
        plain = [": ".join(map(str, item)) if isinstance(item, list) else _flat(item) for item in value]
        line = "; ".join(plain)
        return line if len(line) <= LONG_TEXT else "\n".join(plain)
    return cards.readable(str(value))


def _flat(item: Any) -> str:
    return ", ".join(f"{key} {value}" for key, value in item.items()) if isinstance(item, Mapping) else str(item)


def _xid(commit: Mapping[str, Any]) -> str:
    return f"XID {commit['xid']}" if commit.get("xid") else ""


def _title(found: Mapping[str, Any], word: str) -> str:
    started = str(found["when"]["started_at"] or "")[:10]
    return f"{word} · {found['system']['cluster'].get('name', '')} · {started} · Drillbook"


def _where(found: Mapping[str, Any]) -> list[tuple[str, str]]:
    system, when = found["system"], found["when"]
    cluster = system["cluster"]
    actor, requester = found["who"]["actor"] or {}, found["who"].get("requester") or {}
    took = f", {show_seconds(when['seconds'])} in all" if when["seconds"] is not None else ""
    return [
        ("Cluster", f"{cluster.get('namespace', '')}/{cluster.get('name', '')}"),
        ("Site", cards.show_site(system["site"], system["environment"])),
        ("Started", (show_instant(when["started_at"])[:16] + " UTC" + took) if when["started_at"] else "–"),
        ("By", ", ".join(filter(None, (requester.get("name"), requester.get("ticket"), actor.get("username")))) or "–"),
    ]


def _tally(found: Mapping[str, Any]) -> dict[str, int]:
    """How many required checks ended how; of a run that is not closed, those that were not run are still to come."""
    required = [check for check in found["checks"] if check.get("required", True)]
    open_ones = [check for check in required if found["verdict"]["closed_by"] is None and check["reason"] == "not run"]
    required = [check for check in required if check not in open_ones]
    count = {word: sum(check["verdict"] == word for check in required) for word in ("VERIFIED", "FAILED", "UNPROVEN")}
    counted = sum(check["verdict"] != "n/a" for check in required)
    return count | {
        "to come": len(open_ones),
        "n/a": sum(check["verdict"] == "n/a" for check in found["checks"]),
        "required": counted,
    }


def _when(found: Mapping[str, Any]) -> dict[str, Any]:
    when = found["when"]
    keys = ("planned_at", "started_at", "finished_at", "seconds")
    attempts = [f"{item['n']}: {item['how']}" for item in when["attempts"]]
    return {key.replace("seconds", "took_seconds"): when[key] for key in keys} | {"attempts": attempts}


__all__ = ["REPORT", "boundary", "html", "render", "rows_of", "sections"]
