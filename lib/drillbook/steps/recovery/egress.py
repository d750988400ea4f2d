"""What the quarantine lets out: DNS, the API server, the object store and, without a key, who gives credentials.

A NetworkPolicy knows addresses, ports and pods, no names; and most network plugins judge a packet after its Service's
address was exchanged for a pod's. So the real places are asked of the cluster. What it doesn't say is let out by port,
and said so.
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from drillbook import kube as k8s
from drillbook.archive.location import SourceArchive
from drillbook.errors import KubernetesError
from drillbook.profile import Site

Object = dict[str, Any]
Ip = ipaddress.IPv4Address | ipaddress.IPv6Address

_NAMESPACE = "kubernetes.io/metadata.name"
# Where resolvers live: kubeadm and its kin, OpenShift (port 5353), and on the node itself (NodeLocal DNSCache, Talos,
# GKE).
_DNS_NAMESPACES = ("kube-system", "openshift-dns")
_DNS_PORTS = (53, 5353)
_LINK_LOCAL = "169.254.0.0/16"
_PRIVATE = {
    "0.0.0.0/0": ("10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12", "192.168.0.0/16"),
    "::/0": ("::1/128", "fc00::/7", "fe80::/10"),
}
# Who gives a pod its role without a key: the agent of EKS Pod Identity, and the machine's metadata service.
_CREDENTIALS = ("169.254.170.23/32", "fd00:ec2::23/128", "169.254.169.254/32")
_PROXIES = ("HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy")


@dataclass(frozen=True)
class Egress:
    """The rules of a NetworkPolicy's ``egress``, and for each way out what it leads to."""

    rules: tuple[Object, ...]
    said: tuple[tuple[str, str], ...]
    wide: tuple[str, ...] = ()  # which of them are let out by port only, because the cluster doesn't say where they are


def ways_out(kube: k8s.Kube, site: Site, archive: SourceArchive) -> Egress:
    """What a copy of this site needs to reach, as the cluster is now. Reads only; a right that is missing is said."""
    return _Finder(kube, site, archive).find()


