"""What in a Secret of a site is secret: decided by what an entry is, not by where it is.

Operators put regions, buckets, hosts and engine names next to a key. Masking those would black out ordinary words in
the evidence, and a run whose steps name them could not be resumed. What nobody can tell counts as secret.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from urllib.parse import unquote, urlsplit

SHORTEST = 6
"""Characters. A shorter value is in ordinary text by chance: masking it would destroy what it protects."""

_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|[0-9]+")
# A word of a key that says: this opens something.
_SECRET = frozenset(
    [
        "pass",
        "pw",
        "pwd",
        "key",
        "keys",
        "creds",
        "pgpass",
        "auth",
        "authorization",
        "bearer",
        "jwt",
        "sas",
        "signature",
        "salt",
        "cookie",
        "session",
        "otp",
        "pin",
        "htpasswd",
        "kubeconfig",
        "netrc",
        "license",
        "hash",
        "seed",
        "hook",
        "webhook",
    ]
)
_SECRET_PARTS = ("password", "passwd", "passphrase", "secret", "token", "credential", "private", "apikey", "accesskey")
# A word that says: this names, places or tunes something.
_PUBLIC = frozenset(
    [
        "user",
        "username",
        "login",
        "role",
        "owner",
        "account",
        "dbname",
        "database",
        "schema",
        "host",
        "hostname",
        "hostaddr",
        "server",
        "address",
        "addr",
        "endpoint",
        "port",
        "region",
        "zone",
        "location",
        "bucket",
        "container",
        "folder",
        "prefix",
        "path",
        "destination",
        "namespace",
        "name",
        "cluster",
        "site",
        "engine",
        "driver",
        "dialect",
        "adapter",
        "type",
        "kind",
        "class",
        "provider",
        "vendor",
        "sslmode",
        "ssl",
        "tls",
        "mode",
        "method",
        "version",
        "timeout",
        "retries",
        "size",
        "limit",
        "max",
        "min",
        "pool",
        "interval",
        "level",
        "log",
        "env",
        "environment",
        "enabled",
        "debug",
        "encoding",
        "charset",
        "locale",
        "lang",
        "tz",
        "timezone",
        "format",
        "protocol",
        "scheme",
        "compression",
        "algorithm",
        "style",
        "domain",
        "realm",
    ]
)
_PUBLIC_FILES = (".crt", "known_hosts")  # certificates are shown to anyone who connects
_URL = re.compile(r"(?:jdbc:)?([a-zA-Z][a-zA-Z0-9+.\-]*)://[^\s\"'<>]+")
_SETTING = re.compile(
    r"""(?im)(?:^|[\s?&;,{"'])[\w.\-]*(?:password|passwd|pwd|secret|token|signature|(?:access|account|api|private|secret)[_.\-]?key)"""
    r"""["']?\s*[=:]\s*("[^"]*"|'[^']*'|[^\s&;,}]+)"""
)
_PGPASS = re.compile(r"^[^:\n]+:(?:\d+|\*):[^:\n]+:[^:\n]+:((?:[^:\\\n]|\\.)+)$", re.M)
_PLAIN = re.compile(r"(?i)true|false|[0-9]+(?:ms|s|m|h|d|[KMG]i?B?)?")


def secrets_of(key: str, value: str) -> list[str]:
    """What has to be masked of one entry, the whole first; empty if nothing of it is secret.

    A password inside an address, a connection string, a line of ``.pgpass`` or a file of settings is masked by itself
    too.
    """
    if key.lower().endswith(_PUBLIC_FILES):
        return []
    inside = [found for found in _inside(value) if found]
    whole = [value] if value and (inside or _opens_something(key, value)) else []
    return list(dict.fromkeys(whole + inside))


def _opens_something(key: str, value: str) -> bool:
    words = {word.lower() for word in _WORD.findall(key)}
    words |= {word.removeprefix(short) for word in words for short in ("pg", "db")}  # PGHOST, dbuser
    if words & _SECRET or any(part in key.lower() for part in _SECRET_PARTS):
        return True
    if words & _PUBLIC or len(value) < SHORTEST or _PLAIN.fullmatch(value):
        return False
    if found := _URL.fullmatch(value):
        # A bare address is none. With a path it may be: that of a web hook is its key.
        return found[1].lower() in ("http", "https") and bool(urlsplit(value).path.strip("/") or urlsplit(value).query)
    return True


def _inside(value: str) -> Iterator[str]:
    for found in _URL.finditer(value):
        try:
            password = urlsplit(found[0].removeprefix("jdbc:")).password
        except ValueError:  # no address after all
            continue
        if password:
            yield from (password, unquote(password))
    for found in _PGPASS.finditer(value):
        yield from (found[1], re.sub(r"\\(.)", r"\1", found[1]))
    for found in _SETTING.finditer(value):
        bare = found[1].strip("\"'")
        yield from (one for one in (bare, unquote(bare)) if len(one) >= SHORTEST)


__all__ = ["SHORTEST", "secrets_of"]
