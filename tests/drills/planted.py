"""Twenty secrets as a careless step would show them: each in another odd way, in facts, logs, output and errors."""

from __future__ import annotations

import base64
import html
import json
import shlex
import sys
import textwrap
from collections.abc import Callable
from dataclasses import dataclass
from urllib.parse import quote, quote_plus

import yaml

from drillbook.engine.step import Context, Step
from drillbook.errors import PreconditionError
from drillbook.model import Effect, Frozen

SECRET = "planted"
PEM = "-----BEGIN PRIVATE KEY-----\n{}\n-----END PRIVATE KEY-----\n"


def _b64(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def _wrapped(text: str) -> str:
    return "\n    ".join(textwrap.wrap(text, 11))


# By name: what is around the random part of the secret, and how it is shown.
WAYS: dict[str, tuple[str, Callable[[str], str]]] = {
    "plain": ("{}", lambda s: s),
    "base64": ("{}", _b64),
    "base64-url": ("{}~?>", lambda s: base64.urlsafe_b64encode(s.encode()).decode().rstrip("=")),
    "basic-auth": ("{}", lambda s: "Authorization: Basic " + _b64(f"user:{s}")),
    "base64-inside": ("{}", lambda s: _b64(f"a longer text with {s} in it")),
    "url": ("{}/@:%?", lambda s: quote(s, safe="")),
    "url-plus": ("{} &+ =", quote_plus),
    "url-lower": ("{}/@:", lambda s: quote(s, safe="").replace("%2F", "%2f").replace("%3A", "%3a")),
    "json": ('{}"\\é', json.dumps),
    "json-in-json": ('{}"\\é', lambda s: json.dumps(json.dumps({"password": s}))),
    "html": ("{}<&>\"'", html.escape),
    "hex": ("{}", lambda s: s.encode().hex()),
    "hex-upper": ("{}", lambda s: s.encode().hex().upper()),
    "dsn": ("{}@:/", lambda s: f"postgresql://app:{quote(s, safe='')}@db.example:5432/shop?sslmode=require"),
    "libpq": ("{}'\\", lambda s: "host=db password='" + s.replace("\\", "\\\\").replace("'", "\\'") + "' dbname=shop"),
    "split": ("{}", _wrapped),
    "base64-split": ("{}", lambda s: _wrapped(_b64(s))),
    "pem": (PEM, lambda s: textwrap.indent(s, "    ")),
    "exec-token": ("{}'#", lambda s: yaml.safe_dump({"exec": {"env": [{"name": "TOKEN", "value": s}]}})),
    "shell": ("{}'$", lambda s: f"export PGPASSWORD={shlex.quote(s)}"),
}


class Shown(Frozen):
    """What a step answers: kept as its result."""

    text: str


@dataclass(frozen=True)
class ShowSecrets(Step[Shown]):
    """Show every planted secret

    It is what must never be done: in a log, on standard output, as a result, and in an error.
    """

    fail: bool = False
    effect = Effect.READS

    def do(self, ctx: Context) -> Shown:
        values = ctx.kube.secret(ctx.site.drill_namespace, SECRET)
        shown = "\n".join(f"{name}: {show(values[name])}" for name, (_, show) in WAYS.items())
        ctx.recorder.log("planted.txt", shown + "\n")
        sys.stdout.write(shown + "\n")
        if self.fail:
            raise PreconditionError(f"FATAL: password authentication failed\n{shown}", todo=shown)
        return Shown(text=shown)
