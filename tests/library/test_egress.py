"""What the quarantine lets out, judged packet by packet as a network plugin does: after a Service's address was exchanged."""

from __future__ import annotations

import ipaddress
import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from tests.lab.fix_apiserver import Api

from drillbook import kube as k8s
from drillbook.archive.location import PLUGIN, SourceArchive
from drillbook.errors import ParameterError
from drillbook.kube import Kube
from drillbook.manifests import recovery as manifests
from drillbook.profile import Site, load_site
from drillbook.steps.recovery.egress import Egress, ways_out

PROFILE = """\
name: shop
environment: test
cluster: {namespace: databases, name: shop-db}
tenants: [{database: shop, app_role: shop_app}]
"""


@dataclass(frozen=True)
class To:
    """Where a packet goes: an address, and the pod or node that has it."""

    ip: str
    port: int
    namespace: str = ""  # of a pod; "" is no pod
    labels: dict[str, str] = field(default_factory=dict)
    node: bool = False
    protocol: str = "TCP"


def lets_out(egress: Egress, packet: To, *, cilium: bool = False) -> bool:
    """Whether a policy of these rules lets the packet out. Cilium matches neither a pod nor a node by address."""
    policy = manifests.network_policy(
        manifests.Copy.named(load(), "run", datetime(2026, 11, 1, tzinfo=UTC)), egress.rules, owner_uid="u"
    )
    assert policy["spec"]["policyTypes"] == ["Ingress", "Egress"]
    return any(_rule(rule, packet, cilium) for rule in policy["spec"]["egress"])


def _rule(rule: dict[str, Any], packet: To, cilium: bool) -> bool:
    ports = rule.get("ports")
    if ports and not any((p["port"], p["protocol"]) == (packet.port, packet.protocol) for p in ports):
        return False
    return "to" not in rule or any(_peer(peer, packet, cilium) for peer in rule["to"])


def _peer(peer: dict[str, Any], packet: To, cilium: bool) -> bool:
    if "ipBlock" in peer:
        ip = ipaddress.ip_address(packet.ip)
        block = peer["ipBlock"]
        inside = ip in ipaddress.ip_network(block["cidr"])
        outside = any(ip in ipaddress.ip_network(cidr) for cidr in block.get("except") or [])
        return inside and not outside and not (cilium and (packet.namespace or packet.node))
    spaces = peer["namespaceSelector"]
    wanted = dict(spaces.get("matchLabels") or {})
    expressions = spaces.get("matchExpressions") or []
    return (
        bool(packet.namespace)
        and all(value == packet.namespace for value in wanted.values())
        and all(packet.namespace in item["values"] for item in expressions)
        and (peer.get("podSelector") or {}).get("matchLabels", {}).items() <= packet.labels.items()
    )


def load(more: str = "") -> Site:
    with TemporaryDirectory() as folder:
        path = Path(folder) / "shop.yaml"
        path.write_text(PROFILE + more, encoding="utf-8")
        return load_site(path)


def found(kube: Kube, endpoint: str = "", more: str = "", env: tuple[dict[str, str], ...] = ()) -> Egress:
    where = {"destinationPath": "s3://b/p"} | ({"endpointURL": endpoint} if endpoint else {})
    return ways_out(kube, load(more), SourceArchive(PLUGIN, where, "shop-db", env=env))


_numbers = itertools.count(1)


def service(
    kube: Kube,
    name: str,
    port: int,
    target: int | str,
    *,
    namespace: str = "databases",
    endpoints: tuple[str, ...] = (),
    number: int = 0,
    selector: bool = True,
    **more: Any,
) -> str:
    """A Service and its EndpointSlice as a cluster has them; its address."""
    ip = f"10.96.7.{next(_numbers)}"
    status = more.pop("status", None)
    entry = {"name": "api", "port": port, "targetPort": target, **more.pop("entry", {})}
    spec = {
        "clusterIP": ip,
        "clusterIPs": [ip],
        "ports": [entry],
        **({"selector": {"app": name}} if selector else {}),
        **more,
    }
    meta = {"name": name, "namespace": namespace}
    kube.create({"apiVersion": "v1", "kind": "Service", "metadata": meta, "spec": spec})
    if status:
        kube.patch(k8s.SERVICE, namespace, name, {"status": status}, subresource="status")
    if endpoints:
        kube.create(
            {
                "apiVersion": "discovery.k8s.io/v1",
                "kind": "EndpointSlice",
                "addressType": "IPv4",
                "metadata": {**meta, "name": f"{name}-x", "labels": {"kubernetes.io/service-name": name}},
                "ports": [{"name": "api", "port": number or target, "protocol": "TCP"}],
                "endpoints": [{"addresses": [address]} for address in endpoints],
            }
        )
    return ip


