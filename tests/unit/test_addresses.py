"""An application's address: where it stands, and the same with another cluster's services in it."""

from __future__ import annotations

from typing import Any

import pytest

from drillbook.kube import connection_env
from drillbook.kube.connection_env import AddressLocation

OBJECTS = {
    ("Secret", "db"): {"url": "postgresql://app:pw@shop-rw:5432/shop", "APP_URL": "from the whole Secret"},
    ("ConfigMap", "settings"): {"URL": "shop-rw"},
}


def lookup(kind: str, name: str) -> dict[str, str]:
    return OBJECTS.get((kind, name), {})


def deployment(*env: dict[str, Any], **container: Any) -> dict[str, Any]:
    containers = [
        {"name": "app", "env": list(env)} | container,
        {"name": "other", "env": [{"name": "URL", "value": "x"}]},
    ]
    return {"metadata": {"name": "web"}, "spec": {"template": {"spec": {"containers": containers}}}}


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        (
            "jdbc:postgresql://shop-rw.db.svc.cluster.local:5432/shop",
            "jdbc:postgresql://new-rw.db.svc.cluster.local:5432/shop",
        ),
        ("postgresql://app:pw@shop-rw:5432,shop-ro:5432/shop", "postgresql://app:pw@new-rw:5432,new-ro:5432/shop"),
        ("host=shop-r user=app", "host=new-r user=app"),
        ("shop-rw", "new-rw"),
        # No service of this Cluster: another one whose name ends or begins like it, its Pooler, its database.
        ("my-shop-rw:5432", "my-shop-rw:5432"),
        ("shop-rw-2:5432", "shop-rw-2:5432"),
        ("db.shop-rw:5432", "db.shop-rw:5432"),
        ("shop-pool:5432/shop", "shop-pool:5432/shop"),
    ],
)
def test_only_the_clusters_services_are_replaced(address: str, expected: str) -> None:
    assert connection_env.readdressed(address, "shop", "new") == expected
    assert connection_env.readdressed(expected, "new", "shop") == address


def test_what_is_told_of_an_address_is_its_services_only() -> None:
    assert connection_env.services_in("postgresql://app:pw@shop-rw:5432,shop-ro/shop?sslmode=require", "shop") == [
        "shop-rw",
        "shop-ro",
    ]


def test_a_secret_in_the_deployment_itself_is_found_and_only_its_variable_is_named() -> None:
    held = deployment(
        {"name": "URL", "value": "postgresql://app:pw@shop-rw:5432/shop"},
        {"name": "JDBC", "value": "jdbc:postgresql://shop-rw/shop?user=app&password=pw"},
        {"name": "DSN", "value": "host=shop-rw user=app password=pw"},
        {"name": "SPRING_DATASOURCE_PASSWORD", "value": "pw"},
        {"name": "REDIS_PASSWORD", "valueFrom": {"secretKeyRef": {"name": "redis", "key": "password"}}},
        {"name": "PASSWORD_MIN_LENGTH", "value": "12"},
        {"name": "STRIPE_API_KEY", "value": "sk"},
        {"name": "JWT_SECRET", "value": "s"},
        {"name": "TOKEN_LIFETIME", "value": "3600"},
        {"name": "SPRING_DATASOURCE_URL", "value": "jdbc:postgresql://shop-rw.db.svc.cluster.local:5432/shop"},
        {"name": "HOME_PAGE", "value": "https://example.test:8443/~app@work"},
        {"name": "EMPTY_PASSWORD", "value": ""},
    )
    assert connection_env.literal_secrets(held) == [
        "URL",
        "JDBC",
        "DSN",
        "SPRING_DATASOURCE_PASSWORD",
        "STRIPE_API_KEY",
        "JWT_SECRET",
    ]
    assert connection_env.literal_secrets(deployment({"name": "URL", "value": "shop-rw"})) == []


def test_the_variable_is_found_where_it_stands() -> None:
    literal = deployment({"name": "URL", "value": "shop-rw"})
    assert connection_env.find(literal, "URL", lookup) == AddressLocation("Deployment", "web", "URL", "shop-rw")
    secret = deployment({"name": "URL", "valueFrom": {"secretKeyRef": {"name": "db", "key": "url"}}})
    assert connection_env.find(secret, "URL", lookup) == AddressLocation(
        "Secret", "db", "url", OBJECTS["Secret", "db"]["url"]
    )
    settings = deployment({"name": "URL", "valueFrom": {"configMapKeyRef": {"name": "settings", "key": "URL"}}})
    assert connection_env.find(settings, "URL", lookup) == AddressLocation("ConfigMap", "settings", "URL", "shop-rw")


def test_a_whole_secret_or_config_map_counts_too_and_the_last_one_wins() -> None:
    sources = [{"configMapRef": {"name": "settings"}}, {"secretRef": {"name": "db"}, "prefix": "X_"}]
    assert connection_env.find(deployment(envFrom=sources), "URL", lookup) == AddressLocation(
        "ConfigMap", "settings", "URL", "shop-rw"
    )
    found = connection_env.find(deployment(envFrom=sources), "X_APP_URL", lookup)
    assert found == AddressLocation("Secret", "db", "APP_URL", "from the whole Secret")


def test_a_variable_that_is_not_text_or_not_there_is_none() -> None:
    assert connection_env.find(deployment(), "URL", lookup) is None
    missing = deployment({"name": "URL", "valueFrom": {"secretKeyRef": {"name": "gone", "key": "url"}}})
    assert connection_env.find(missing, "URL", lookup) is None
    field = deployment({"name": "URL", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}})
    assert connection_env.find(field, "URL", lookup) is None


@pytest.mark.parametrize(
    ("address", "moved"),
    [
        ("postgresql://app:pw@shop-rw:5432/shop", False),  # the pod's own namespace's
        ("postgresql://app:pw@shop-rw.db:5432/shop", True),
        ("postgresql://app:pw@shop-rw.db.svc.cluster.local:5432/shop", True),
        ("postgresql://app:pw@shop-rw.test:5432/shop", False),
        ("host=shop-rw.test.svc,shop-ro.test.svc", False),
    ],
)
def test_s22_a_cluster_of_the_same_name_in_another_namespace_is_left_alone(address: str, moved: bool) -> None:
    assert (connection_env.readdressed(address, "shop", "new", "db", "web") != address) is moved
    assert bool(connection_env.services_in(address, "shop", "db", "web")) is moved
    assert connection_env.services_in("shop-rw", "shop", "db", "db") == ["shop-rw"]
