"""Informing people: a line of text to the webhook that the site's profile names."""

from __future__ import annotations

import json
from urllib.parse import urlsplit

import urllib3

from drillbook.errors import ParameterError, UpstreamError

_TIMES = urllib3.Timeout(connect=5, read=10)


def post(url: str, text: str) -> int:
    """POST ``{"text": …}`` as JSON, as Slack, Mattermost, Rocket.Chat and Teams' workflows take it; the HTTP status.

    The address is a secret: no message holds more of it than its host. Redirects are not followed. ParameterError: it
    is no address that this would post to. UpstreamError: nobody answered, or the answer was no success.
    """
    place = urlsplit(url)
    local = place.hostname in ("127.0.0.1", "::1", "localhost")
    if not place.hostname or not (place.scheme == "https" or (place.scheme == "http" and local)):
        raise ParameterError(["the webhook's address is not https:// with a host"], where="announcement")
    todo = "Inform people yourself with the text above, and fix the webhook that the profile's announce names."
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
            f"the webhook at {place.hostname} did not answer ({type(error).__name__})", todo=todo
        ) from None
    if not 200 <= answer.status < 300:
        raise UpstreamError(f"the webhook at {place.hostname} answered {answer.status}", todo=todo)
    return int(answer.status)