@pytest.fixture(scope="module")
def world(api: Api) -> Iterator[Kube]:
    """A cluster with an API server and stores behind Services of many kinds."""
    with Kube.open(str(api.kubeconfig), "lab-admin") as kube:
        for name in ("databases", "rook-ceph", "kube-system", "openshift-dns", "elsewhere"):
            if kube.get(k8s.NAMESPACE, "", name) is None:
                kube.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
        service(kube, "rgw", 80, 8080, namespace="rook-ceph", endpoints=("10.244.1.5",))
        service(kube, "minio", 443, "https", endpoints=("10.244.1.6",), number=9000)
        service(kube, "onnodes", 80, 7480, namespace="rook-ceph", endpoints=("192.168.1.10", "192.168.1.11"))
        service(kube, "outside", 9000, 9001, endpoints=("172.20.0.9",), selector=False)
        service(kube, "empty", 9000, 9002)
        service(
            kube,
            "balanced",
            443,
            9444,
            endpoints=("10.244.1.8",),
            type="LoadBalancer",
            status={"loadBalancer": {"ingress": [{"ip": "10.77.0.1"}]}},
        )
        service(kube, "nodeport", 9000, 9445, endpoints=("10.244.1.9",), type="NodePort", entry={"nodePort": 30900})
        kube.create(
            {
                "apiVersion": "v1",
                "kind": "Service",
                "metadata": {"name": "alias", "namespace": "databases"},
                "spec": {"type": "ExternalName", "externalName": "rgw.rook-ceph.svc.cluster.local"},
            }
        )
        kube.create(
            {
                "apiVersion": "discovery.k8s.io/v1",
                "kind": "EndpointSlice",
                "addressType": "IPv4",
                "metadata": {
                    "name": "kubernetes",
                    "namespace": "default",
                    "labels": {"kubernetes.io/service-name": "kubernetes"},
                },
                "ports": [{"name": "https", "port": 16443, "protocol": "TCP"}],
                "endpoints": [{"addresses": ["192.168.1.2"]}],
            }
        )
        yield kube


# -- DNS ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("protocol", ["UDP", "TCP"])
@pytest.mark.parametrize(
    ("packet", "goes"),
    [
        (("10.244.0.2", 53, "kube-system"), True),
        (("10.128.0.4", 5353, "openshift-dns"), True),
        (("169.254.20.10", 53, ""), True),  # NodeLocal DNSCache
        (("169.254.169.254", 53, ""), True),  # GKE
        (("169.254.116.108", 53, ""), True),  # Talos
        (("8.8.8.8", 53, ""), False),
        (("10.244.0.9", 53, "elsewhere"), False),
        (("10.244.0.2", 9153, "kube-system"), False),
    ],
)
def test_b13_names_are_resolved_wherever_the_resolver_lives(
    world: Kube, packet: tuple[str, int, str], goes: bool, protocol: str
) -> None:
    ip, port, namespace = packet
    egress = found(world, "http://rgw.rook-ceph.svc:80")
    assert lets_out(egress, To(ip, port, namespace, protocol=protocol)) is goes


# -- the API server ----------------------------------------------------------------------------------------------------


def test_s20_the_api_server_is_let_out_by_its_real_address_and_nothing_beside_it(world: Kube) -> None:
    egress = found(world, "http://rgw.rook-ceph.svc:80")
    assert lets_out(egress, To("192.168.1.2", 16443, node=True))
    for other in (
        To("192.168.1.2", 443),
        To("192.168.1.3", 16443),
        To("203.0.113.9", 443),
        To("203.0.113.9", 6443),
        To("10.96.0.77", 443),
    ):
        assert not lets_out(egress, other), other
    assert "192.168.1.2:16443" in dict(egress.said)["API server"] and not egress.wide


