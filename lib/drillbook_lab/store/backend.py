"""moto's S3 alone, on a free inner port: `python -m drillbook_lab.store.backend FOLDER` prints the port when it listens.

What it holds is kept in the folder, and is there again at the next start.
"""

from __future__ import annotations

import gc
import logging
import sys
from pathlib import Path

from moto.moto_server.werkzeug_app import create_backend_app
from werkzeug.serving import WSGIRequestHandler, make_server

from drillbook_lab.agent.procs import die_with_parent
from drillbook_lab.store.kept import Kept
from drillbook_lab.store.mirror import Mirror
from drillbook_lab.store.retrieval import Retrieval


def main() -> None:
    """Serve until the gate dies."""
    die_with_parent()
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    WSGIRequestHandler.protocol_version = "HTTP/1.1"
    # The one service, without moto's dispatcher: it would load and index two hundred others.
    folder = Path(sys.argv[1])
    mirror = Mirror(create_backend_app("s3"), Kept(folder), Retrieval(folder.parent))
    mirror.restore()
    gc.freeze()  # all of moto itself: a collection looks at requests only
    server = make_server("127.0.0.1", 0, mirror, threaded=True)
    sys.stdout.write(f"{server.server_port}\n")
    sys.stdout.flush()
    server.serve_forever()


if __name__ == "__main__":
    main()
