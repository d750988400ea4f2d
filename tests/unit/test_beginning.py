"""``drillbook init`` without a cluster: applications by their environment, schemas, names, and the files that are written."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from drillbook import kube as k8s
from drillbook.archive.location import SourceArchive
from drillbook.cli import app as cli
from drillbook.cli import init
from drillbook.cli.init import rendering
from drillbook.cli.init.applications import ApplicationFound, Endpoint, endpoints, find
from drillbook.cli.init.choices import Choices
from drillbook.cli.init.discovery import LARGEST_TABLE_BYTES, MOST_TABLES, DatabaseFound, Found, TableFound
from drillbook.errors import ParameterError
from drillbook.kube import connection_env
from drillbook.profile import load_site

ROOT = Path(__file__).parents[2]
OWNERS = {"shop": "shop_owner", "stock": "stock_owner"}
PLACES = [Endpoint("pool-rw", "pool-rw"), Endpoint("pg-rw"), Endpoint("pg-ro")]


def table(name: str, size: int = 1000, owner: str = "shop_owner", **more: Any) -> TableFound:
    schema = name.partition(".")[0].strip('"')
    return TableFound(
        **{
            "schema": schema,
            "name": name,
            "owner": owner,
            "size_bytes": size,
            "comparable": True,
            "pending_events": False,
        }
        | more
    )


def found(
    *databases: DatabaseFound,
    spec: dict[str, Any] | None = None,
    configuration: dict[str, Any] | None = None,
    **more: Any,
) -> Found:
    cluster = {
        "metadata": {"namespace": "dbs", "name": "pg"},
        "spec": {"instances": 3, "storage": {"size": "10Gi", "storageClass": "fast"}} | (spec or {}),
        "status": {"systemID": "7300000000000000001", "currentPrimary": "pg-1"},
    }
    key = {"name": "bucket-key", "key": "ID"}
    usual = {
        "destinationPath": "s3://bucket/pg",
        "s3Credentials": {"accessKeyId": key, "secretAccessKey": {**key, "key": "SECRET"}},
    }
    archive = SourceArchive("plugin", configuration or usual, "pg", object_store="store")
    uid = "00000000-0000-4000-8000-000000000000"
    defaults: dict[str, Any] = {"copy_class": "", "entry": {"server": "https://api.example:6443"}}
    return Found(
        cluster,
        uid,
        archive,
        databases or (DatabaseFound("shop", "shop_owner", 1, (table("public.a"),)),),
        "fast",
        **(defaults | more),
    )


def defaults(of: Found, name: str = "") -> Choices:
    return init.choose(of, init.usual, name)


def written(of: Found, folder: Path) -> Path:
    out = folder / "site"
    init.write(of, defaults(of), out, root=ROOT)
    return out


# -- schemas and tables -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tables", "schemas"),
    [
        ([table("sales.orders"), table("public.notes", comparable=False)], {"public", "sales"}),
        (
            [table("sales.orders"), table("outbox.event_publication", comparable=False, pending_events=True)],
            {"outbox", "sales"},
        ),
        ([table('"Odd Schema"."T"')], {"Odd Schema"}),
        ([], set()),
    ],
    ids=["public", "pending events", "quoted", "none"],
)
def test_f12_every_schema_that_the_profile_asks_for_is_granted(tables: list[TableFound], schemas: set[str]) -> None:
    database = DatabaseFound("shop", "shop_owner", 1, tuple(tables))
    assert set(database.schemas) == schemas
    sql = rendering.tenant_sql(database, (ROOT / "deploy/sql/drillbook-tenant.sql").read_text())
    assert re.findall(r"^\\set schema '(.*)'$", sql, re.MULTILINE) == sorted(schemas)
    assert "GRANT CONNECT" in sql


def test_f12_a_schema_in_which_two_roles_make_tables_is_granted_for_both() -> None:
    database = DatabaseFound(
        "shop", "a", 1, (table("s.t", owner="a"), table("s.u", owner="it's"), table("left.out", comparable=False))
    )
    sql = rendering.tenant_sql(database, (ROOT / "deploy/sql/drillbook-tenant.sql").read_text())
    assert re.findall(r"^\\set owner (.*)$", sql, re.MULTILINE) == ["'a'", "'it''s'"]
    assert "-- Not asked for, so not granted: left." in sql


def test_the_largest_tables_below_the_limit_are_compared_and_no_more_than_eight() -> None:
    sizes = [LARGEST_TABLE_BYTES, *range(20, 0, -1)]
    database = DatabaseFound("shop", "o", 1, tuple(table(f"s.t{size}", size) for size in sizes))
    assert [one.size_bytes for one in database.digest_tables] == sizes[1 : MOST_TABLES + 1]


# -- applications -------------------------------------------------------------------------------------------------


def deployment(env: list[dict[str, Any]], home: str = "web", **container: Any) -> dict[str, Any]:
    first = {"name": "app", "env": env, "ports": [{"name": "http", "containerPort": 9000}], **container}
    return {"metadata": {"namespace": home, "name": "api"}, "spec": {"template": {"spec": {"containers": [first]}}}}


def nothing(kind: str, name: str) -> dict[str, str]:
    return {}


@pytest.mark.parametrize(
    ("text", "home", "named"),
    [
        ("jdbc:postgresql://pg-rw.dbs.svc.cluster.local:5432/shop", "web", True),
        ("postgresql://u:p@pg-rw.dbs/shop", "web", True),
        ("pg-rw.dbs.svc", "web", True),
        ("host=pg-rw dbname=shop", "dbs", True),
        ("pg-rw", "web", False),  # web's own Service of that name
        ("pg-rw.other.svc", "web", False),
        ("my-pg-rw.dbs", "web", False),
        ("pg-rw-2.dbs", "web", False),
        ("pg-rw.dbs.example.com", "web", False),
    ],
)
def test_a_service_is_named_as_the_pods_namespace_resolves_it(text: str, home: str, named: bool) -> None:
    assert connection_env.names_host(text, "pg-rw", "dbs", home) is named


@pytest.mark.parametrize(
    ("env", "lookup", "database"),
    [
        ([{"name": "URL", "value": "postgresql://x:y@pg-rw.dbs:5432/stock?sslmode=require"}], nothing, "stock"),
        ([{"name": "HOST", "value": "pg-rw.dbs"}, {"name": "NAME", "value": "stock"}], nothing, "stock"),
        ([{"name": "HOST", "value": "pg-rw.dbs"}, {"name": "LOGIN", "value": "stock_owner"}], nothing, "stock"),
        ([{"name": "DSN", "value": "host=pg-rw.dbs dbname=stock user=x"}], nothing, "stock"),
        (
            [{"name": "URL", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}}],
            lambda kind, name: {"k": "postgresql://x:y@pg-rw.dbs/stock"},
            "stock",
        ),
        ([{"name": "HOST", "value": "pg-rw.dbs"}], nothing, ""),
    ],
    ids=["url", "name", "login", "libpq", "secret", "unknown"],
)
def test_an_application_is_found_by_its_address_and_its_database_by_what_says_it(
    env: list[dict[str, Any]], lookup: connection_env.Lookup, database: str
) -> None:
    app = find(deployment(env), PLACES, "dbs", OWNERS, lookup)
    assert app is not None and (app.database, app.variables[0], app.service) == (database, env[0]["name"], "pg-rw")


def test_an_application_by_envfrom_and_a_pooler_with_its_probe() -> None:
    item = deployment(
        [],
        envFrom=[{"configMapRef": {"name": "c"}, "prefix": "DB_"}],
        readinessProbe={"httpGet": {"path": "/ready", "port": "http"}},
    )
    app = find(
        item, PLACES, "dbs", {"shop": "o"}, lambda kind, name: {"HOST": "pool-rw.dbs"} if kind == "ConfigMap" else {}
    )
    assert app == ApplicationFound("web", "api", ("DB_HOST",), "pool-rw", "shop", "pool-rw", 9000, "/ready")


def test_a_deployment_of_another_cluster_is_none_of_ours() -> None:
    assert (
        find(deployment([{"name": "URL", "value": "postgresql://pg-rw.other/shop"}]), PLACES, "dbs", OWNERS, nothing)
        is None
    )


def test_a_clusters_services_are_its_own_its_additional_ones_and_its_poolers() -> None:
    additional = {
        "managed": {
            "services": {"additional": [{"selectorType": "rw", "serviceTemplate": {"metadata": {"name": "pg-lb"}}}]}
        }
    }
    poolers = [
        {"metadata": {"name": name}, "spec": {"cluster": {"name": of}}}
        for name, of in (("mine", "pg"), ("theirs", "x"))
    ]
    names = [one.service for one in endpoints({"metadata": {"name": "pg"}, "spec": additional}, poolers)]
    assert names == ["mine", "pg-rw", "pg-lb", "pg-ro", "pg-r"]


# -- what is written ----------------------------------------------------------------------------------------------


def test_the_profile_loads_and_says_what_was_found(tmp_path: Path) -> None:
    app = ApplicationFound("web", "api", ("URL", "OTHER_URL"), "pg-rw", "shop", "", 9000, "/ready")
    events = table("public.event_publication", 5, pending_events=True)
    shop = DatabaseFound("shop", "shop_owner", 5000, (table('sales."Odd T"', 90), events), "pg-app", (app,))
    odd = DatabaseFound("Odd: base", "o", 1, ())
    out = written(
        found(shop, odd, copy_class="deleting", archive_timeout_seconds=1200, notes=("nothing else",)), tmp_path
    )
    site = load_site(str(out / "site.yaml"))
    assert (site.name, site.identity.pinned, site.copy_.storage_class) == ("pg", True, "deleting")
    assert site.freshness.archive_lag.total_seconds() == 2400
    first, second = site.tenants
    assert first.digest_tables == ('sales."Odd T"', "public.event_publication")
    assert first.application is not None and first.application.address_variable == "URL"
    assert first.pending_events == "select count(*) from public.event_publication where completion_date is null"
    assert (second.database, second.app_login, second.digest_tables) == ("Odd: base", None, ())
    assert site.kubernetes.kubeconfig == str(out / "kubeconfig.yaml")
    comments = (out / "site.yaml").read_text()
    assert "CHECK nothing else" in comments and "OTHER_URL" in comments and "UNPROVEN" in comments


@pytest.mark.parametrize(
    ("configuration", "reader", "identity"),
    [
        ({"destinationPath": "s3://b/p", "s3Credentials": {"inheritFromIAMRole": True}}, None, {"role": "arn"}),
        (
            {
                "destinationPath": "s3://b/p",
                "s3Credentials": {
                    "accessKeyId": {"name": "s", "key": "a"},
                    "secretAccessKey": {"name": "s", "key": "b"},
                    "region": {"name": "s", "key": "r"},
                },
            },
            "AWS_REGION",
            None,
        ),
    ],
    ids=["by role", "by key and region"],
)
def test_the_archive_is_read_in_the_way_the_cluster_writes_it(
    configuration: dict[str, Any], reader: str | None, identity: dict[str, str] | None, tmp_path: Path
) -> None:
    spec = {"serviceAccountTemplate": {"metadata": {"annotations": {"role": "arn"}}}}
    archive = load_site(str(written(found(spec=spec, configuration=configuration), tmp_path) / "site.yaml")).archive
    assert (archive.reader_secret.region if archive.reader_secret else None) == reader
    assert (archive.identity.annotations if archive.identity else None) == identity
    assert ("AWS_REGION" in (tmp_path / "site" / "APPLY.md").read_text()) is (reader is not None)


def test_every_file_to_apply_is_listed_once_in_order_with_what_it_grants(tmp_path: Path) -> None:
    out = written(found(DatabaseFound("shop", "o", 1, (table("s.t"),), "pg-app")), tmp_path)
    page = (out / "APPLY.md").read_text()
    files = sorted(path.name for path in out.iterdir() if path.name[0].isdigit())
    assert re.findall(rf"{re.escape(str(out))}/([0-9]\S+)", page) == files
    steps = re.split(r"^## \d+\. ", page.partition("## Then")[0], flags=re.MULTILINE)[1:]
    assert all("Grants:\n\n- " in step and step.count("```sh") == 1 for step in steps)
    assert "in `dbs`: get, list, watch on clusters, backups, scheduledbackups" in page
    assert "create token drillbook" in page
    for line in re.findall(r"^.*create secret.*$", page, re.MULTILINE):
        assert "--from-literal=password" not in line


def test_f15_the_rights_are_of_this_site_alone_and_of_each_applications_namespace(tmp_path: Path) -> None:
    apps = [
        ApplicationFound(home, "api", ("URL",), "pg-rw", name) for home, name in (("web", "shop"), ("depot", "stock"))
    ]
    databases = [DatabaseFound(app.database, "o", 1, (), "", (app,)) for app in apps]
    out = written(found(*databases), tmp_path)
    rights = [item for item in yaml.safe_load_all((out / "20-rights.yaml").read_text()) if item]
    assert all(item["metadata"]["name"].endswith("-pg") for item in rights if item["kind"] != "ServiceAccount")
    assert "drillbook-backups-pg" not in [item["metadata"]["name"] for item in rights]
    recover = [item for item in yaml.safe_load_all((out / "optional/recover.yaml").read_text()) if item]
    assert {item["metadata"]["namespace"] for item in recover} == {"dbs", "web", "depot"}


@pytest.mark.parametrize(
    ("spec", "path"),
    [
        ({}, "/spec/managed"),
        ({"managed": {"services": {}}}, "/spec/managed/roles"),
        ({"managed": {"roles": [{"name": "other"}]}}, "/spec/managed/roles/-"),
        ({"managed": {"roles": [{"name": "drillbook", "passwordSecret": {"name": "theirs"}}]}}, None),
    ],
    ids=["nothing managed", "no roles", "other roles", "has it"],
)
def test_the_role_is_added_to_the_clusters_and_takes_none_away(
    spec: dict[str, Any], path: str | None, tmp_path: Path
) -> None:
    out = written(found(spec=spec), tmp_path)
    patch = out / "80-managed-role.json"
    assert patch.is_file() is (path is not None)
    if path is None:
        assert "get secret theirs" in (out / "APPLY.md").read_text()
    else:
        assert [(item["op"], item["path"]) for item in json.loads(patch.read_text())] == [("add", path)]


def test_a_folder_that_is_there_is_not_overwritten_and_bad_answers_write_nothing(tmp_path: Path) -> None:
    out = written(found(), tmp_path)
    before = (out / "site.yaml").read_text()
    with pytest.raises(ParameterError, match="is there already"):
        written(found(), tmp_path)
    assert (out / "site.yaml").read_text() == before
    with pytest.raises(ParameterError) as refused:
        init.choose(found(), lambda question, usual, _: "soon" if "promised" in question else usual, "Not A Name")
    assert len(refused.value.faults) == 7, "the name and what is named after it, and three durations"
    same = init.choose(found(), lambda question, usual, _: "dbs" if "for copies, of" in question else usual)
    with pytest.raises(ParameterError, match="a copy needs one of its own"):
        init.write(found(), same, tmp_path / "other", root=ROOT)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["site"]


def test_a_checkout_without_deploy_is_said(tmp_path: Path) -> None:
    with pytest.raises(ParameterError, match="deploy/rbac/"):
        init.write(found(), defaults(found()), tmp_path / "out", root=tmp_path)


def test_clusters_of_one_name_and_databases_of_like_names_are_told_apart() -> None:
    assert defaults(found(same_name=True)).name == "dbs-pg"
    choices = defaults(found())
    assert len({choices.login_secret(name) for name in ("a-b", "a_b", "A b", "ä")}) == 4
    assert all(re.fullmatch(r"[a-z0-9-]+", choices.login_secret(name)) for name in ("a_b", "ä", "Ω"))


def test_f15_the_kubeconfig_that_is_written_has_the_way_to_the_server_and_nobodys_credentials(tmp_path: Path) -> None:
    cluster = {
        "server": "http://api.example:8001",
        "proxy-url": "http://me:hidden@proxy.example:3128",
        "tls-server-name": "api",
    }
    mine = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "c",
        "clusters": [{"name": "c", "cluster": cluster}],
        "users": [{"name": "u", "user": {"token": "hidden"}}],
        "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
    }
    path = tmp_path / "mine"
    path.write_text(yaml.safe_dump(mine))
    with k8s.Kube.open(str(path)) as kube:
        entry = kube.cluster_entry
    assert entry == {"server": cluster["server"], "proxy-url": "http://proxy.example:3128", "tls-server-name": "api"}
    text = (written(found(entry=entry), tmp_path) / "kubeconfig.yaml").read_text()
    assert "hidden" not in text
    (tmp_path / "site" / "token").write_text("of-the-account")
    with k8s.Kube.open(str(tmp_path / "site" / "kubeconfig.yaml"), "drillbook-pg") as kube:
        assert kube.cluster_entry == entry


def test_without_a_terminal_the_defaults_have_to_be_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.status(["init"]) == 4
    assert "--yes" in capsys.readouterr().err
