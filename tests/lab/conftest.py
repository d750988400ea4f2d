"""Fixtures of the lab's tests, named for what they give."""

from fix_apiserver import api, kubectl, listening
from fix_clusters import small
from fix_lab import lab

__all__ = ["api", "kubectl", "lab", "listening", "small"]
