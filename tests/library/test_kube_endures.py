"""The client endures what a control plane does: it is away, busy, or loses an answer; and nothing is done twice."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fix_kube import config_map
from tests.lab.fix_apiserver import Api

from drillbook.errors import Changed, KubernetesError
from drillbook.kube import CONFIG_MAP, Kube
from drillbook_lab.api.interference import INTERFERENCE, Rule


@pytest.fixture
def spoilt(api: Api) -> Iterator[Any]:
    """Puts rules in force on the API server; none are left."""

    def use(**rule: Any) -> Rule:
        made = Rule(**rule)
        api.serving.app[INTERFERENCE].rules = [made]
        return made

    yield use
    api.serving.app[INTERFERENCE].rules = []


def count(api: Api, name: str) -> int:
    """How often the API server accepted a creation of this name: by its audit log."""
    return sum(
        f'"{name}"' in line and '"create"' in line and '"code": 201' in line
        for line in api.audit.read_text().splitlines()
    )


@pytest.fixture(scope="module")
def pod(api: Api) -> str:
    """A running pod."""
    api.pod("endures")
    return "endures"


CHANGES: dict[str, Any] = {
    "create": lambda kube, name: kube.create(config_map(name, a="1")),
    "patch": lambda kube, name: kube.patch(CONFIG_MAP, "default", name, {"data": {"b": "2"}}),
    "patch at a version": lambda kube, name: kube.patch(
        CONFIG_MAP,
        "default",
        name,
        {
            "metadata": {"resourceVersion": kube.get(CONFIG_MAP, "default", name)["metadata"]["resourceVersion"]},
            "data": {"b": "2"},
        },
    ),
    "delete": lambda kube, name: kube.delete(
        CONFIG_MAP, "default", name, uid=kube.get(CONFIG_MAP, "default", name)["metadata"]["uid"]
    ),
}
SPOILT: dict[str, dict[str, Any]] = {
    "429": {"status": 429, "retry_after": "0"},
    "503": {"status": 503},
    "503 after it was done": {"status": 503, "when": "after"},
    "500 leader changed": {"status": 500, "message": "etcdserver: leader changed"},
    "500 webhook": {
        "status": 500,
        "message": 'Internal error occurred: failed calling webhook "x": connection refused',
    },
    "no answer though it was done": {"when": "lost"},
}


@pytest.mark.parametrize("how", SPOILT)
@pytest.mark.parametrize("change", CHANGES)
def test_g02_a_change_whose_answer_is_spoilt_once_is_done_once(
    api: Api, kube: Kube, spoilt: Any, change: str, how: str
) -> None:
    name = f"{change} {how}".lower().replace(" ", "-")
    if change != "create":
        kube.create(config_map(name, a="1"))
    rule = spoilt(**SPOILT[how])
    CHANGES[change](kube, name)
    assert rule.done == 1
    found = kube.get(CONFIG_MAP, "default", name)
    assert (found is None) == (change == "delete")
    if found is not None:
        assert found["data"] == ({"a": "1"} if change == "create" else {"a": "1", "b": "2"})


def test_g02_a_conflict_that_is_somebody_elses_is_still_one(api: Api, kube: Kube, spoilt: Any) -> None:
    """The first attempt was not done, and before the second somebody else made an object of that name."""
    other = Kube.open(str(api.kubeconfig), "lab-admin")
    spoilt(status=503, retry_after="1")
    late = threading.Timer(0.3, lambda: other.create(config_map("contested", a="theirs")))
    late.start()
    with pytest.raises(KubernetesError) as refused:
        kube.create(config_map("contested", a="ours"))
    late.join()
    other.close()
    assert refused.value.status == 409
    assert kube.get(CONFIG_MAP, "default", "contested")["data"] == {"a": "theirs"}  # type: ignore[index]


def test_g02_what_may_not_be_done_twice_is_not(kube: Kube, spoilt: Any) -> None:
    """An object without its own name would be made twice."""
    rule = spoilt(when="lost")
    nameless = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"generateName": "drawn-", "namespace": "default"}}
    with pytest.raises(KubernetesError) as error:
        kube.create(nameless)
    assert (rule.done, error.value.changed) == (1, Changed.UNKNOWN)
    assert (
        len([item for item in kube.list(CONFIG_MAP, "default") if item["metadata"]["name"].startswith("drawn-")]) == 1
    )


@pytest.mark.parametrize("what", ["read", "list", "change", "exec", "wait"])
@pytest.mark.long
def test_g02_a_control_plane_that_is_away_is_waited_for(api: Api, pod: str, what: str) -> None:
    """Refused connections for a while, in the middle of each kind of call; the person who waits is informed."""
    said: list[float] = []
    with Kube.open(str(api.kubeconfig), "lab-admin", say=lambda _why, seconds: said.append(seconds)) as kube:
        kube.server_version()
        api.run(api.serving.go_away())
        back = threading.Timer(5, lambda: api.run(api.serving.come_back()))
        back.start()
        begun = time.monotonic()
        if what == "read":
            kube.get(CONFIG_MAP, "default", "nothing-of-the-kind")
        elif what == "list":
            kube.list(CONFIG_MAP, "default")
        elif what == "change":
            kube.create(config_map(f"away-{what}"))
        elif what == "exec":
            assert kube.exec("default", pod, "main", ["echo", "here"], timeout_seconds=30).text.strip() == "here"
        else:
            kube.wait(CONFIG_MAP, "default", "none", lambda found: found is None, timeout_seconds=30, what="nothing")
        assert time.monotonic() - begun > 2, "it was not away at all"
        back.join()
        assert said or what == "wait"


def test_g02_an_address_that_never_answered_is_reported_soon(api: Api, link: Any, tmp_path: Any) -> None:
    config = tmp_path / "kubeconfig"
    config.write_text(api.kubeconfig.read_text().replace(f":{api.serving.port}", f":{link.port}"))
    link.cut()
    with Kube.open(str(config), "lab-admin") as kube, pytest.raises(KubernetesError, match="no answer"):
        kube.server_version()


def test_g02_patience_ends(kube: Kube, spoilt: Any, api: Api) -> None:
    """A server that stays broken is reported, with what is unknown."""
    spoilt(status=503, times=0)
    with (
        Kube.open(str(api.kubeconfig), "lab-admin", patience_seconds=0.5) as hasty,
        pytest.raises(KubernetesError) as error,
    ):
        hasty.create(config_map("never"))
    assert (error.value.status, error.value.changed) == (503, Changed.UNKNOWN)


def test_an_expired_page_token_begins_the_list_again(kube: Kube, spoilt: Any) -> None:
    for number in range(3):
        kube.create(config_map(f"page-{number}"))
    rule = spoilt(method="GET", path="/configmaps$", status=410, times=1)
    with pytest.raises(KubernetesError):
        kube.list(CONFIG_MAP, "default")  # the first page has no token that could have expired
    assert rule.done == 1


@pytest.mark.parametrize("repeatable", [True, False], ids=["repeatable", "once"])
def test_g02_a_command_whose_connection_breaks_is_run_again_only_if_it_may_be(
    api: Api, kube: Kube, pod: str, tmp_path: Path, repeatable: bool
) -> None:
    kube.server_version()
    begun = tmp_path / "begun"
    begun.touch()
    begun.chmod(0o666)
    tmp_path.chmod(0o777)
    argv = ["sh", "-c", 'echo begun >> "$0"; sleep 2; echo done', str(begun)]

    def away() -> None:
        while not begun.read_text():
            time.sleep(0.05)
        api.run(api.serving.go_away())
        time.sleep(1)
        api.run(api.serving.come_back())

    breaks = threading.Thread(target=away)
    breaks.start()
    try:
        if repeatable:
            assert kube.exec("default", pod, "main", argv, timeout_seconds=30, repeatable=True).text.strip() == "done"
        else:
            with pytest.raises(
                KubernetesError, match="the connection ended before the command's status came"
            ) as caught:
                kube.exec("default", pod, "main", argv, timeout_seconds=30)
            assert caught.value.changed is Changed.UNKNOWN
    finally:
        breaks.join()
    assert begun.read_text().split() == ["begun"] * (2 if repeatable else 1)
