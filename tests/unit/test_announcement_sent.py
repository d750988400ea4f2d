"""Where an announcement goes: a webhook by ourselves, anything else by Apprise; and no message holds the address."""

from __future__ import annotations

import http.server
import json
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from drillbook.errors import ParameterError, UpstreamError
from drillbook.steps.finish.webhook import send

SECRET = "Zx81kQ"  # part of each address
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # one of Apprise's services imports imghdr


class Receiver(http.server.ThreadingHTTPServer):
    """Takes what is posted and answers with one status."""

    def __init__(self) -> None:
        self.status = 200
        self.bodies: list[dict[str, Any]] = []
        super().__init__(("127.0.0.1", 0), _Handler)


class _Handler(http.server.BaseHTTPRequestHandler):
    server: Receiver

    def do_POST(self) -> None:
        self.server.bodies.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
        self.send_response(self.server.status)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        return


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    server = Receiver()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def test_i17_a_webhook_is_posted_to_by_ourselves(receiver: Receiver) -> None:
    assert send(f"http://127.0.0.1:{receiver.server_port}/{SECRET}", "a drill FAILED") == "HTTP 200"
    assert receiver.bodies == [{"text": "a drill FAILED"}]


def test_i17_any_other_address_is_apprises(receiver: Receiver) -> None:
    pytest.importorskip("apprise")
    assert send(f"json://127.0.0.1:{receiver.server_port}/{SECRET}", "a drill FAILED") == "sent by json://"
    assert receiver.bodies[0]["message"] == "a drill FAILED"


def test_i17_what_is_not_taken_is_an_error_without_the_address(
    receiver: Receiver, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("apprise")
    receiver.status = 500
    with pytest.raises(UpstreamError, match="json:// did not take the text") as refused:
        send(f"json://127.0.0.1:{receiver.server_port}/{SECRET}", "a drill FAILED")
    with pytest.raises(ParameterError, match="Apprise can't read the address that begins with nobody://") as unknown:
        send(f"nobody://{SECRET}@example", "a drill FAILED")
    said = "".join(map(str, (refused.value, unknown.value, caplog.text, *capfd.readouterr())))
    assert SECRET not in said and str(receiver.server_port) not in said


@pytest.mark.parametrize("address", ["", f"http://example.org/{SECRET}", f"https:///{SECRET}"])
def test_i17_an_address_without_tls_or_host_is_refused(address: str) -> None:
    with pytest.raises(ParameterError, match="not https:// with a host") as refused:
        send(address, "a drill FAILED")
    assert SECRET not in str(refused.value)
