"""`python -m drillbook_lab`: the lab's command line."""

from __future__ import annotations

import sys

from drillbook_lab.cli import main

if __name__ == "__main__":
    sys.exit(main())
