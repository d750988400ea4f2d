"""A site's profile: where it is found, how profiles extend each other, and that every fault is reported together."""

from __future__ import annotations

import os
from datetime import timedelta
from pathlib import Path

import pytest

from drillbook.errors import ParameterError
from drillbook.model import parse_instant
from drillbook.profile import Site, load_site

SITES = Path(__file__).parents[2] / "sites"

MINIMAL = """\
name: shop
environment: test
cluster: {namespace: databases, name: shop-db}
tenants:
  - database: shop
    app_role: shop_app
"""


@pytest.fixture
def profile(tmp_path: Path):
    """Writes a profile and returns its path; ``base=True`` for a second file to extend."""

    def write(text: str, name: str = "shop.yaml") -> Path:
        path = tmp_path / "sites" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")
        return path

    return write


def faults_of(path: Path) -> list[str]:
    with pytest.raises(ParameterError) as caught:
        load_site(path)
    assert caught.value.exit_code == 4
    assert caught.value.changed == "nothing"
    return [fault.replace(f"{path.parent}/", "") for fault in caught.value.faults]


# -- what a profile says ------------------------------------------------------------------------------------------


def test_defaults_are_those_of_a_careful_site(profile) -> None:
    site = load_site(profile(MINIMAL))
    assert site.drillbook_namespace == "drillbook"
    assert site.drill_namespace == "drillbook-drills"
    assert site.objectives.recovery_time == timedelta(hours=1)
    assert site.objectives.point_in_time_recovery == timedelta(minutes=45)
    assert site.objectives.enforce is False
    assert site.freshness.backup_age == timedelta(hours=24)
    assert site.limits.copy_expires == timedelta(hours=6)
    assert site.checks.amcheck is True
    assert not site.identity.pinned
    assert str(site.source) == "databases/shop-db"
    assert site.tenant("shop").app_role == "shop_app"


@pytest.mark.parametrize("name", sorted(path.stem for path in SITES.glob("*.yaml")))
def test_every_profile_that_we_ship_is_valid(name: str) -> None:
    site = load_site(name, start=SITES.parent)
    assert site.name == name
    assert site.caveats, "a report prints what its figures can't show"
    assert any(tenant.digest_tables and tenant.questions for tenant in site.tenants)


def test_the_lab_is_the_first_site_and_differs_in_what_a_machine_can_hold_only() -> None:
    lab = load_site("lab", start=SITES.parent)
    first = load_site("synergyflow", start=SITES.parent)
    assert (lab.cluster, lab.tenants, lab.sql, lab.archive) == (first.cluster, first.tenants, first.sql, first.archive)
    assert lab.environment == "lab"
    assert first.environment == "production"


def test_the_second_site_shares_no_name_with_the_first() -> None:
    first, second = load_site("lab", start=SITES.parent), load_site("lab-second", start=SITES.parent)

    def names(site: Site) -> set[str]:
        secrets = [site.sql.secret, *(tenant.app_login for tenant in site.tenants if tenant.app_login)]
        namespaces = {site.cluster.namespace, site.drill_namespace, site.drillbook_namespace}
        databases = {name for tenant in site.tenants for name in (tenant.database, tenant.app_role)}
        reader = site.archive.reader_secret
        return (
            namespaces | databases | {site.name, site.cluster.name, reader.name} | {secret.name for secret in secrets}
        )

    assert not names(first) & names(second)
    assert len(second.tenants) == 1


def test_a_system_identifier_without_quotes_keeps_every_digit(profile) -> None:
    site = load_site(profile(MINIMAL + "identity: {system_identifier: 7711241788681356920}\n"))
    assert site.identity.system_identifier == "7711241788681356920"


PERIODS = """archive:
  server_names:
    - {name: orders-v2, since: 2026-03-01T00:00:00Z}
    - {name: orders, until: 2026-02-28T22:00:00+00:00}
"""


def test_the_names_of_a_history_have_periods_oldest_first(profile) -> None:
    older, newer = load_site(profile(MINIMAL + PERIODS)).archive.server_names
    assert (older.name, newer.name) == ("orders", "orders-v2")
    cut = parse_instant("2026-02-28T22:00:00Z")
    assert older.holds(cut - timedelta(microseconds=1)) and not older.holds(cut) and not newer.holds(cut)
    assert newer.holds(parse_instant("2026-03-01T00:00:00Z"))
    closed = load_site(profile(MINIMAL + PERIODS.replace(", until: 2026-02-28T22:00:00+00:00", "")))
    assert closed.archive.server_names[0].until == closed.archive.server_names[1].since


