"""Lists, scales, decoding and descriptions over the wire: the verbs that clients other than kubectl use too."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

import pytest
from fix_apiserver import Api, cluster
from test_apiserver_http import CLUSTERS, ask

from drillbook_lab.api import Registry

Object = dict[str, Any]
MAPS = "/api/v1/namespaces/default/configmaps"
SCALES = "/apis/apps/v1/namespaces/default/deployments/web/scale"


def config(name: str, **data: str) -> Object:
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "namespace": "default"}, "data": data}


def deployment() -> Object:
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "web", "namespace": "default"},
        "spec": {
            "replicas": 2,
            "selector": {"matchLabels": {"app": "web", "tier": "x"}},
            "template": {"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [{"name": "main"}]}},
        },
    }


def names(answer: Any) -> list[str]:
    return [item["metadata"]["name"] for item in answer.json["items"]]


def test_pages_show_the_list_as_it_was_at_the_first_page(api: Api) -> None:
    for name in "abcde":
        api.do(api.registry.create, config(name))
    first = ask(api, "GET", MAPS + "?limit=2")
    meta = first.json["metadata"]
    assert names(first) == ["a", "b"] and meta["remainingItemCount"] == 3
    api.do(api.registry.delete, "ConfigMap", "default", "c")
    api.do(api.registry.create, config("ca"))
    api.do(api.registry.patch, "ConfigMap", "default", "d", {"data": {"new": "1"}})
    second = ask(api, "GET", f"{MAPS}?limit=2&continue={meta['continue']}")
    assert names(second) == ["c", "d"] and not second.json["items"][1].get("data")
    assert second.json["metadata"]["resourceVersion"] == meta["resourceVersion"]
    last = ask(api, "GET", f"{MAPS}?limit=2&continue={second.json['metadata']['continue']}")
    assert names(last) == ["e"] and "continue" not in last.json["metadata"]
    selected = ask(api, "GET", f"{MAPS}?limit=1&fieldSelector=metadata.name!=a")
    assert names(selected) == ["b"] and "remainingItemCount" not in selected.json["metadata"]


def test_a_version_is_listed_exactly_or_not_older(api: Api) -> None:
    made = api.do(api.registry.create, config("a"))
    then = made["metadata"]["resourceVersion"]
    api.do(api.registry.create, config("b"))
    assert names(ask(api, "GET", f"{MAPS}?resourceVersion={then}&resourceVersionMatch=Exact")) == ["a"]
    assert names(ask(api, "GET", f"{MAPS}?resourceVersion={then}&resourceVersionMatch=NotOlderThan")) == ["a", "b"]
    assert names(ask(api, "GET", f"{MAPS}?resourceVersion=0")) == ["a", "b"]
    assert ask(api, "GET", f"{MAPS}?resourceVersion=999999").status == 504
    alone = ask(api, "GET", f"{MAPS}?resourceVersionMatch=Exact")
    assert alone.status == 422 and "forbidden unless resourceVersion is provided" in alone.json["message"]
    assert ask(api, "GET", f"{MAPS}?continue=nonsense").status == 400


def test_a_continuation_that_is_too_old_is_410_with_a_way_on(tmp_path: Any) -> None:
    server = Api(tmp_path, Registry(history=8))
    server.start()
    try:
        for name in "abc":
            server.do(server.registry.create, config(name))
        token = ask(server, "GET", MAPS + "?limit=1").json["metadata"]["continue"]
        for turn in range(20):
            server.do(server.registry.patch, "ConfigMap", "default", "a", {"data": {"turn": str(turn)}})
        old = ask(server, "GET", f"{MAPS}?limit=1&continue={token}")
        assert (old.status, old.json["reason"]) == (410, "Expired")
        assert "too old to display a consistent list result" in old.json["message"]
        on = ask(server, "GET", f"{MAPS}?continue={old.json['metadata']['continue']}")
        assert names(on) == ["b", "c"]
    finally:
        server.stop()


def test_selectors_of_every_form(api: Api) -> None:
    for name, labels in (("a", {"env": "prod"}), ("b", {"env": "test"}), ("c", {})):
        api.do(
            api.registry.create, {**config(name), "metadata": {"name": name, "namespace": "default", "labels": labels}}
        )
    for selector, expected in (
        ("env in (prod,test)", ["a", "b"]),
        ("env notin (prod)", ["b", "c"]),
        ("!env", ["c"]),
        ("env", ["a", "b"]),
        ("env!=prod", ["b", "c"]),
        ("env==test", ["b"]),
    ):
        assert names(ask(api, "GET", f"{MAPS}?labelSelector={quote(selector)}")) == expected, selector
    gone = ask(api, "DELETE", f"{MAPS}?labelSelector={quote('env in (prod)')}")
    assert names(gone) == ["a"] and names(ask(api, "GET", MAPS)) == ["b", "c"]
    dry = ask(api, "DELETE", MAPS + "?dryRun=All")
    assert names(dry) == ["b", "c"] == names(ask(api, "GET", MAPS))


def test_scale_is_read_put_and_patched(api: Api) -> None:
    api.do(api.registry.create, deployment())
    scale = ask(api, "GET", SCALES).json
    assert (scale["kind"], scale["apiVersion"]) == ("Scale", "autoscaling/v1")
    assert scale["spec"] == {"replicas": 2}
    assert scale["status"] == {"replicas": 0, "selector": "app=web,tier=x"}
    scale["spec"]["replicas"] = 4
    assert ask(api, "PUT", SCALES, scale).json["spec"]["replicas"] == 4
    stale = ask(api, "PUT", SCALES, scale)
    assert stale.status == 409 and "the object has been modified" in stale.json["message"]
    merge = "application/merge-patch+json"
    assert ask(api, "PATCH", SCALES, {"spec": {"replicas": 5}}, form=merge).json["spec"] == {"replicas": 5}
    refused = ask(api, "PATCH", SCALES, {"spec": {"replicas": -1}}, form=merge)
    assert refused.status == 422 and "must be greater than or equal to 0" in refused.json["message"]
    assert (
        ask(api, "PATCH", SCALES + "?dryRun=All", {"spec": {"replicas": 9}}, form=merge).json["spec"]["replicas"] == 9
    )
    stored = api.do(api.registry.get, "Deployment", "default", "web")
    assert stored["spec"]["replicas"] == 5 and stored["metadata"]["generation"] == 3
    assert ask(api, "GET", MAPS + "/none/scale").status == 404


def test_scale_of_a_custom_kind_lies_where_its_definition_says(api: Api) -> None:
    api.do(api.registry.create, cluster())
    api.do(api.registry.patch, "Cluster", "default", "orders", {"status": {"instances": 1}}, subresource="status")
    scale = ask(api, "GET", CLUSTERS + "/orders/scale").json
    assert (scale["spec"], scale["status"]) == ({"replicas": 1}, {"replicas": 1})
    patched = ask(
        api,
        "PATCH",
        CLUSTERS + "/orders/scale",
        [{"op": "replace", "path": "/spec/replicas", "value": 3}],
        form="application/json-patch+json",
    )
    assert patched.json["spec"]["replicas"] == 3
    assert api.do(api.registry.get, "Cluster", "default", "orders")["spec"]["instances"] == 3


def test_built_in_kinds_are_read_strictly_if_asked(api: Api) -> None:
    path = "/apis/apps/v1/namespaces/default/deployments"
    wrong = deployment()
    wrong["metadata"]["lables"] = {}
    wrong["spec"]["replcas"] = 1
    wrong["spec"]["template"]["spec"]["containers"][0]["imag"] = "x"
    said = ask(api, "POST", path + "?fieldValidation=Strict", wrong)
    assert (said.status, said.json["reason"]) == (400, "BadRequest")
    assert said.json["message"] == (
        'Deployment in version "v1" cannot be handled as a Deployment: strict decoding error: unknown field '
        '"metadata.lables", unknown field "spec.template.spec.containers[0].imag", unknown field "spec.replcas"'
    )
    warned = ask(api, "POST", path + "?dryRun=All", wrong)
    assert warned.status == 201
    assert '299 - "unknown field \\"spec.replcas\\""' in warned.headers.getall("Warning")
    assert "replcas" not in warned.json["spec"]
    ignored = ask(api, "POST", path + "?fieldValidation=Ignore", wrong)
    assert ignored.status == 201 and "Warning" not in ignored.headers


def test_a_field_that_stands_twice_is_told_or_refused(api: Api) -> None:
    twice = b'{"kind":"ConfigMap","apiVersion":"v1","metadata":{"name":"c"},"data":{"a":"1","a":"2"}}'
    said = ask(api, "POST", MAPS + "?fieldValidation=Strict", twice)
    assert said.status == 400 and said.json["message"].endswith('strict decoding error: duplicate field "data.a"')
    warned = ask(api, "POST", MAPS, twice)
    assert warned.status == 201 and warned.json["data"] == {"a": "2"}
    assert "duplicate field" in warned.headers["Warning"]


@pytest.mark.parametrize(
    ("data", "why"),
    [
        ({"a": 1}, "json: cannot unmarshal number into Go struct field ConfigMap.data of type string"),
        ([], "json: cannot unmarshal array into Go struct field ConfigMap.data of type map[string]string"),
    ],
)
def test_a_value_of_the_wrong_type_is_400_in_the_decoders_words(api: Api, data: Any, why: str) -> None:
    said = ask(api, "POST", MAPS + "?fieldValidation=Ignore", {**config("c"), "data": data})
    assert said.status == 400 and said.json["message"].endswith(why)


def test_what_is_stored_already_is_no_news(api: Api) -> None:
    """The lab may keep more in a status than a client's kind knows; a client that labels it must not lose it."""
    api.pod("p")
    api.do(api.registry.patch, "Pod", "default", "p", {"status": {"labOnly": 1}}, subresource="status")
    labelled = ask(
        api,
        "PATCH",
        "/api/v1/namespaces/default/pods/p",
        {"metadata": {"labels": {"a": "b"}}},
        form="application/merge-patch+json",
    )
    assert labelled.json["status"]["labOnly"] == 1 and "Warning" not in labelled.headers