def test_s20_without_the_right_the_ports_are_let_out_and_it_is_said(api: Api, world: Kube) -> None:
    with Kube.open(str(api.kubeconfig), "lab") as nobody:
        egress = found(nobody, "http://rgw.rook-ceph.svc:80")
    assert lets_out(egress, To("192.168.1.2", 6443, node=True)) and lets_out(
        egress, To("10.244.1.5", 8080, "rook-ceph")
    )
    assert "deploy/rbac/" in dict(egress.said)["API server"] and "deploy/rbac/" in dict(egress.said)["object store"]
    assert set(egress.wide) == {"API server", "object store"}
    assert not lets_out(egress, To("203.0.113.9", 8080))


# -- the object store --------------------------------------------------------------------------------------------------

RGW, MINIO = To("10.244.1.5", 8080, "rook-ceph", {"app": "rgw"}), To("10.244.1.6", 9000, "databases", {"app": "minio"})


@pytest.mark.parametrize("cilium", [False, True])
@pytest.mark.parametrize(
    ("endpoint", "store", "denied"),
    [
        ("http://rgw.rook-ceph.svc:80", RGW, To("10.244.1.7", 8080, "elsewhere")),
        ("http://rgw.rook-ceph.svc.cluster.local", RGW, To("10.244.1.5", 80, "rook-ceph", {"app": "rgw"})),
        ("http://rgw.rook-ceph", RGW, To("203.0.113.1", 80)),
        ("https://minio.databases.svc", MINIO, To("203.0.113.1", 443)),
        ("https://minio", MINIO, To("10.244.1.6", 9001, "databases", {"app": "minio"})),
        ("http://alias.databases.svc", RGW, To("203.0.113.1", 80)),
        ("https://10.77.0.1", To("10.244.1.8", 9444, "databases", {"app": "balanced"}), To("10.77.0.2", 443)),
        (
            "http://192.168.1.77:30900",
            To("10.244.1.9", 9445, "databases", {"app": "nodeport"}),
            To("192.168.1.78", 30900),
        ),
        ("http://172.20.0.8:9000", To("172.20.0.8", 9000), To("172.20.0.9", 9000)),
        ("http://outside.databases.svc:9000", To("172.20.0.9", 9001), To("172.20.0.9", 9000)),
        (
            "http://empty.databases.svc:9000",
            To("10.244.1.3", 9002, "databases", {"app": "empty"}),
            To("10.244.1.3", 9002, "elsewhere"),
        ),
    ],
)
def test_b12_the_stores_pods_are_let_out_by_the_port_that_they_listen_on(
    world: Kube, endpoint: str, store: To, denied: To, cilium: bool
) -> None:
    egress = found(world, endpoint)
    assert lets_out(egress, store, cilium=cilium), egress.said
    assert not lets_out(egress, denied, cilium=cilium), egress.said
    assert not egress.wide and "object store" in dict(egress.said)


def test_b12_an_address_that_is_a_services_leads_to_its_pods(world: Kube) -> None:
    ip = world.get(k8s.SERVICE, "rook-ceph", "rgw")["spec"]["clusterIP"]  # type: ignore[index]
    egress = found(world, f"http://{ip}")
    assert lets_out(egress, RGW, cilium=True) and lets_out(egress, To(ip, 80)), "before and after the exchange"


def test_b12_pods_on_their_nodes_own_network_are_let_out_by_address(world: Kube) -> None:
    egress = found(world, "http://onnodes.rook-ceph.svc")
    assert lets_out(egress, To("192.168.1.11", 7480, node=True)) and not lets_out(
        egress, To("192.168.1.12", 7480, node=True)
    )