def test_every_fault_of_the_names_is_told(profile) -> None:
    (told,) = faults_of(
        profile(
            MINIMAL
            + """archive:
  server_names:
    - {name: a, since: 2026-01-01T00:00:00Z, until: 2026-04-01T00:00:00Z}
    - {name: a, since: 2026-03-01T00:00:00Z, until: 2026-02-01T00:00:00Z}
    - {name: c}
    - {name: d}
"""
        )
    )
    for fault in ("a is given twice", "ends before it begins", "d has no since", "overlap", "has an until"):
        assert fault in told
    assert (
        "server_name or server_names, not both" in faults_of(profile(MINIMAL + PERIODS + "  server_name: orders\n"))[0]
    )
    assert "not an instant" in faults_of(profile(MINIMAL + PERIODS.replace("2026-03-01T00:00:00Z", "spring")))[0]


def test_no_reader_secret_is_the_default_chain(profile) -> None:
    assert load_site(profile(MINIMAL + "archive: {reader_secret: null}\n")).archive.reader_secret is None


def test_a_relative_kubeconfig_lies_beside_the_profile(profile) -> None:
    path = profile(MINIMAL + "kubernetes: {kubeconfig: kubeconfig}\n")
    assert load_site(path).kubernetes.kubeconfig == str(path.parent / "kubeconfig")


# -- where it is found --------------------------------------------------------------------------------------------


def test_a_name_is_looked_up_from_the_folder_upwards(profile, tmp_path: Path) -> None:
    profile(MINIMAL)
    below = tmp_path / "a" / "b"
    below.mkdir(parents=True)
    assert load_site("shop", start=below).name == "shop"


def test_the_environment_names_the_site_and_an_argument_wins(profile, tmp_path: Path) -> None:
    profile(MINIMAL)
    profile(MINIMAL.replace("name: shop\n", "name: lab\n"), "lab.yaml")
    named = {"DRILLBOOK_SITE": "shop"}
    assert load_site("", environ=named, start=tmp_path).name == "shop"
    assert load_site("lab", environ=named, start=tmp_path).name == "lab"
    assert load_site("", environ={}, start=tmp_path).name == "lab"


def test_an_unknown_name_is_refused_with_those_that_are_there(profile, tmp_path: Path) -> None:
    profile(MINIMAL)
    with pytest.raises(ParameterError, match=r"no sites/shpo\.yaml .*profiles here: shop"):
        load_site("shpo", start=tmp_path)


def test_a_path_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ParameterError, match="there is no file"):
        load_site(tmp_path / "none.yaml")


def test_a_path_that_can_not_even_be_looked_at_is_refused_by_its_cause(tmp_path: Path) -> None:
    with pytest.raises(ParameterError, match=r"can't be read \(File name too long\)"):
        load_site(tmp_path / f"{'n' * 300}.yaml")


# -- extends ------------------------------------------------------------------------------------------------------


def test_extends_merges_mappings_and_replaces_lists(profile) -> None:
    profile(MINIMAL + "objectives: {recovery_time: 30m, recovery_point: 5m}\ncontrols: [A, B]\n", "base.yaml")
    site = load_site(profile("extends: base.yaml\nname: over\nobjectives: {recovery_time: 10m}\ncontrols: [C]\n"))
    assert site.name == "over"
    assert site.objectives.recovery_time == timedelta(minutes=10)
    assert site.objectives.recovery_point == timedelta(minutes=5)
    assert site.controls == ("C",)


def test_a_fault_is_told_at_the_file_that_wrote_it(profile) -> None:
    profile(MINIMAL + "limits: {step: 5}\n", "base.yaml")
    faults = faults_of(profile("extends: base.yaml\nchecks: {amcheck: 1}\n"))
    assert faults[0].startswith("base.yaml:7 limits.step: 5 is not a duration")
    assert faults[1].startswith("shop.yaml:2 checks.amcheck: ")


def test_a_list_that_is_replaced_is_not_told_at_the_base_any_more(profile) -> None:
    profile(MINIMAL, "base.yaml")
    faults = faults_of(profile("extends: base.yaml\n\n\ntenants:\n  - {database: shop}\n"))
    assert faults == ["shop.yaml:5 tenants[0].app_role: is missing"]


def test_a_circle_is_a_fault(profile) -> None:
    profile("extends: shop.yaml\n", "base.yaml")
    assert any(
        "goes round in a circle (shop.yaml → base.yaml → shop.yaml)" in fault
        for fault in faults_of(profile("extends: base.yaml\n"))
    )


def test_a_missing_base_is_a_fault(profile) -> None:
    assert "shop.yaml:1 extends: there is no file nowhere.yaml" in faults_of(profile("extends: nowhere.yaml\n"))


# -- faults -------------------------------------------------------------------------------------------------------


def test_three_mistakes_are_all_told_at_once(profile) -> None:
    text = MINIMAL.replace("environment", "enviroment") + "drill_namespace: databases\nlimits: {recovery: 3h}\n"
    faults = faults_of(profile(text))
    assert "shop.yaml:2 enviroment: unknown key (did you mean environment?)" in faults
    assert "shop.yaml:7 drill_namespace: 'databases' is the source's namespace: a copy needs one of its own" in faults
    assert "shop.yaml:8 limits: recovery (3h) is longer than total (2h)" in faults
    assert any(fault.endswith("environment: is missing") for fault in faults)
    assert len(faults) == 4


