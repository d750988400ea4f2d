"""What the lab says when it can't go on: what happened, what was found, and the one thing to do."""

from __future__ import annotations


class LabError(Exception):
    """A reason that a person can act on; printed without a traceback."""

    def __init__(self, what: str, found: str = "", to_do: str = "") -> None:
        self.what = what
        self.found = found
        self.to_do = to_do
        super().__init__(what + (f": {found}" if found else "") + (f". To do: {to_do}" if to_do else ""))
