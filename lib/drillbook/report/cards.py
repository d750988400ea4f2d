"""What a notebook shows: pure functions from plain data to mime bundles (``text/html`` and ``text/plain``).

A card carries its styles inline, so it looks the same in JupyterLab (light or dark), in ``executed.html`` and on paper.
Text takes the page's own colour; a verdict is shown by its word and its shape, never by colour alone.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import cache
from typing import Any

import yaml
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from drillbook.errors import Changed
from drillbook.model import show_seconds
from drillbook.report import guidance

Bundle = dict[str, str]
Rows = Sequence[tuple[str, str]]

MOST_ROWS = 12
RECOVERY_PHASES = ("provision", "fetch", "replay", "promote")
# One in quotes is there to be pasted: all of its digits count.
_INSTANT = re.compile(r"(?<!\")\b\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d+)?(?:Z|[+-]\d\d:\d\d)")
_PARTS = re.compile(r":(?=[a-z])|[_.](?=[A-Za-z])")
_WHOLE = re.compile(r"\d{4}-\d\d-\d\d(?: [\d:.]+(?: UTC)?)?|\d+(?:\.\d+)? (?:s|min|h|d)\b(?: \d+ (?:s|min|h)\b)?")
_RANK = {"FAILED": 0, "UNPROVEN": 1}
_ACRONYMS = {
    "id": "ID",
    "oid": "OID",
    "lsn": "LSN",
    "wal": "WAL",
    "xid": "XID",
    "uid": "UID",
    "pg": "PostgreSQL",
    "sha256": "SHA-256",
    "postgresql": "PostgreSQL",
    "cnpg": "CloudNativePG",
    "storageclass": "storage class",
    "storageClass": "storage class",
}
EFFECT_WORDS = {"reads": "reads only", "creates": "creates", "changes": "changes", "destroys": "destroys"}


def show_instant(text: str | None) -> str:
    """An RFC 3339 instant as people read it, in UTC; text that is none stays as it is."""
    if not text:
        return "–"
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        return text
    fraction = f".{at.microsecond // 1000:03d}" if at.microsecond else ""
    return f"{at:%Y-%m-%d %H:%M:%S}{fraction} UTC"


def show_bytes(count: float | None) -> str:
    """A size as people read it, in binary units."""
    if count is None:
        return "–"
    size, unit = float(count), "B"
    for larger in ("KiB", "MiB", "GiB", "TiB"):
        if abs(size) < 1024:
            break
        size, unit = size / 1024, larger
    return f"{size:.0f} {unit}" if unit == "B" or size >= 100 else f"{size:.1f} {unit}"


def show_name(key: str) -> str:
    """A field's name as people read it: ``begin_wal`` is "Begin WAL"; a unit at its end goes to the value."""
    words = key.removesuffix("_seconds").removesuffix("_bytes").replace("_", " ").split() or [key]
    shown = [_ACRONYMS.get(word.lower(), word) for word in words]
    return " ".join([shown[0][:1].upper() + shown[0][1:], *shown[1:]])


def show_version(number: str) -> str:
    """``server_version_num`` as PostgreSQL writes its version: 180006 is 18.6."""
    major, minor = divmod(int(number), 10000)
    return f"{major}.{minor}" if minor else str(major)


def show_yaml(value: Any) -> str:
    """A manifest as YAML, keys in the order in which they were given."""
    return str(yaml.safe_dump(value, sort_keys=False, allow_unicode=True, width=110)).rstrip()