def test_the_error_reads_as_an_operator_needs_it(profile) -> None:
    with pytest.raises(ParameterError) as caught:
        load_site(profile(MINIMAL + "limit: {}\nfreshnes: {}\n"))
    lines = "\n".join(caught.value.lines())
    assert "2 faults" in lines
    assert "did you mean limits?" in lines
    assert "did you mean freshness?" in lines
    assert "Changed so far: nothing" in lines


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("checks: {boundary: false}", "checks.boundary: unknown key"),
        ("objectives: {recovery_time: 45}", "45 is not a duration (write for example 90s, 45m, 1h30m or 2d)"),
        ("objectives: {recovery_time: 0s}", "0s is not a duration above zero"),
        ("objectives: {enforce: 'yes'}", "objectives.enforce: input should be a valid boolean, found 'yes'"),
        ("copy: {storage_size: 10GB}", "copy.storage_size: '10GB' is not a size"),
        ("copy: {storage_clas: x}", "copy.storage_clas: unknown key (did you mean storage_class?)"),
        ("drill_namespace: drillbook", "'drillbook' is Drillbook's own namespace"),
        ("limits: {copy_expires: 1h}", "copy_expires (1h) is shorter than total (2h)"),
        ("archive: {endpoint_url: s3.example.com}", "'s3.example.com' is not an http:// or https:// address"),
        ("identity: {system_identifier: abc}", "'abc' is not a system identifier"),
        ("kubernetes:", "kubernetes: input should be a valid dictionary or instance of Kubernetes, found None"),
        ("name: again", "shop.yaml:7 name: is given twice"),
        ("controls: [SOC 2", "is not YAML"),
        ("? [a]\n: b", "a key must be plain text"),
        ("controls: &c [*c]", "contains itself"),
    ],
)
def test_a_fault_names_its_key_and_what_is_expected(profile, text: str, told: str) -> None:
    assert any(told in fault for fault in faults_of(profile(f"{MINIMAL}{text}\n")))


@pytest.mark.parametrize(
    ("tenant", "told"),
    [
        ("digest_tables: [orders]", "tenants[0].digest_tables[0]: 'orders' is not a table as schema.table"),
        ("digest_tables: [s.t, s.t]", "tenants[0].digest_tables: table given twice: s.t"),
        ("questions: [{name: a, sql: delete from s.t, expect: {equals: 0}}]", "sql: begins with 'delete'"),
        ("questions: [{name: a, sql: select 1, expect: {}}]", "give exactly one of equals, at_least, at_most"),
        ("questions: [{name: a, sql: select 1, expect: {equals: 1, at_most: 2}}]", "give exactly one of"),
        ("questions: [{name: a, sql: select 1, expect: {at_least: many}}]", "expect.at_least: 'many' is not a number"),
        ("app_login: {namespace: Apps, name: login}", "app_login.namespace: 'Apps' is not a namespace"),
        ("app_login: {namespce: apps, name: login}", "app_login.namespce: unknown key (did you mean namespace?)"),
    ],
)
def test_a_fault_in_a_tenant_names_the_item(profile, tenant: str, told: str) -> None:
    assert any(told in fault for fault in faults_of(profile(f"{MINIMAL}    {tenant}\n")))


@pytest.mark.parametrize(("text", "told"), [("", "is not a mapping"), ("- a", "is not a mapping"), ("{}", "is empty")])
def test_a_file_without_a_profile_is_refused(profile, text: str, told: str) -> None:
    assert any(told in fault for fault in faults_of(profile(text)))


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads every file")
def test_a_file_that_cannot_be_read_is_refused(profile) -> None:
    path = profile(MINIMAL)
    path.chmod(0)
    assert any("can't be read" in fault for fault in faults_of(path))


# -- digest -------------------------------------------------------------------------------------------------------


def test_the_digest_is_of_what_the_profile_says_not_of_how_it_is_written(profile) -> None:
    plain = load_site(profile(MINIMAL)).digest
    said = MINIMAL + "# a remark\nobjectives: {recovery_time: 60m}\n"
    assert load_site(profile(said, "other.yaml")).digest == plain
    changed = MINIMAL + "objectives: {recovery_time: 61m}\n"
    assert load_site(profile(changed, "third.yaml")).digest != plain


def test_the_digest_does_not_know_where_the_kubeconfig_lies(profile) -> None:
    plain = load_site(profile(MINIMAL)).digest
    assert load_site(profile(MINIMAL + "kubernetes: {kubeconfig: ~/.kube/other}\n", "o.yaml")).digest == plain
