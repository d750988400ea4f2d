"""A Kubernetes-shaped API server for the lab: real wire formats, one process, one event loop.

`Registry` holds kinds and objects and is what controllers call; `build_server` puts HTTP in
front of it; `serve` puts that on a port.
"""

from drillbook_lab.api.errors import ApiError, Object
from drillbook_lab.api.kubeconfig import write_kubeconfig
from drillbook_lab.api.registry import Registry
from drillbook_lab.api.runtime import PodRuntime
from drillbook_lab.api.server import build_server
from drillbook_lab.api.serving import Serving, serve
from drillbook_lab.api.shipped import cnpg_registry, shipped_crds
from drillbook_lab.api.tokens import TokenDirectory, User

__all__ = [
    "ApiError",
    "Object",
    "PodRuntime",
    "Registry",
    "Serving",
    "TokenDirectory",
    "User",
    "build_server",
    "cnpg_registry",
    "serve",
    "shipped_crds",
    "write_kubeconfig",
]
