"""SQL as superuser in a pod, by exec of the pod's own psql: the one way to the source as superuser.

Only gated steps hold one on the source. Arguments are a list, SQL is composed and goes over standard input: no shell,
nothing of it in the pod's process list. What comes back are rows as JSON; an error is reported without DETAIL and
CONTEXT.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any

from drillbook import kube as k8s
from drillbook.errors import Changed, PostgresError
from drillbook.postgres.client import SQL, Composed, as_text, by_parameters_only

CONTAINER = "postgres"
# Maintenance is done from here: what is renamed may hold no session.
MAINTENANCE = "postgres"

_PSQL = ("psql", "-X", "-A", "-t", "-q", "-w", "-v", "ON_ERROR_STOP=1", "-v", "VERBOSITY=verbose")
# Whatever the database's own encoding: what is sent and read here is UTF-8.
_UTF8 = "set client_encoding to 'UTF8'"
_ERROR = re.compile(r"(?:ERROR|FATAL|PANIC):\s+([0-9A-Z]{5}): (.*)")

Statement = str | SQL | Composed


@dataclass(frozen=True)
class Superuser:
    """Sessions in one pod, each call one psql of its own. Raises PostgresError with the server's own words."""

    kube: k8s.Kube
    namespace: str
    pod: str
    timeout_seconds: float = 600.0

    def ask(self, database: str, question: Statement, /, **params: Any) -> list[dict[str, Any]]:
        """The rows that answer ``sql/<question>.sql`` or a composed SELECT, in a pinned, read-only snapshot."""
        return self.ask_all(database, [as_text(question, **params)])

    def ask_all(self, database: str, selects: list[str]) -> list[dict[str, Any]]:
        """The rows of several SELECTs one after another, in one snapshot that is rolled back."""
        script = ["begin isolation level repeatable read read only", "set local statement_timeout = 0"]
        script.append(as_text("integrity_pin_session"))
        # Each row is one line of JSON: newlines in a value are escaped there.
        script += [f"select pg_catalog.row_to_json(answer)::text from (\n{text}\n) answer" for text in selects]  # noqa: S608 - composed by as_text
        return self._psql(database, [*script, "rollback"], changed=Changed.NOTHING, repeatable=True)

    def run(self, database: str, *statements: Statement, repeatable: bool = False) -> list[dict[str, Any]]:
        """Run the statements in order, each on its own unless they say BEGIN; stops at the first error.

        ``repeatable`` statements may be run twice: they are run again when their end was not seen.

        Returns the JSON objects among the lines that they select. A statement that ends in ``\\gexec`` is left to psql.
        """
        return self._psql(
            database, [as_text(one) for one in statements], changed=Changed.UNKNOWN, repeatable=repeatable
        )

    def _psql(
        self, database: str, statements: list[str], *, changed: Changed, repeatable: bool
    ) -> list[dict[str, Any]]:
        argv = by_parameters_only([*_PSQL, "-U", "postgres", "-d", database, "-f", "-"])
        text = "".join(one + ("\n" if one.endswith("\\gexec") else ";\n") for one in [_UTF8, *statements])
        done = self.kube.exec(
            self.namespace,
            self.pod,
            CONTAINER,
            argv,
            stdin=text.encode(errors="surrogateescape"),
            timeout_seconds=self.timeout_seconds,
            repeatable=repeatable,
        )
        if done.exit_code != 0:
            state, words = _told(done.error_text)
            raise PostgresError(
                f"psql in {k8s.POD.where(self.namespace, self.pod)}, database {database}: {words}",
                sqlstate=state,
                changed=changed,
                todo="Read the server's words; what was done before them stays done.",
            )
        # Only a newline ends a row: U+2028, U+2029 and U+0085 stand in JSON as they are. Bytes of a database without
        # an encoding (SQL_ASCII) are kept as they are.
        lines = done.stdout.decode(errors="surrogateescape").split("\n")
        return [json.loads(line) for line in lines if line.startswith("{")]


def _told(stderr: str) -> tuple[str, str]:
    """SQLSTATE and primary message of the first error; DETAIL, CONTEXT and quoted values of data are left out."""
    for line in stderr.splitlines():
        if found := _ERROR.search(line):
            state, words = found[1], found[2]
            if state.startswith("22") or state == "P0001":
                words = (
                    re.sub(r'"[^"]*"|\'[^\']*\'', "(a value, withheld)", words) if state != "P0001" else "an exception"
                )
            return state, f"{words} (SQLSTATE {state})"
    first = next((line for line in stderr.splitlines() if line.strip()), "it ended with no error output")
    return "", first.partition("DETAIL")[0][:200]