def test_the_manager_is_named_or_known_by_its_program(api: Api) -> None:
    made = ask(api, "POST", MAPS + "?fieldManager=hand", config("c", a="1"))
    assert [entry["manager"] for entry in made.json["metadata"]["managedFields"]] == ["hand"]
    other = ask(api, "PATCH", MAPS + "/c", {"data": {"b": "1"}}, form="application/merge-patch+json")
    assert other.json["metadata"]["managedFields"][-1]["manager"] == "Python"
    forced = ask(api, "PATCH", MAPS + "/c?force=true", {}, form="application/merge-patch+json")
    assert forced.status == 422 and "may not be specified for non-apply patch" in forced.json["message"]
    unnamed = ask(api, "PATCH", MAPS + "/c", {}, form="application/apply-patch+yaml")
    assert "fieldManager: Required value" in unnamed.json["message"]


def test_every_kind_is_described_and_every_reference_leads_somewhere(api: Api) -> None:
    for path, where in ask(api, "GET", "/openapi/v3").json["paths"].items():
        document = ask(api, "GET", where["serverRelativeURL"]).json
        schemas = document["components"]["schemas"]

        def follow(part: Any, schemas: Object = schemas) -> None:
            if isinstance(part, list):
                for item in part:
                    follow(item)
            elif isinstance(part, dict):
                for key, value in part.items():
                    if key == "$ref" and isinstance(value, str):
                        assert value.rpartition("/")[2] in schemas
                    follow(value)

        follow(document)
        described = {kind["kind"] for s in schemas.values() for kind in s.get("x-kubernetes-group-version-kind", ())}
        assert described == {
            r.kind for r in api.registry.resources() if path in (f"api/{r.api_version}", f"apis/{r.api_version}")
        }, path


def test_tables_of_all_kinds(api: Api) -> None:
    accept = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json"
    api.do(api.registry.create, deployment())
    api.pod("p")
    api.do(api.registry.create, cluster())
    for resource in api.registry.resources():
        root = f"/apis/{resource.api_version}" if resource.group else "/api/v1"
        table = ask(api, "GET", f"{root}/{resource.plural}", accept=accept).json
        width = len(table["columnDefinitions"])
        assert table["kind"] == "Table" and width > 1
        assert all(len(row["cells"]) == width for row in table["rows"]), resource.kind