class _Finder:
    """One look at the cluster: its Services and where they lead."""

    def __init__(self, kube: k8s.Kube, site: Site, archive: SourceArchive) -> None:
        self._kube, self._site, self._archive = kube, site, archive
        self._services = _readable(lambda: kube.list(k8s.SERVICE))
        self._slices = _readable(lambda: kube.list(k8s.ENDPOINT_SLICE))
        self._rules: list[Object] = []
        self._said: list[tuple[str, str]] = []
        self._wide: list[str] = []

    def find(self) -> Egress:
        self._dns()
        self._api_server()
        endpoint = str(self._archive.configuration.get("endpointURL") or "https://s3.amazonaws.com")
        self._place("object store", endpoint)
        settings = self._archive.settings(self._site)
        identity = self._site.archive.identity
        settings |= identity.environment if identity is not None else {}
        for url in dict.fromkeys(settings[name] for name in _PROXIES if settings.get(name)):
            self._place("proxy", url if "//" in url else f"http://{url}")
        for name in ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"):
            if settings.get(name):
                self._place("object store", settings[name])
        if self._site.archive.reader_secret is None:
            self._credentials(settings)
        self._named()
        unique = {repr(rule): rule for rule in self._rules}
        return Egress(tuple(unique.values()), tuple(self._said), tuple(self._wide))

    # -- what is let out -----------------------------------------------------------------------------------------------

    def _dns(self) -> None:
        where = {"key": _NAMESPACE, "operator": "In", "values": list(_DNS_NAMESPACES)}
        peers = [{"namespaceSelector": {"matchExpressions": [where]}}, _block(_LINK_LOCAL)]
        both = [{"protocol": protocol, "port": port} for protocol in ("UDP", "TCP") for port in _DNS_PORTS]
        self._rules.append({"to": peers, "ports": both})
        for service in self._services or []:
            if service["metadata"]["namespace"] in _DNS_NAMESPACES:
                for port in service["spec"].get("ports") or []:
                    if port["port"] == 53:
                        self._rules += self._behind(service, port)
        self._said.append(("DNS", f"{', '.join(_DNS_NAMESPACES)} and {_LINK_LOCAL}"))

    def _api_server(self) -> None:
        found = self._endpoints("default", "kubernetes")
        # Cilium matches no node, and so no API server, by its address.
        by_port = self._kube.serves("cilium.io")
        if not found:
            self._rules.append({"ports": _tcp(443, 6443)})
            self._wide.append("API server")
            self._said.append(
                (
                    "API server",
                    "ports 443 and 6443 anywhere: the EndpointSlice default/kubernetes can't be read (deploy/rbac/)",
                )
            )
            return
        ports = sorted({port for _, port in found})
        peers = [_block(_single(address)) for address in sorted({address for address, _ in found})]
        self._rules.append({"ports": _tcp(*ports)} if by_port else {"to": peers, "ports": _tcp(*ports)})
        for service in self._services or []:
            if (service["metadata"]["namespace"], service["metadata"]["name"]) == ("default", "kubernetes"):
                self._rules += [_to([_block(_single(ip))], 443) for ip in _cluster_ips(service)]
        places = ", ".join(f"{address}:{port}" for address, port in sorted(found))
        if by_port:
            self._wide.append("API server")
            places = f"port {', '.join(map(str, ports))} anywhere: Cilium matches no API server by address ({places})"
        self._said.append(("API server", places))

    def _credentials(self, settings: dict[str, str]) -> None:
        """Who gives credentials where no Secret does: the security token service, or the node's own agents."""
        identity = self._site.archive.identity
        by_token = identity is not None and (
            identity.token is not None
            or "AWS_WEB_IDENTITY_TOKEN_FILE" in identity.environment
            or any("role-arn" in name for name in identity.annotations)
        )
        if by_token:
            self._place("security token service", settings.get("AWS_ENDPOINT_URL_STS") or "https://sts.amazonaws.com")
            return
        self._rules.append(_to([_block(cidr) for cidr in _CREDENTIALS], 80))
        self._said.append(("credentials", f"{', '.join(_CREDENTIALS)}, port 80 (pod identity, instance metadata)"))

    def _named(self) -> None:
        for rule in self._site.copy_.egress:
            peer = _block(rule.cidr) if rule.cidr else _pods(rule.namespace, dict(rule.pods))
            self._rules.append({"to": [peer], **({"ports": _tcp(*rule.ports)} if rule.ports else {})})
            self._said.append(("copy.egress", str(rule)))

    def _place(self, what: str, url: str) -> None:
        """Let out to the host of a URL, wherever it is."""
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port or (80 if parts.scheme == "http" else 443)
        service, known = self._service_of(host)
        if service is not None:
            self._to_service(what, f"{host}:{port}", service, port)
        elif known:
            self._by_port(what, host, port, known)
        elif (literal := _address(host)) is not None:
            self._to_addresses(what, f"{host}:{port}", [literal], port)
        elif host.endswith((".amazonaws.com", ".amazonaws.com.cn")):
            self._public(what, host, port, _resolved(host))
        elif addresses := _resolved(host):
            if any(address.is_global for address in addresses):
                self._public(what, host, port, addresses)
            else:
                self._to_addresses(what, f"{host}:{port}", addresses, port)
        else:
            self._by_port(what, host, port, f"{host} has no address from here")

    def _to_service(self, what: str, shown: str, service: Object, port: int) -> None:
        metadata, spec = service["metadata"], service["spec"]
        name = f"Service {metadata['namespace']}/{metadata['name']}"
        if spec.get("type") == "ExternalName":
            scheme = "http" if port == 80 else "https"
            self._place(what, f"{scheme}://{spec['externalName']}:{port}")
            return
        entry = next((item for item in spec.get("ports") or [] if item["port"] == port), None)
        if entry is None and spec.get("clusterIP") == "None":
            entry = {"port": port, "targetPort": port}  # headless: the name leads straight to the pods
        rules = self._behind(service, entry) if entry is not None else []
        if not rules:
            self._by_port(what, shown, port, f"{name} leads nowhere by port {port}")
            return
        self._rules += rules
        targets = sorted({str(item["port"]) for rule in rules for item in rule["ports"]})
        self._said.append((what, f"{shown}: {name}, its pods' port {', '.join(targets)}"))

    def _to_addresses(self, what: str, shown: str, addresses: Iterable[Ip], port: int) -> None:
        """Addresses, and the pods behind those that are a Service's (its own, a load balancer's, a node's port)."""
        named = []
        for address in addresses:
            self._rules.append(_to([_block(_single(str(address)))], port))
            named.append(str(address))
            for service, entry in self._services_at(str(address), port):
                self._rules += self._behind(service, entry)
                named.append(f"Service {service['metadata']['namespace']}/{service['metadata']['name']}")
        self._said.append((what, f"{shown}: {', '.join(named)}"))

    def _public(self, what: str, host: str, port: int, addresses: Iterable[Ip]) -> None:
        """A public host changes its addresses at any time: its port is let out to everywhere but private networks."""
        peers: list[Object] = [
            {"ipBlock": {"cidr": cidr, "except": list(private)}} for cidr, private in _PRIVATE.items()
        ]
        self._rules.append(_to(peers, port))
        inside = [address for address in addresses if not address.is_global]
        if inside:
            self._to_addresses(what, f"{host}:{port}", inside, port)
        self._wide.append(what)
        self._said.append((what, f"{host}: port {port} anywhere but private networks: its addresses change"))

    def _by_port(self, what: str, host: str, port: int, why: str) -> None:
        parts = host.partition(":")[0].split(".")
        self._rules.append({"ports": _tcp(port)})
        if len(parts) > 2 and parts[2] == "svc":
            # The pods listen on a port that only the Service knows.
            self._rules.append({"to": [_pods(parts[1], {})]})
        self._wide.append(what)
        self._said.append((what, f"{host}: port {port} anywhere: {why}; copy.egress can name it"))

    # -- what the cluster says -----------------------------------------------------------------------------------------

    def _service_of(self, host: str) -> tuple[Object | None, str]:
        """The Service that a name means; else why it can't be said, "" where the name is no Service's."""
        parts = host.split(".")
        certain = len(parts) > 2 and parts[2] == "svc"
        if _address(host) is not None or not (certain or len(parts) <= 2):
            return None, ""
        namespace = parts[1] if len(parts) > 1 else self._site.cluster.namespace
        if self._services is None:
            return None, "Services can't be listed (deploy/rbac/)" if certain else ""
        for service in self._services:
            if (service["metadata"]["namespace"], service["metadata"]["name"]) == (namespace, parts[0]):
                return service, ""
        return None, f"there is no Service {namespace}/{parts[0]}" if certain else ""

    def _services_at(self, address: str, port: int) -> Iterator[tuple[Object, Object]]:
        """The Services that an address and port lead to, with the port that is meant."""
        for service in self._services or []:
            balancer = ((service.get("status") or {}).get("loadBalancer") or {}).get("ingress") or []
            own = {*_cluster_ips(service), *(service["spec"].get("externalIPs") or [])}
            own |= {item["ip"] for item in balancer if item.get("ip")}
            for entry in service["spec"].get("ports") or []:
                if (address in own and entry["port"] == port) or (entry.get("nodePort") == port and address not in own):
                    yield service, entry

    def _behind(self, service: Object, entry: Object) -> list[Object]:
        """The rules for what a Service's port leads to: its pods by selector, its endpoints by address, its own address."""
        metadata, spec = service["metadata"], service["spec"]
        found = self._endpoints(metadata["namespace"], metadata["name"], entry.get("name"))
        target: int | str = entry.get("targetPort") or entry["port"]
        ports: list[int | str] = [*sorted({port for _, port in found})] or [target]
        protocol = entry.get("protocol", "TCP")
        rules = []
        if spec.get("selector"):
            rules.append(_to([_pods(metadata["namespace"], spec["selector"])], *ports, protocol=protocol))
        if found:
            # Pods on their node's own network, and endpoints that are no pods, are matched by no selector.
            peers = [_block(_single(address)) for address in sorted({address for address, _ in found})]
            rules.append(_to(peers, *ports, protocol=protocol))
        if rules and (own := [_block(_single(ip)) for ip in _cluster_ips(service)]):
            # Some network plugins judge before the address is exchanged.
            rules.append(_to(own, entry["port"], protocol=protocol))
        return rules

    def _endpoints(self, namespace: str, service: str, port_name: str | None = None) -> set[tuple[str, int]]:
        """Address and port of each endpoint of a Service's port; empty where it has none or they can't be read."""
        slices = [
            item
            for item in self._slices or []
            if item["metadata"]["namespace"] == namespace
            and (item["metadata"].get("labels") or {}).get("kubernetes.io/service-name") == service
        ]
        found = {
            (address, port["port"])
            for item in slices
            for port in item.get("ports") or []
            for endpoint in item.get("endpoints") or []
            for address in endpoint.get("addresses") or []
            if port.get("port") and (port_name is None or (port.get("name") or "") == port_name)
        }
        if found or self._slices is not None:
            return found
        whole = _readable(lambda: self._kube.get(k8s.ENDPOINTS, namespace, service)) or {}
        return {
            (address["ip"], port["port"])
            for subset in whole.get("subsets") or []
            for port in subset.get("ports") or []
            for address in subset.get("addresses") or []
            if port_name is None or (port.get("name") or "") == port_name
        }


