"""Informing people: a line of text to the address that the site's profile names."""

from __future__ import annotations

import json
import logging
from urllib.parse import urlsplit

import urllib3

from drillbook.errors import ParameterError, UpstreamError

_TIMES = urllib3.Timeout(connect=5, read=10)
_TODO = "Inform people yourself with the text above, and fix the address that the profile's announce names."


def send(url: str, text: str) -> str:
    """Send the text to a webhook, or by Apprise to what is none (``mailto://``, ``pagerduty://`` …); how it was answered.

    Raises as `post`; ParameterError also where Apprise is not installed or doesn't know the address.
    """
    scheme = urlsplit(url).scheme
    return f"HTTP {post(url, text)}" if scheme in ("", "http", "https") else _by_apprise(url, scheme, text)


def post(url: str, text: str) -> int:
    """POST ``{"text": …}`` as JSON, as Slack, Mattermost, Rocket.Chat and Teams' workflows take it; the HTTP status.

    The address is a secret: no message holds more of it than its host. Redirects are not followed. ParameterError: it
    is no address that this would post to. UpstreamError: nobody answered, or the answer was no success.
    """
    place = urlsplit(url)
    local = place.hostname in ("127.0.0.1", "::1", "localhost")
    if not place.hostname or not (place.scheme == "https" or (place.scheme == "http" and local)):
        raise ParameterError(["the webhook's address is not https:// with a host"], where="announcement")
    try:
        with urllib3.PoolManager() as pool:
            answer = pool.request(
                "POST",
                url,
                body=json.dumps({"text": text}).encode(),
                headers={"Content-Type": "application/json"},
                timeout=_TIMES,
                retries=False,
                redirect=False,
            )
    except urllib3.exceptions.HTTPError as error:
        # Not chained: urllib3's text holds the whole address.
        raise UpstreamError(
            f"the webhook at {place.hostname} did not answer ({type(error).__name__})", todo=_TODO
        ) from None
    if not 200 <= answer.status < 300:
        raise UpstreamError(f"the webhook at {place.hostname} answered {answer.status}", todo=_TODO)
    return int(answer.status)


def _by_apprise(url: str, scheme: str, text: str) -> str:
    try:
        import apprise  # an extra
    except ImportError:
        fault = f"an address that begins with {scheme}:// needs Apprise: pip install 'drillbook[notify]'"
        raise ParameterError([fault], where="announcement") from None
    logging.getLogger("apprise").disabled = True  # its lines may hold parts of the address
    service = apprise.Apprise()
    if not service.add(url):
        raise ParameterError([f"Apprise can't read the address that begins with {scheme}://"], where="announcement")
    if not service.notify(body=text):
        raise UpstreamError(f"{scheme}:// did not take the text", todo=_TODO)
    return f"sent by {scheme}://"
