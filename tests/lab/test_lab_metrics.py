"""Metrics and events: what an observer reads of an instance without a session on it."""

from __future__ import annotations

from fix_clusters import SmallCluster, kubectl, scraped
from fix_lab import CORE, RunningLab, until

RAW = "/api/v1/namespaces/{}/pods/{}:9187/proxy/metrics"


def test_the_numbers_are_the_servers_own(small: SmallCluster) -> None:
    metrics = small.metrics()
    ((started,),) = small.app("SELECT extract(epoch FROM pg_postmaster_start_time())::float8")
    assert metrics["cnpg_pg_postmaster_start_time"] == started
    assert metrics["cnpg_pg_replication_in_recovery"] == metrics["cnpg_pg_replication_lag"] == 0
    assert metrics["cnpg_collector_fencing_on"] == metrics["cnpg_collector_replica_mode"] == 0
    assert metrics['cnpg_collector_up{cluster="small"}'] == 1
    assert metrics["cnpg_collector_last_collection_error"] == 0
    assert metrics['cnpg_collector_pg_wal{value="count"}'] >= 1
    assert metrics["cnpg_pg_stat_archiver_failed_count"] == 0
    assert metrics["cnpg_pg_stat_archiver_seconds_since_last_failure"] == -1
    version = [value for name, value in metrics.items() if name.startswith("cnpg_collector_postgres_version")]
    ((full,),) = small.app("SHOW server_version")
    assert version == [float(full.split()[0])]


def test_an_instance_has_metrics_before_its_server_answers(small: SmallCluster) -> None:
    before = small.pod()
    assert before is not None
    small.lab.delete(f"{CORE}/{small.namespace}/pods/small-1")

    def runs_again() -> bool:
        pod = small.pod() or before
        statuses = (pod.get("status") or {}).get("containerStatuses") or [{}]
        return pod["metadata"]["uid"] != before["metadata"]["uid"] and bool(statuses[0].get("started"))

    until(runs_again)
    assert small.metrics()["cnpg_collector_fencing_on"] == 0  # at once: nothing is waited for here
    until(lambda: small.is_healthy() and small.answers())
    assert small.metrics()['cnpg_collector_up{cluster="small"}'] == 1


def test_the_archive_and_the_backups_show_through_the_proxy(lab: RunningLab) -> None:
    namespace, pod = lab.state["namespace"], f"{lab.state['cluster']}-1"
    metrics = scraped(kubectl(lab, "get", "--raw", RAW.format(namespace, pod)).stdout)
    assert metrics["cnpg_pg_stat_archiver_archived_count"] > 0
    assert metrics['cnpg_collector_pg_wal_archive_status{value="done"}'] > 0
    assert metrics["cnpg_pg_stat_archiver_last_archived_wal_start_lsn"] > 0
    available = metrics["barman_cloud_cloudnative_pg_io_last_available_backup_timestamp"]
    assert 0 < metrics["barman_cloud_cloudnative_pg_io_first_recoverability_point"] <= available
    assert metrics["cnpg_collector_last_available_backup_timestamp"] == 0  # the plugin never sets these
    refused = kubectl(lab, "get", "--raw", RAW.format(namespace, pod).replace("9187", "9999"), check=False)
    assert "connection refused" in refused.stderr
    assert lab.as_("lab").call("GET", RAW.format(namespace, pod))[0] == 403  # its own right


def test_events_are_counted_and_not_repeated(small: SmallCluster) -> None:
    lab = small.lab
    for name in ("first", "second"):
        body = {
            "apiVersion": "postgresql.cnpg.io/v1",
            "kind": "Backup",
            "metadata": {"name": name},
            "spec": {
                "cluster": {"name": "not-there"},
                "method": "plugin",
                "pluginConfiguration": {"name": "barman-cloud.cloudnative-pg.io"},
            },
        }
        lab.create(f"/apis/postgresql.cnpg.io/v1/namespaces/{small.namespace}/backups", body)
        until(lambda name=name: small.events("Backup", name))  # type: ignore[misc]
    (event,) = small.events("Backup", "first")
    assert (event["reason"], event["count"]) == ("FindingCluster", 1)
    (made,) = [e for e in small.events("Cluster", "small") if e["reason"] == "CreatingInstance"]
    assert made["involvedObject"]["uid"] == small.object["metadata"]["uid"]
    # The same thing said again about the same object: the pod was recreated, the service's name stays.
    names = [
        (e["involvedObject"]["uid"], e["reason"], e["message"])
        for e in lab.get(f"{CORE}/{small.namespace}/events")["items"]
    ]
    assert len(names) == len(set(names))
    for name in ("first", "second"):
        lab.delete(f"/apis/postgresql.cnpg.io/v1/namespaces/{small.namespace}/backups/{name}")
