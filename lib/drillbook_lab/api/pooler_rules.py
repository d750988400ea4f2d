"""What CloudNativePG's webhook says about a Pooler: its name, its parameters' names, who asks for passwords."""

from __future__ import annotations

from drillbook_lab.api.errors import Fault, Object

# Names only: a value that PgBouncer doesn't understand is found out by PgBouncer.
PARAMETERS = frozenset(
    (
        "application_name_add_host",
        "auth_type",
        "autodb_idle_timeout",
        "cancel_wait_timeout",
        "client_idle_timeout",
        "client_login_timeout",
        "client_tls_sslmode",
        "default_pool_size",
        "disable_pqexec",
        "dns_max_ttl",
        "dns_nxdomain_ttl",
        "idle_transaction_timeout",
        "ignore_startup_parameters",
        "listen_backlog",
        "log_connections",
        "log_disconnections",
        "log_pooler_errors",
        "log_stats",
        "max_client_conn",
        "max_db_connections",
        "max_packet_size",
        "max_prepared_statements",
        "max_user_connections",
        "min_pool_size",
        "pkt_buf",
        "query_timeout",
        "query_wait_timeout",
        "reserve_pool_size",
        "reserve_pool_timeout",
        "sbuf_loopcnt",
        "server_check_delay",
        "server_check_query",
        "server_connect_timeout",
        "server_fast_close",
        "server_idle_timeout",
        "server_lifetime",
        "server_login_retry",
        "server_reset_query",
        "server_reset_query_always",
        "server_round_robin",
        "server_tls_ciphers",
        "server_tls_protocols",
        "server_tls_sslmode",
        "stats_period",
        "suspend_timeout",
        "tcp_defer_accept",
        "tcp_keepalive",
        "tcp_keepcnt",
        "tcp_keepidle",
        "tcp_keepintvl",
        "tcp_socket_buffer",
        "tcp_user_timeout",
        "track_extra_parameters",
        "verbose",
    )
)


def pooler_faults(new: Object, old: Object | None) -> list[Fault]:
    """Everything that the webhook refuses."""
    pgbouncer = new["spec"].get("pgbouncer") or {}
    secret, query = (pgbouncer.get("authQuerySecret") or {}).get("name"), pgbouncer.get("authQuery")
    found = []
    if secret and not query:
        why = 'Invalid value: "": must specify an auth query when providing an auth query secret'
        found.append(Fault("spec.pgbouncer.authQuery", why))
    if query and not secret:
        why = 'Invalid value: "": must specify an existing auth query secret when providing an auth query secret'
        found.append(Fault("spec.pgbouncer.authQuerySecret.name", why))
    found += [
        Fault("spec.cluster.parameters", f'Invalid value: "{name}": Invalid or reserved parameter')
        for name in sorted(set(pgbouncer.get("parameters") or ()) - PARAMETERS)
    ]
    name, cluster = new["metadata"]["name"], new["spec"]["cluster"]["name"]
    if not cluster:
        found.append(Fault("spec.cluster.name", 'Invalid value: "": must specify a cluster name'))
    if name == cluster:
        why = f'Invalid value: "{name}": the pooler resource cannot have the same name of a cluster'
        found.append(Fault("metadata.name", why))
    return found


def pooler_warnings(obj: Object) -> list[str]:
    """Who brings an auth query of one's own, prepares the Cluster for it oneself."""
    if not ((obj["spec"].get("pgbouncer") or {}).get("authQuerySecret") or {}).get("name"):
        return []
    meta, cluster = obj["metadata"], obj["spec"]["cluster"]["name"]
    return [
        f'The operator won\'t handle the Pooler "{meta["name"]}" integration with the Cluster "{cluster}" '
        f'("{meta.get("namespace", "")}"). Manually configure it as described in the docs.',
        "The .spec.pgbouncer.authQuerySecret field has been deprecated",
    ]
