"""HTTP to the API server: authentication, bounded retries of reads, and our errors.

The official client carries the requests; its exceptions stop here. What is raised says only
what the API's own ``Status`` says, cut short: any other body may hold secrets and is dropped.
"""

from __future__ import annotations

import json
import socket
import ssl
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import urlencode, urlsplit

import urllib3
from kubernetes import client
from kubernetes.client.exceptions import ApiException
from kubernetes.client.rest import should_bypass_proxies

from drillbook.errors import Changed, KubernetesError, ParameterError
from drillbook.kube.endurance import Endurance
from drillbook.kube.kubeconfig import Access, tls
from drillbook.kube.redaction import Redactor

MESSAGE_LIMIT = 256
REQUEST_SECONDS = 30.0

NO_ANSWER = "no answer from"
"""What every error says whose request the API server did not answer."""
_TODO = {
    400: "Correct the object or the request; the API server names the field.",
    401: "Log in again: the kubeconfig's credentials are missing, wrong or expired.",
    403: "Grant the right (deploy/rbac/ has the roles that Drillbook needs), or use another context.",
    404: "Check namespace and name, and that the custom resource definitions are installed.",
    409: "Read the object again: someone else has made, changed or replaced it.",
    422: "Correct the object; the API server names the field.",
    0: "Check that the API server can be reached from here (kubectl version), then start again.",
}


@dataclass(frozen=True)
class HttpAnswer:
    """An answer of the API server, read to its end."""

    status: int
    reason: str
    data: bytes
    retry_after: str = ""

    def json(self) -> dict[str, Any]:
        """The body as an object."""
        found: dict[str, Any] = json.loads(self.data)
        return found


