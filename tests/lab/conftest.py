"""Fixtures of the lab's tests, named for what they give."""

from fix_apiserver import api, kubectl, listening
from fix_clusters import small
from fix_lab import lab
from fix_workloads import backend

__all__ = ["api", "backend", "kubectl", "lab", "listening", "small"]