@pytest.mark.parametrize("endpoint", ["", "https://s3.eu-central-1.amazonaws.com"])
def test_s20_a_public_store_is_let_out_to_everywhere_but_private_networks(world: Kube, endpoint: str) -> None:
    egress = found(world, endpoint)
    assert lets_out(egress, To("52.219.1.1", 443)) and lets_out(egress, To("2600:1f18::1", 443))
    for ip in ("10.1.2.3", "172.31.0.1", "192.168.0.1", "169.254.169.254", "100.64.0.1", "fd00::1"):
        assert not lets_out(egress, To(ip, 443)), ip
    assert not lets_out(egress, To("52.219.1.1", 80))
    assert egress.wide == ("object store",) and "anywhere but private" in dict(egress.said)["object store"]


@pytest.mark.parametrize("endpoint", ["https://s3.nowhere.invalid:9000", "http://gone.databases.svc:9000"])
def test_s20_a_place_that_nobody_can_name_is_let_out_by_port_and_said(world: Kube, endpoint: str) -> None:
    egress = found(world, endpoint)
    assert lets_out(egress, To("10.1.2.3", 9000)) and not lets_out(egress, To("10.1.2.3", 9001))
    assert "copy.egress" in dict(egress.said)["object store"] and egress.wide == ("object store",)


# -- what else is needed -----------------------------------------------------------------------------------------------

NO_KEY = "archive: {{reader_secret: null{}}}\n"


@pytest.mark.parametrize(
    ("identity", "env", "goes", "stays"),
    [
        ("", (), [("169.254.169.254", 80), ("169.254.170.23", 80)], [("52.1.1.1", 443), ("169.254.169.254", 443)]),
        (", identity: {service_account: reader}", (), [("169.254.170.23", 80)], [("52.1.1.1", 443)]),
        (
            ", identity: {annotations: {eks.amazonaws.com/role-arn: x}}",
            (),
            [("52.1.1.1", 443)],
            [("169.254.170.23", 80)],
        ),
        (
            ", identity: {token: {}, environment: {AWS_ENDPOINT_URL_STS: 'http://172.20.0.8:9000'}}",
            (),
            [("172.20.0.8", 9000)],
            [("52.1.1.1", 443)],
        ),
    ],
)
def test_b11_who_gives_credentials_is_let_out_where_no_secret_does(
    world: Kube,
    identity: str,
    env: tuple[dict[str, str], ...],
    goes: list[tuple[str, int]],
    stays: list[tuple[str, int]],
) -> None:
    egress = found(world, "http://rgw.rook-ceph.svc", NO_KEY.format(identity), env)
    assert all(lets_out(egress, To(ip, port)) for ip, port in goes)
    assert not any(lets_out(egress, To(ip, port)) for ip, port in stays)
    with_key = found(world, "http://rgw.rook-ceph.svc")
    assert not any(lets_out(with_key, To(ip, port)) for ip, port in goes)


def test_b10_the_proxy_that_the_store_is_reached_by_is_let_out(world: Kube) -> None:
    egress = found(world, "http://rgw.rook-ceph.svc", env=({"name": "HTTPS_PROXY", "value": "http://10.9.9.9:3128"},))
    assert lets_out(egress, To("10.9.9.9", 3128)) and not lets_out(egress, To("10.9.9.9", 3129))


def test_s20_a_profile_lets_out_what_a_cluster_cannot_say(world: Kube) -> None:
    more = "copy: {egress: [{cidr: 10.5.0.0/24, ports: [9000]}, {namespace: elsewhere, pods: {app: kms}}]}\n"
    egress = found(world, "http://rgw.rook-ceph.svc", more)
    assert lets_out(egress, To("10.5.0.7", 9000)) and not lets_out(egress, To("10.5.0.7", 9001))
    assert lets_out(egress, To("10.244.3.3", 1234, "elsewhere", {"app": "kms"}))
    assert not lets_out(egress, To("10.244.3.3", 1234, "elsewhere", {"app": "other"}))


@pytest.mark.parametrize(
    "rule",
    [
        "{}",
        "{cidr: 10.0.0.1/8}",
        "{cidr: 10.0.0.0/8, namespace: a}",
        "{cidr: '::/0', pods: {a: b}}",
        "{namespace: a, ports: [0]}",
    ],
)
def test_s20_a_way_out_that_means_nothing_is_refused(rule: str) -> None:
    with pytest.raises(ParameterError, match="egress"):
        load(f"copy: {{egress: [{rule}]}}\n")