class Transport:
    """Requests to one API server; safe to use from several threads."""

    def __init__(self, access: Access, redactor: Redactor, endurance: Endurance | None = None) -> None:
        self.access = access
        self.endurance = endurance or Endurance()
        self.redactor = redactor
        self._rest: Any = client.ApiClient(access.configuration).rest_client
        self._auth = threading.RLock()
        self._clock = threading.Lock()
        self._ahead: tuple[float, float] | None = None

    @property
    def configuration(self) -> client.Configuration:
        """How the API server is reached now: another object each time that credentials were renewed."""
        return self.access.configuration

    @property
    def server(self) -> str:
        """Host and port of the API server, for messages."""
        return urlsplit(self.configuration.host).netloc

    @property
    def offset_seconds(self) -> float | None:
        """By how much the API server's clock is ahead of this machine's, to half a second or better; None before any answer."""
        with self._clock:
            return None if self._ahead is None else sum(self._ahead) / 2

    def headers(self) -> list[tuple[str, str]]:
        """The headers that say who we are, a name perhaps several times; what has expired is renewed here."""
        with self._auth:
            if self.access.expired:
                self.renew()
            found = self.access.headers()
        for name, value in found:
            if name == "Authorization":
                self.redactor.add(value.partition(" ")[2])
        return [("User-Agent", "drillbook"), *found]

    def renew(self, refused: Sequence[tuple[str, str]] = ()) -> bool:
        """Log in again, or read what someone else has renewed; whether there are other credentials now.

        ``refused`` are the headers that the API server did not take: another thread may have renewed them already.
        """
        with self._auth:
            if (
                refused
                and not self.access.expired
                and list(refused) != [("User-Agent", "drillbook"), *self.access.headers()]
            ):
                return True
            try:
                if not self.access.renew():
                    return False
            except ParameterError as error:
                # In the middle of a run a login that fails is no wrong parameter.
                raise KubernetesError(
                    f"log in again: {'; '.join(error.faults)}", status=401, todo=_TODO[401]
                ) from error
            self._rest.close()
            self._rest = client.ApiClient(self.configuration).rest_client
            return True

    def url(self, path: str, query: Mapping[str, Any] | None = None) -> str:
        """The absolute URL; a value that is None is left out, a list is repeated."""
        given = {key: value for key, value in (query or {}).items() if value is not None and value != ""}
        return self.configuration.host.rstrip("/") + path + (f"?{urlencode(given, doseq=True)}" if given else "")

    def proxy(self) -> str | None:
        """The HTTP proxy on the way to the API server, if any."""
        found = self.configuration.proxy
        if not found or should_bypass_proxies(self.configuration.host, self.configuration.no_proxy or ""):
            return None
        return str(found)

    def ssl_context(self) -> ssl.SSLContext | bool:
        """TLS as the kubeconfig asks for it, for clients other than the official one."""
        return tls(self.configuration)

    def call(
        self,
        method: str,
        path: str,
        *,
        what: str,
        query: Mapping[str, Any] | None = None,
        body: Any = None,
        content_type: str = "application/json",
        repeatable: bool | None = None,
        settle: Callable[[], HttpAnswer | None] | None = None,
        patience: float | None = None,
    ) -> HttpAnswer:
        """A request, repeated while the API server is away and it may be. Raises KubernetesError unless it is 2xx.

        ``what`` says the action in words for the error. ``repeatable`` (None: reads are) and ``settle``: see
        `Endurance.run`. Where a change was asked for and no answer came, the error's ``changed`` is unknown.
        ``patience``: at most so many seconds.
        """
        return self.endurance.run(
            lambda: self._once(method, path, what, query, body, content_type),
            repeatable=method == "GET" if repeatable is None else repeatable,
            settle=settle,
            patience=patience,
        )

    def _once(
        self, method: str, path: str, what: str, query: Mapping[str, Any] | None, body: Any, content_type: str
    ) -> HttpAnswer:
        started = time.time()
        changes = method != "GET"
        response = self._send(method, path, what, query, body, content_type, REQUEST_SECONDS, changes)
        try:
            data = response.read()
        except (urllib3.exceptions.HTTPError, OSError) as error:
            raise self.no_answer(what, error, changes) from error
        self._note_time(response.headers.get("Date"), started, time.time())
        answer = HttpAnswer(
            response.status, str(response.reason or ""), data or b"", str(response.headers.get("Retry-After") or "")
        )
        if not 200 <= answer.status < 300:
            raise self.refused(what, answer, changes)
        return answer

    def stream(
        self, path: str, *, what: str, query: Mapping[str, Any] | None, read_seconds: float
    ) -> urllib3.response.BaseHTTPResponse:
        """Start a GET whose body is read as it comes; ``read_seconds`` bounds the wait for each piece of it."""
        response = self._send("GET", path, what, query, None, "application/json", read_seconds, False)
        raw: urllib3.response.BaseHTTPResponse = response.response
        if not 200 <= response.status < 300:
            answer = HttpAnswer(response.status, str(response.reason or ""), response.read() or b"")
            raise self.refused(what, answer, False)
        return raw

    def _send(
        self,
        method: str,
        path: str,
        what: str,
        query: Mapping[str, Any] | None,
        body: Any,
        content_type: str,
        read_seconds: float,
        changes: bool,
    ) -> Any:
        try:
            who = self.headers()
            response = self._request(method, path, query, body, content_type, read_seconds, who)
            if response.status == 401 and self.renew(who):
                # Not taken, so nothing was done: it is asked once more as who we are now.
                response.read()
                response = self._request(method, path, query, body, content_type, read_seconds, self.headers())
            return response
        except (urllib3.exceptions.HTTPError, ApiException, OSError) as error:
            raise self.no_answer(what, error, changes) from error

    def _request(
        self,
        method: str,
        path: str,
        query: Mapping[str, Any] | None,
        body: Any,
        content_type: str,
        read_seconds: float,
        who: Sequence[tuple[str, str]],
    ) -> Any:
        headers = urllib3.HTTPHeaderDict([*who, ("Accept", "application/json"), ("Content-Type", content_type)])
        return self._rest.request(
            method, self.url(path, query), headers=headers, body=body, _request_timeout=(10.0, read_seconds)
        )

    def _note_time(self, date: str | None, started: float, ended: float) -> None:
        if not date:
            return
        try:
            told = parsedate_to_datetime(date).timestamp()
        except ValueError:
            return
        # The header is cut to whole seconds and was written while we waited: each answer gives bounds, all of them
        # together a narrow answer. Bounds that contradict each other mean that a clock was set.
        low, high = told - ended, told + 1 - started
        with self._clock:
            if self._ahead is not None:
                narrowed = max(low, self._ahead[0]), min(high, self._ahead[1])
                low, high = narrowed if narrowed[0] <= narrowed[1] else (low, high)
            self._ahead = low, high

    def no_answer(self, what: str, error: Exception, changes: bool) -> KubernetesError:
        """The error for a request that was not answered."""
        why = self.redactor.clean(_innermost(error))[:MESSAGE_LIMIT]
        changed = Changed.UNKNOWN if changes else Changed.NOTHING
        unsent = _never_sent(error)
        changed = Changed.NOTHING if unsent else changed
        return KubernetesError(
            f"{what}: {NO_ANSWER} {self.server}: {why}", todo=_TODO[0], changed=changed, undone=unsent
        )

    def refused(self, what: str, answer: HttpAnswer, changes: bool) -> KubernetesError:
        """The error for an answer that is not 2xx: the Status' own words, or only the code."""
        message, reason = status_text(answer.data)
        shown = message or f"HTTP {answer.status} {answer.reason} (the body is not a Status and is not shown)"
        gateway = answer.status in {500, 502, 503, 504}
        uncalled = answer.status == 500 and "failed calling webhook" in message
        return KubernetesError(
            f"{what}: {cut(self.redactor.clean(shown))}",
            status=answer.status,
            reason=reason,
            todo=_TODO.get(answer.status, "Try again; if it stays, look at the API server's own health."),
            changed=Changed.UNKNOWN if changes and gateway and not uncalled else Changed.NOTHING,
            undone=answer.status == 429 or uncalled,
            retry_after=_seconds(answer.retry_after),
        )

    def close(self) -> None:
        """Close the connections; safe to call twice."""
        self._rest.close()