@cache
def environment() -> Environment:
    """The package's templates, with escaping on and unknown names refused."""
    found = Environment(
        loader=PackageLoader("drillbook"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    found.filters |= {"seconds": show_seconds, "bytes": show_bytes, "instant": show_instant, "yaml": show_yaml}
    found.filters |= {"clock": _clock, "together": _together, "took": _took, "changed": changed_words}
    found.filters["breakable"] = _breakable
    return found


def draw(card: str, lines: Sequence[str], **values: Any) -> Bundle:
    """A card of the template, with ``lines`` as its text."""
    html = environment().get_template("cards.html.j2").render(card=card, **values)
    return {"text/html": html.strip(), "text/plain": "\n".join(line for line in lines if line)}


def plain_rows(rows: Rows) -> list[str]:
    """Names and values in two columns."""
    width = max((len(name) for name, _ in rows), default=0)
    return [f"  {name:<{width}}  {value}" for name, value in rows]


def _cut(rows: Sequence[Any], most: int = MOST_ROWS) -> tuple[list[Any], int]:
    """At most ``most`` rows, and how many were left out."""
    return list(rows[:most]), max(0, len(rows) - most)


def show_site(name: str | None, environment: str | None) -> str:
    """A site and its environment, once if both have the same name."""
    return f"{name or ''} ({environment})" if environment and environment != name else name or ""


def _field(name: str, value: str) -> tuple[str, str]:
    """A field of a result, given as name and text, as people read it."""
    if value in ("True", "False"):
        value = "yes" if value == "True" else "no"
    elif name.endswith("seconds") and value.replace(".", "", 1).isdigit():
        name, value = name.removesuffix("seconds").strip() or "took", show_seconds(float(value))
    elif name.endswith(" bytes") and value.isdigit():
        name, value = name.removesuffix(" bytes"), show_bytes(float(value))
    elif name.endswith("version") and len(value) in (5, 6) and value.isdigit():
        value = show_version(value)
    return show_name(name), readable(value)


def run_card(opened: Mapping[str, Any]) -> Bundle:
    """Where, who, and in which mode, from a journal's ``opened`` event."""
    site, cluster, actor = (opened.get(key) or {} for key in ("site", "cluster", "actor"))
    goals = opened.get("objectives") or {}
    named = [("recovery time", goals.get("rto_seconds")), ("recovery point", goals.get("rpo_seconds"))]
    promised = ", ".join(f"{name} {show_seconds(goal)}" for name, goal in named if goal is not None)
    rows = [
        ("Cluster", f"{cluster.get('namespace', '')}/{cluster.get('name', '')}"),
        ("Site", show_site(site.get("name"), site.get("environment"))),
        (
            "Who",
            f"{actor.get('username', '')} on {actor.get('host', '')} (identity: {actor.get('strength', 'unknown')})",
        ),
        ("Objectives", promised),
        ("Run", str(opened.get("run_id", ""))),
    ]
    rows = [(name, value) for name, value in rows if value]
    plan = opened.get("mode") == "plan"
    says = "Plan: nothing will be changed" if plan else "Apply: steps are carried out"
    caveats = list(site.get("caveats") or [])
    text = [f"{opened.get('runbook', '')} · {says}", *plain_rows(rows)]
    return draw("run", text, title=opened.get("runbook", ""), says=says, plan=plan, rows=rows, caveats=caveats)


def step_card(
    *,
    n: int,
    title: str,
    why: str = "",
    effect: str = "reads",
    status: str = "done",
    seconds: float = 0.0,
    rows: Rows = (),
    checks: Sequence[Mapping[str, Any]] = (),
    plan: Mapping[str, Any] | None = None,
    error: Mapping[str, Any] | None = None,
    reason: str = "",
) -> Bundle:
    """A step and how it ended. ``status`` is done, planned, failed, refused or not run; tables hold 12 rows at most."""
    shown, left_out = _cut([_field(name, value) for name, value in rows])
    ordered = sorted(checks, key=lambda check: _RANK.get(check["verdict"], 2))
    shown_checks, checks_left_out = _cut(ordered)
    text = [f"{n}  {title}: {status}" + (f" in {show_seconds(seconds)}" if seconds else ""), *plain_rows(shown)]
    text += [line for check in shown_checks for line in _plain_check(check)]
    if plan:
        text += [
            f"  {plan['summary']}" if plan["summary"] != title else "",
            *(f"    {line}" for line in plan.get("touches", ())),
        ]
        text += [f"  - {note}" for note in plan.get("notes", ())]
        text += [f"  lost: {line}" for line in plan.get("lost", ())]
    text += [f"  {line}" for line in _plain_error(error)] + [f"  {reason}" if reason else ""]
    return draw(
        "step",
        text,
        n=n,
        title=title,
        why=why,
        effect=effect,
        effect_word=EFFECT_WORDS.get(effect, effect),
        status=status,
        seconds=seconds,
        rows=shown,
        left_out=left_out,
        checks=shown_checks,
        checks_left_out=checks_left_out,
        plan=plan,
        error=error,
        reason=reason,
    )


def progress_card(title: str, text: str, *, fraction: float | None = None, rows: Rows = ()) -> Bundle:
    """What is going on now; ``fraction`` is from 0 to 1, None while the end isn't known."""
    share = None if fraction is None else min(1.0, max(0.0, fraction))
    shown, _ = _cut([(show_name(name), value) for name, value in rows])
    percent = "" if share is None else f" {share:.0%}"
    return draw(
        "progress", [f"{title}: {text}{percent}", *plain_rows(shown)], title=title, text=text, share=share, rows=shown
    )


def verdict_card(record: Mapping[str, Any], *, seal_with: str = "") -> Bundle:
    """How a run ended, from its record: the verdict, its causes, the figures compared with their objectives.

    ``seal_with`` is the command that seals it, where it isn't sealed yet: until then nothing is called VERIFIED.
    """
    said = record["verdict"]
    word = said["verdict"] or str(said["outcome"]).upper()
    word = "UNSEALED" if seal_with and word == "VERIFIED" else word
    measured = record["objectives"]["measured"]
    causes, left_out = _cut(said["reasons"][1:], 6)  # the headline gives the first
    text = [f"{word}: {said['headline']}"]
    text += [f"  - {cause}" for cause in causes]
    guides = guidance.guides(record)
    text += [f"  next: {sentence}" for sentence in guides]
    text += plain_rows([(item["name"], _plain_figure(item)) for item in measured])
    text += [f"  unsealed: save this notebook, then in a terminal: {seal_with}"] if seal_with else []
    return draw(
        "verdict",
        text,
        word=word,
        seal_with=seal_with,
        headline=(said["reasons"] or [said["headline"]])[0],
        causes=causes,
        left_out=left_out,
        guides=guides,
        figures=[figure(item) for item in measured],
        run_id=record["record"]["id"],
    )


def forecast_rows(forecast: Mapping[str, Any], achieved: Mapping[str, float] | None = None) -> list[dict[str, str]]:
    """The forecast's phases and its whole as texts, compared with what was achieved if that is known."""
    whole = {"name": "recovery time", "source": "", "how": forecast.get("unknown") or ""}
    whole |= {key: forecast.get(key) for key in ("seconds", "low", "high")}
    return [_forecast_row(item, (achieved or {}).get(str(item["name"]))) for item in [*forecast["phases"], whole]]


def _forecast_row(item: Mapping[str, Any], achieved: float | None) -> dict[str, str]:
    likely, low, high = item["seconds"], item["low"], item["high"]
    off = ""
    if likely is not None and achieved:
        off = f"{100 * (likely - achieved) / achieved:+.0f} %".replace("-", "−")
    return {
        "name": str(item["name"]),
        "likely": "unknown" if likely is None else show_seconds(likely),
        "interval": "" if low is None or high is None else f"{show_seconds(low)} to {show_seconds(high)}",
        "achieved": "" if achieved is None else show_seconds(achieved),
        "off": off,
        "how": str(item.get("how") or ""),
    }


def forecast_words(forecast: Mapping[str, Any]) -> str:
    """Where a forecast comes from, in a sentence."""
    count = forecast["samples"]
    if forecast["seconds"] is None:
        return f"Unknown: {forecast['unknown']}"
    if count:
        return f"From {count} earlier {'run' if count == 1 else 'runs'} of this site, whose evidence is intact."
    return "From a short read of the archive: no earlier run of this site could be used."


def advice_lines(forecast: Mapping[str, Any]) -> list[str]:
    """What would shorten the recovery, and by how much where that can be computed."""
    return [
        f"{item['setting']}"
        + (f", about {show_seconds(item['saves_seconds'])} less" if item["saves_seconds"] is not None else "")
        + f": {item['what']}"
        for item in forecast.get("advice") or []
    ]


def forecast_card(forecast: Mapping[str, Any]) -> Bundle:
    """A forecast: each phase with its interval and where it comes from, and what would shorten it."""
    rows, words, advice = forecast_rows(forecast), forecast_words(forecast), advice_lines(forecast)
    text = [words, *plain_rows([(row["name"], f"{row['likely']}  {row['interval']}".rstrip()) for row in rows])]
    text += [f"  - {line}" for line in advice]
    return draw("forecast", text, rows=rows, words=words, advice=advice)


def figure(item: Mapping[str, Any]) -> dict[str, Any]:
    """One objective as a figure: achieved, objective, met, forecast, and which share of the objective was used."""
    goal, achieved, forecast = item["objective_seconds"], item["achieved_seconds"], item.get("forecast_seconds")
    return {
        "name": item["name"],
        "value": "not measured" if achieved is None else show_seconds(achieved),
        "objective": None if goal is None else show_seconds(goal),
        "met": item["met"],
        "share": None if not goal or achieved is None else achieved / goal,
        "says": "",
        "forecast": None if forecast is None else show_seconds(forecast),
    }


def phase_bars(phases: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The phases on one time axis: offset and width in percent of the whole. A phase seen twice is two bars."""
    begins = [datetime.fromisoformat(item["started_at"]).timestamp() for item in phases]
    if not begins:
        return []
    first = min(begins)
    whole = max(begin + item["seconds"] for begin, item in zip(begins, phases, strict=True)) - first or 1.0
    return [
        {
            "name": item["name"],
            "seconds": item["seconds"],
            "how": item.get("how", ""),
            "offset": 100 * (begin - first) / whole,
            "width": 100 * item["seconds"] / whole,
            "recovery": item["name"] in RECOVERY_PHASES,
        }
        for begin, item in sorted(zip(begins, phases, strict=True), key=lambda pair: pair[0])
    ]


def marks(points: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Points in time in their order, each with the time since the one before."""
    found: list[dict[str, Any]] = []
    before: datetime | None = None
    for point in points:
        at = datetime.fromisoformat(point["at"])
        gap = None if before is None else (at - before).total_seconds()
        # The target's time is the last commit's own time: a gap of nothing is not worth a label.
        found.append({"detail": "", **point, "gap": _show_gap(gap) if gap else ""})
        before = at
    return found


def _show_gap(seconds: float) -> str:
    return f"{seconds * 1000:.0f} ms" if 0 < seconds < 0.095 else show_seconds(seconds)


def readable(text: str) -> str:
    """``text`` with every RFC 3339 instant in it written for people."""
    return _INSTANT.sub(lambda found: show_instant(found[0]), text)


def _breakable(text: object) -> Markup:
    """A name of parts (``system:serviceaccount:…``, ``shop_audit.events``), which may be broken between them; a time stays whole."""
    return Markup(_PARTS.sub(lambda part: f"{part[0]}<wbr>", str(escape(str(text)))))  # noqa: S704


def _together(text: object) -> Markup:
    """``text`` escaped, its instants written for people, and instants and durations kept on one line."""
    whole = r'<span style="white-space:nowrap">\g<0></span>'
    return Markup(_WHOLE.sub(whole, str(escape(readable(str(text))))))  # noqa: S704


def _took(seconds: float | None) -> str:
    """How long something took; nothing where that is too short to say."""
    return show_seconds(seconds) if seconds and seconds >= 0.05 else ""


def _clock(text: str) -> str:
    at = datetime.fromisoformat(text)
    return f"{at:%H:%M:%S}" + (f".{at.microsecond // 1000:03d}" if at.microsecond else "")


def _plain_figure(item: Mapping[str, Any]) -> str:
    shown = figure(item)
    met = {True: ", met", False: ", MISSED", None: ""}[shown["met"]]
    told = [f"objective {shown['objective']}{met}"] if shown["objective"] else []
    told += [f"forecast {shown['forecast']}"] if shown["forecast"] else []
    return str(shown["value"]) + (f" ({', '.join(told)})" if told else "")


def _plain_check(check: Mapping[str, Any]) -> list[str]:
    told = [
        f"            {key} {readable(str(check[key]))}" for key in ("expected", "observed", "reason") if check.get(key)
    ]
    word = "info" if check["verdict"] == "VERIFIED" and not check.get("required", True) else check["verdict"]
    return [f"  {word:<9} {check['name']}", *told]


def changed_words(changed: str) -> str:
    """What a journal says of an error's changes, as people read it."""
    return Changed(changed).words if changed in tuple(Changed) else changed


def _plain_error(error: Mapping[str, Any] | None) -> list[str]:
    if not error:
        return []
    return [
        f"{error['type']}: {error['what']}",
        f"Changed so far: {changed_words(error['changed'])}",
        f"What to do: {error['todo']}",
    ]
