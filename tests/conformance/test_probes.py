"""The probes: silent on a cluster that does as the facts say, loud on one that doesn't, and honest where they can't ask."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import on_lab
import pytest
import yaml

from drillbook import kube as k8s
from drillbook.conformance import PROBES, Options, ProbeEnvironment, State, page, survey
from drillbook.conformance.environment import LABEL
from drillbook_lab.api import Registry
from drillbook_lab.api.shipped import shipped_crds

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "lab"))

from fix_apiserver import Api

JUDGED = [name for name, one in PROBES.items() if one.needs == "api"]
# These wait to see that something doesn't happen, or that a controller does something.
NEEDS_CONTROLLERS = {"backups-wait-for-their-cluster"}


@pytest.fixture
def api(tmp_path: Path) -> Iterator[Api]:
    """An API server as the lab has it, without controllers."""
    server = Api(tmp_path)
    server.start()
    yield server
    server.stop()


@pytest.fixture
def lax(tmp_path: Path) -> Iterator[Api]:
    """A server of the same kinds whose definitions take anything: no pattern, no enum, no rule."""
    registry = Registry()
    for crd in shipped_crds():
        registry.register_crd(_without_rules(crd))
    server = Api(tmp_path, registry)
    server.start()
    yield server
    server.stop()


def _without_rules(node: object) -> object:
    if isinstance(node, dict):
        dropped = {"x-kubernetes-validations", "pattern", "enum", "maxLength", "maximum"}
        return {key: _without_rules(value) for key, value in node.items() if key not in dropped}
    return [_without_rules(one) for one in node] if isinstance(node, list) else node


def ground_of(api: Api, context: str = "lab-admin") -> ProbeEnvironment:
    kube = k8s.Kube.open(str(api.kubeconfig), context)
    return ProbeEnvironment(kube, Options(namespace="default", wait_seconds=30))


def test_every_fact_about_the_api_agrees_and_nothing_is_left(api: Api) -> None:
    ground = ground_of(api)
    with ground.kube:
        found = survey(ground, [name for name in JUDGED if name not in NEEDS_CONTROLLERS])
        assert {one.probe.name: one.seen for one in found.answers if one.state is not State.AGREES} == {}
        assert found.left == []
        for kind in k8s.KINDS:
            if kind in (k8s.APPLICATION, k8s.VOLUME_SNAPSHOT):
                continue  # kinds of others, which a cluster without them does not serve
            if kind.namespaced and kind.plural not in ("selfsubjectreviews", "events"):
                left = [one["metadata"]["name"] for one in ground.kube.list(kind, "default", labels=LABEL)]
                assert left == [], f"{kind} left behind"


def test_a_server_that_takes_anything_differs(lax: Api) -> None:
    ground = ground_of(lax)
    with ground.kube:
        rules = ["object-stores-have-no-server-name", "backup-specs-are-immutable", "retention-has-a-form"]
        found = survey(ground, rules)
    assert {one.probe.name: str(one.state) for one in found.answers} == dict.fromkeys(rules, "differs")
    assert all("accepted" in one.seen for one in found.answers)


def test_without_rights_a_question_can_not_be_asked(api: Api) -> None:
    ground = ground_of(api, "lab")  # no role is bound to it on this server
    with ground.kube:
        found = survey(ground, ["a-dry-run-stores-nothing", "one-target-only", "stale-updates-conflict"])
    assert {str(one.state) for one in found.answers} == {"can't be asked"}
    assert all("forbidden" in one.seen.lower() for one in found.answers)


@pytest.mark.soak
@pytest.mark.parametrize(("option", "value"), [("--storage-size", "lots"), ("--image", "no image")])
def test_f15_size_class_and_image_of_the_probes_can_be_given(api: Api, option: str, value: str) -> None:
    """A value that the API server refuses shows that it arrived; a class is not judged before a volume is asked for."""
    argv = [sys.executable, "-m", "drillbook", "doctor", "--conformance", "--namespace", "default"]
    argv += ["--probe", "a-dry-run-stores-nothing", "--storage-class", "lab"]
    env = dict(os.environ, KUBECONFIG=str(api.kubeconfig))
    said = [
        subprocess.run(one, env=env, capture_output=True, text=True, check=False)
        for one in (argv, [*argv, option, value])
    ]
    assert [one.returncode for one in said] == [0, 1], said
    assert value in said[1].stdout


def test_without_an_object_store_the_archives_facts_can_not_be_asked(api: Api) -> None:
    ground = ground_of(api)
    with ground.kube:
        found = survey(ground, [name for name, one in PROBES.items() if one.needs == "archive"])
    assert {str(one.state) for one in found.answers} == {"can't be asked"}


def test_bad_usage_is_told_at_once_and_touches_nothing(api: Api) -> None:
    argv = [sys.executable, "-m", "drillbook", "doctor", "--conformance", "--probe", "no-such-probe"]
    said = subprocess.run(
        argv, env=dict(os.environ, KUBECONFIG=str(api.kubeconfig)), capture_output=True, text=True, check=False
    )
    assert said.returncode == 4
    assert "no-such-probe" in said.stderr
    assert "--namespace is missing" in said.stderr


def test_the_page_lists_every_probe_and_says_what_was_not_asked() -> None:
    text = page({"The lab": None, "A real cluster": None})
    assert re.findall(r"^\| `([a-z0-9-]+)` \|", text, flags=re.M) == [
        name
        for section in dict.fromkeys(one.section for one in PROBES.values())
        for name, one in PROBES.items()
        if one.section == section
    ]
    assert text.count("not yet asked") >= 2 * len(PROBES)


def test_the_page_in_the_documentation_is_of_these_probes() -> None:
    kept = (on_lab.ROOT / "docs" / "conformance.md").read_text(encoding="utf-8")
    assert set(re.findall(r"^\| `([a-z0-9-]+)` \|", kept, flags=re.M)) == set(PROBES)
    for one in PROBES.values():
        assert one.fact.replace("|", "\\|").replace("<", "&lt;") in kept, one.name


@pytest.mark.long
@pytest.mark.timeout(900)
def test_the_lab_agrees_with_every_fact(tmp_path: Path) -> None:
    home, answers = tmp_path / "h", tmp_path / "answers.json"
    environment = dict(os.environ, DRILLBOOK_LAB_HOME=str(home))
    assert on_lab.drillbook("lab", "up", "--data-mb", "5", env=environment).returncode == 0
    try:
        on_lab.ask(home, answers)
        found = json.loads(answers.read_text())
        wrong = {row["name"]: row["seen"] for row in found["answers"] if row["state"] != "agrees"}
        assert wrong == {}
        assert found["left"] == []
        assert {"Kubernetes", "CloudNativePG", "PostgreSQL"} <= set(found["versions"])
    finally:
        on_lab.drillbook("lab", "down", env=environment)


def test_facts_are_sentences_without_site_or_machine() -> None:
    for one in PROBES.values():
        assert one.fact == one.fact.strip() and not one.fact.endswith("."), one.name
        assert yaml.safe_load(json.dumps(one.fact)) == one.fact