def cut(text: str) -> str:
    """At most MESSAGE_LIMIT characters."""
    return text if len(text) <= MESSAGE_LIMIT else text[: MESSAGE_LIMIT - 1] + "…"


def status_text(data: bytes) -> tuple[str, str]:
    """Message and reason of a ``Status`` body; empty for any other body."""
    try:
        body = json.loads(data)
    except ValueError:
        return "", ""
    if not isinstance(body, dict) or body.get("kind") != "Status":
        return "", ""
    return str(body.get("message", "")), str(body.get("reason", ""))


def _never_sent(error: BaseException) -> bool:
    """Whether the request can't have reached the server: no connection came to be."""
    current: BaseException | None = error
    for _ in range(8):
        if isinstance(current, urllib3.exceptions.NewConnectionError | ConnectionRefusedError | socket.gaierror):
            return True
        reason = getattr(current, "reason", None)
        current = (
            reason
            if isinstance(reason, BaseException)
            else current.__cause__ or current.__context__
            if current
            else None
        )
    return False


def _seconds(retry_after: str) -> float | None:
    """A Retry-After header in seconds; its other form, a date, is not used by Kubernetes."""
    try:
        return max(0.0, float(retry_after))
    except ValueError:
        return None


def _innermost(error: BaseException) -> str:
    """The reason at the bottom of a chain of exceptions, without the URL and object addresses on the way."""
    seen: list[BaseException] = []
    current: BaseException | None = error
    while current is not None and current not in seen:
        seen.append(current)
        reason = getattr(current, "reason", None)
        following = reason if isinstance(reason, BaseException) else current.__cause__ or current.__context__
        current = following
    for found in reversed(seen):
        if isinstance(found, ssl.SSLCertVerificationError):
            return f"TLS: {found.verify_message}"
        if isinstance(found, socket.gaierror | OSError) and found.strerror:
            return found.strerror
        if isinstance(found, TimeoutError | urllib3.exceptions.TimeoutError):
            return "timed out"
    return type(seen[-1]).__name__
