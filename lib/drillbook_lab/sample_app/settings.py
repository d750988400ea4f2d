"""The app's configuration, as a Spring service has it: a JDBC address, a login, the pool's size; and what it serves."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

import yaml

from drillbook_lab.names import HOSTS_VARIABLE, look_up

# The driver's parameter -> libpq's. What the driver keeps to itself (its cache sizes, say) has no counterpart.
_PARAMETERS = {
    "user": "user",
    "password": "password",
    "sslmode": "sslmode",
    "sslrootcert": "sslrootcert",
    "ApplicationName": "application_name",
    "connectTimeout": "connect_timeout",
    "options": "options",
}
_SESSIONS = {
    "primary": "read-write",
    "master": "read-write",
    "secondary": "standby",
    "preferSecondary": "prefer-standby",
}


class SettingsFault(Exception):
    """The environment doesn't say what is needed, or says it wrongly."""


@dataclass(frozen=True)
class Settings:
    """What one instance of the app runs with."""

    address: str
    port: int
    connection: dict[str, str]
    prepares: bool
    pool_size: int
    minimum_idle: int
    connection_timeout: float  # seconds
    starts_without_database: bool
    drain: float  # seconds
    delay: float  # seconds that each transaction holds its connection longer: a release that has become slow
    leaks_every: int  # of so many transactions one more connection is taken and never given back; 0: none
    health: str
    resource: str
    create: tuple[str, ...]
    find: str
    defaults: dict[str, Any]
    hosts: Path | None = None  # where names are looked up, if they don't resolve by themselves

    def dialled(self) -> dict[str, str]:
        """The connection's parameters as of now, with the addresses of its hosts where names don't resolve."""
        if self.hosts is None:
            return self.connection
        addresses = [look_up(self.hosts, host) for host in self.connection["host"].split(",")]
        return {**self.connection, "hostaddr": ",".join(addresses)} if any(addresses) else self.connection


def read(env: Mapping[str, str]) -> Settings:
    """The settings in an environment: Spring's names, or the plainer `DATABASE_…`."""

    def first(*names: str, default: str = "") -> str:
        return next((env[name] for name in names if env.get(name)), default)

    def number(what: str, default: str, *names: str) -> float:
        text = first(*names, default=default)
        try:
            return float(text)
        except ValueError:
            raise SettingsFault(f"{what} is no number: {text!r} ({' or '.join(names)})") from None

    url = first("SPRING_DATASOURCE_URL", "DATABASE_URL")
    if not url:
        raise SettingsFault("no database: set SPRING_DATASOURCE_URL")
    connection, prepares = connection_of(url)
    for key, names in {
        "user": ("SPRING_DATASOURCE_USERNAME", "DATABASE_USER"),
        "password": ("SPRING_DATASOURCE_PASSWORD", "DATABASE_PASSWORD"),
    }.items():
        if first(*names):
            connection[key] = first(*names)
    hikari = "SPRING_DATASOURCE_HIKARI_"
    size = int(number("the pool's size", "10", f"{hikari}MAXIMUMPOOLSIZE", "DATABASE_POOL_SIZE"))
    idle = int(number("the pool's minimum", str(size), f"{hikari}MINIMUMIDLE", "DATABASE_POOL_MIN_IDLE"))
    timeout = number("the connection timeout", "30000", f"{hikari}CONNECTIONTIMEOUT", "DATABASE_POOL_TIMEOUT_MS") / 1000
    connection.setdefault("connect_timeout", str(max(2, round(timeout))))
    connection.setdefault("application_name", first("SPRING_APPLICATION_NAME", "APP_NAME", default="app"))
    api = _api(env.get("APP_API", ""))
    return Settings(
        address=first("SERVER_ADDRESS", "HOST", default="127.0.0.1"),
        port=int(number("the port", "8080", "SERVER_PORT", "PORT")),
        connection=connection,
        prepares=prepares,
        pool_size=size,
        minimum_idle=min(idle, size),
        connection_timeout=timeout,
        starts_without_database=number("the time-out", "1", f"{hikari}INITIALIZATIONFAILTIMEOUT") < 0,
        drain=number("the time to drain", "20", "APP_DRAIN_SECONDS"),
        delay=number("the delay", "0", "APP_DELAY_MS") / 1000,
        leaks_every=int(number("the leak", "0", "APP_LEAKS_EVERY")),
        health=str(api.get("health", "/api/v1/health")),
        resource=str(api.get("resource", "/api/v1/rows")),
        create=tuple(api.get("create") or ()),
        find=str(api.get("find", "")),
        defaults=dict(api.get("defaults") or {}),
        hosts=Path(env[HOSTS_VARIABLE]) if env.get(HOSTS_VARIABLE) else None,
    )


def connection_of(url: str) -> tuple[dict[str, str], bool]:
    """libpq's parameters from a JDBC or libpq address, and whether statements may be prepared."""
    plain = url.removeprefix("jdbc:")
    parts = urlsplit(plain)
    if parts.scheme not in ("postgresql", "postgres") or not parts.netloc:
        raise SettingsFault(f"not a PostgreSQL address: {plain.partition('?')[0].rpartition('@')[2]}")
    login, _, hosts = parts.netloc.rpartition("@")
    pairs = [entry.rpartition(":") if ":" in entry else (entry, "", "5432") for entry in hosts.split(",")]
    found = {
        "host": ",".join(host for host, _, _ in pairs),
        "port": ",".join(port for _, _, port in pairs),
        "dbname": unquote(parts.path.lstrip("/")) or "postgres",
    }
    if login:
        user, _, password = login.partition(":")
        found["user"] = unquote(user)
        if password:
            found["password"] = unquote(password)
    prepares = True
    for key, value in parse_qsl(parts.query):
        if key in _PARAMETERS:
            found[_PARAMETERS[key]] = value
        elif key == "ssl" and value == "true":
            found.setdefault("sslmode", "require")
        elif key == "currentSchema":
            found["options"] = f"-csearch_path={value}"
        elif key == "targetServerType" and value in _SESSIONS:
            found["target_session_attrs"] = _SESSIONS[value]
        elif key == "prepareThreshold" and value == "0":
            prepares = False
        elif not url.startswith("jdbc:"):
            found[key] = value
    return found, prepares


def _api(text: str) -> dict[str, Any]:
    try:
        found = yaml.safe_load(text) or {}
    except yaml.YAMLError as fault:
        raise SettingsFault(f"APP_API is no YAML: {fault}") from fault
    if not isinstance(found, dict):
        raise SettingsFault("APP_API is no mapping")
    return found