def _readable(read: Any) -> Any:
    """What a read answers; None where the right or the kind is missing."""
    try:
        return read()
    except KubernetesError as error:
        if error.status not in (403, 404):
            raise
        return None


def _address(host: str) -> Ip | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None


def _resolved(host: str) -> list[Ip]:
    """The addresses of a name, asked from here; empty if it has none."""
    try:
        found = socket.getaddrinfo(host, None, proto=socket.IPPROTO_TCP)
    except (OSError, UnicodeError):
        return []
    return [ipaddress.ip_address(address) for address in sorted({str(item[4][0]).partition("%")[0] for item in found})]


def _cluster_ips(service: Object) -> list[str]:
    spec = service["spec"]
    found = spec.get("clusterIPs") or [spec.get("clusterIP")]
    return [ip for ip in found if ip and ip != "None"]


def _single(address: str) -> str:
    parsed = ipaddress.ip_address(address)
    return f"{parsed}/{parsed.max_prefixlen}"


def _block(cidr: str) -> Object:
    return {"ipBlock": {"cidr": cidr}}


def _pods(namespace: str, labels: dict[str, str]) -> Object:
    found: Object = {"namespaceSelector": {"matchLabels": {_NAMESPACE: namespace}}}
    return found | ({"podSelector": {"matchLabels": labels}} if labels else {})


def _tcp(*ports: int | str) -> list[Object]:
    return [{"protocol": "TCP", "port": port} for port in ports]


def _to(peers: list[Object], *ports: int | str, protocol: str = "TCP") -> Object:
    return {"to": peers, "ports": [{"protocol": protocol, "port": port} for port in ports]}
