"""moto's S3 alone, on a free inner port: `python -m drillbook_lab.s3.backend` prints the port when it listens."""

from __future__ import annotations

import logging
import sys

from moto.moto_server.werkzeug_app import create_backend_app
from werkzeug.serving import WSGIRequestHandler, make_server

from drillbook_lab.agent.procs import die_with_parent


def main() -> None:
    """Serve until the gate dies."""
    die_with_parent()
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    WSGIRequestHandler.protocol_version = "HTTP/1.1"
    # The one service, without moto's dispatcher: it would load and index two hundred others.
    server = make_server("127.0.0.1", 0, create_backend_app("s3"), threaded=True)
    sys.stdout.write(f"{server.server_port}\n")
    sys.stdout.flush()
    server.serve_forever()


if __name__ == "__main__":
    main()
