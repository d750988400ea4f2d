"""Names of Services where a pod can't have its own /etc/hosts: a container or a chroot that refuses mount namespaces."""

from __future__ import annotations

from pathlib import Path

import pytest

from drillbook_lab.names import HOSTS_VARIABLE, HostsFiles, look_up
from drillbook_lab.sample_app.settings import read

SERVICE = {"metadata": {"name": "main-rw", "namespace": "data"}, "spec": {"clusterIP": "127.90.0.7"}}
LONG = "main-rw.data.svc.cluster.local"


@pytest.fixture
def hosts(tmp_path: Path) -> Path:
    files = HostsFiles(tmp_path / "hosts")
    files.write([SERVICE])
    return files.of("apps")


def test_a_name_is_looked_up_and_the_short_one_at_home_only(hosts: Path) -> None:
    assert look_up(hosts, LONG) == look_up(hosts, "main-rw.data") == "127.90.0.7"
    assert look_up(hosts, "main-rw") == look_up(hosts, "nobody.data") == look_up(hosts.with_name("none"), LONG) == ""
    home = HostsFiles(hosts.parent)
    home.write([SERVICE])
    assert look_up(home.of("data"), "main-rw") == "127.90.0.7"


def test_the_application_dials_the_address_and_keeps_the_name(hosts: Path) -> None:
    env = {"SPRING_DATASOURCE_URL": f"jdbc:postgresql://{LONG}:5432/app"}
    assert "hostaddr" not in read(env).dialled()
    connection = read({**env, HOSTS_VARIABLE: str(hosts)}).dialled()
    assert (connection["host"], connection["hostaddr"]) == (LONG, "127.90.0.7")


def test_an_address_that_changed_is_dialled_next_and_an_unknown_name_is_left_to_the_resolver(hosts: Path) -> None:
    env = {HOSTS_VARIABLE: str(hosts), "SPRING_DATASOURCE_URL": f"jdbc:postgresql://{LONG},other.example:5432/app"}
    settings = read(env)
    assert settings.dialled()["hostaddr"] == "127.90.0.7,"
    moved = HostsFiles(hosts.parent)
    moved.write([{**SERVICE, "spec": {"clusterIP": "127.90.0.8"}}])
    assert settings.dialled()["hostaddr"] == "127.90.0.8,"
    moved.write([])
    assert "hostaddr" not in settings.dialled()
