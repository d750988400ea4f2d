"""Fixtures of the lab's tests, named for what they give."""

from fix_apiserver import api, kubectl, listening

__all__ = ["api", "kubectl", "listening"]
