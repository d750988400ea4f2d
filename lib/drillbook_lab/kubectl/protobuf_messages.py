"""The protobuf messages that kubectl sends, field by field: what stands here is read, what doesn't is refused."""

from __future__ import annotations

from typing import Any

# Field number → (name, form). A form ending in "[]" repeats; one with "?" is left out when it is zero; a dict is a
# message of its own, without a name an embedded one; None is a field that the server sets itself and so may drop.
Message = dict[int, tuple[str, Any]]
_META: Message = {
    1: ("name", "string"),
    2: ("generateName", "string"),
    3: ("namespace", "string"),
    4: ("selfLink", None),
    5: ("uid", None),
    6: ("resourceVersion", "string"),
    7: ("generation", None),
    8: ("creationTimestamp", None),
    11: ("labels", "map"),
    12: ("annotations", "map"),
    13: (
        "ownerReferences",
        [
            {
                1: ("kind", "string"),
                3: ("name", "string"),
                4: ("uid", "string"),
                5: ("apiVersion", "string"),
                6: ("controller", "bool?"),
                7: ("blockOwnerDeletion", "bool?"),
            }
        ],
    ),
    14: ("finalizers", "string[]"),
    17: ("managedFields", None),
}
_RULE: Message = {
    1: ("verbs", "string[]"),
    2: ("apiGroups", "string[]"),
    3: ("resources", "string[]"),
    4: ("resourceNames", "string[]"),
    5: ("nonResourceURLs", "string[]"),
}
_SUBJECT: Message = {
    1: ("kind", "string"),
    2: ("apiGroup", "string"),
    3: ("name", "string"),
    4: ("namespace", "string"),
}
_ROLE_REF: Message = {1: ("apiGroup", "string"), 2: ("kind", "string"), 3: ("name", "string")}
_ATTRIBUTES: Message = {
    1: ("namespace", "string"),
    2: ("verb", "string"),
    3: ("group", "string"),
    4: ("version", "string"),
    5: ("resource", "string"),
    6: ("subresource", "string"),
    7: ("name", "string"),
}
_BOUND: Message = {1: ("kind", "string"), 2: ("apiVersion", "string"), 3: ("name", "string"), 4: ("uid", "string")}
_SELECTOR: Message = {
    1: ("matchLabels", "map"),
    2: ("matchExpressions", [{1: ("key", "string"), 2: ("operator", "string"), 3: ("values", "string[]")}]),
}
_ENV_VAR: Message = {1: ("name", "string"), 2: ("value", "string")}
_CONTAINER_PORT: Message = {
    1: ("name", "string"),
    2: ("hostPort", "int?"),
    3: ("containerPort", "int"),
    4: ("protocol", "string"),
    5: ("hostIP", "string"),
}
_SECCOMP: Message = {1: ("type", "string"), 2: ("localhostProfile", "string")}
_CONTAINER_SECURITY: Message = {
    1: ("capabilities", {1: ("add", "string[]"), 2: ("drop", "string[]")}),
    2: ("privileged", "bool"),
    4: ("runAsUser", "int"),
    5: ("runAsNonRoot", "bool"),
    6: ("readOnlyRootFilesystem", "bool"),
    7: ("allowPrivilegeEscalation", "bool"),
    8: ("runAsGroup", "int"),
    11: ("seccompProfile", _SECCOMP),
}
_POD_SECURITY: Message = {
    2: ("runAsUser", "int"),
    3: ("runAsNonRoot", "bool"),
    5: ("fsGroup", "int"),
    6: ("runAsGroup", "int"),
    10: ("seccompProfile", _SECCOMP),
}
_NAMED: Message = {1: ("name", "string")}
_VOLUME: Message = {
    1: ("name", "string"),
    2: (
        "",
        {
            2: ("emptyDir", {1: ("medium", "string"), 2: ("sizeLimit", "quantity")}),
            6: ("secret", {1: ("secretName", "string"), 3: ("defaultMode", "int"), 4: ("optional", "bool")}),
            10: ("persistentVolumeClaim", {1: ("claimName", "string"), 2: ("readOnly", "bool?")}),
            19: ("configMap", {1: ("", _NAMED), 3: ("defaultMode", "int"), 4: ("optional", "bool")}),
        },
    ),
}
_VOLUME_MOUNT: Message = {
    1: ("name", "string"),
    2: ("readOnly", "bool?"),
    3: ("mountPath", "string"),
    4: ("subPath", "string"),
    6: ("subPathExpr", "string"),
}
_CONTAINER: Message = {
    1: ("name", "string"),
    2: ("image", "string"),
    3: ("command", "string[]"),
    4: ("args", "string[]"),
    5: ("workingDir", "string"),
    6: ("ports", [_CONTAINER_PORT]),
    7: ("env", [_ENV_VAR]),
    8: ("resources", {1: ("limits", "quantities"), 2: ("requests", "quantities")}),
    9: ("volumeMounts", [_VOLUME_MOUNT]),
    13: ("terminationMessagePath", "string"),
    14: ("imagePullPolicy", "string"),
    15: ("securityContext", _CONTAINER_SECURITY),
    16: ("stdin", "bool?"),
    17: ("stdinOnce", "bool?"),
    18: ("tty", "bool?"),
    20: ("terminationMessagePolicy", "string"),
}
_POD_SPEC: Message = {
    1: ("volumes", [_VOLUME]),
    2: ("containers", [_CONTAINER]),
    3: ("restartPolicy", "string"),
    4: ("terminationGracePeriodSeconds", "int"),
    5: ("activeDeadlineSeconds", "int"),
    6: ("dnsPolicy", "string"),
    7: ("nodeSelector", "map"),
    8: ("serviceAccountName", "string"),
    9: ("serviceAccount", "string"),
    10: ("nodeName", "string"),
    11: ("hostNetwork", "bool?"),
    12: ("hostPID", "bool?"),
    13: ("hostIPC", "bool?"),
    14: ("securityContext", _POD_SECURITY),
    16: ("hostname", "string"),
    17: ("subdomain", "string"),
    19: ("schedulerName", "string"),
    20: ("initContainers", [_CONTAINER]),
    24: ("priorityClassName", "string"),
}
_POD_TEMPLATE: Message = {1: ("metadata", _META), 2: ("spec", _POD_SPEC)}
_DEPLOYMENT_SPEC: Message = {
    1: ("replicas", "int"),
    2: ("selector", _SELECTOR),
    3: ("template", _POD_TEMPLATE),
    4: (
        "strategy",
        {
            1: ("type", "string"),
            2: ("rollingUpdate", {1: ("maxUnavailable", "int-or-string"), 2: ("maxSurge", "int-or-string")}),
        },
    ),
    5: ("minReadySeconds", "int?"),
    6: ("revisionHistoryLimit", "int"),
    7: ("paused", "bool?"),
    9: ("progressDeadlineSeconds", "int"),
}
_JOB_SPEC: Message = {
    1: ("parallelism", "int"),
    2: ("completions", "int"),
    3: ("activeDeadlineSeconds", "int"),
    4: ("selector", _SELECTOR),
    5: ("manualSelector", "bool"),
    6: ("template", _POD_TEMPLATE),
    7: ("backoffLimit", "int"),
    8: ("ttlSecondsAfterFinished", "int"),
    9: ("completionMode", "string"),
    10: ("suspend", "bool"),
}
_CRONJOB_SPEC: Message = {
    1: ("schedule", "string"),
    2: ("startingDeadlineSeconds", "int"),
    3: ("concurrencyPolicy", "string"),
    4: ("suspend", "bool"),
    5: ("jobTemplate", {1: ("metadata", _META), 2: ("spec", _JOB_SPEC)}),
    6: ("successfulJobsHistoryLimit", "int"),
    7: ("failedJobsHistoryLimit", "int"),
    8: ("timeZone", "string"),
}
_SERVICE_PORT: Message = {
    1: ("name", "string"),
    2: ("protocol", "string"),
    3: ("port", "int"),
    4: ("targetPort", "int-or-string"),
    5: ("nodePort", "int?"),
    6: ("appProtocol", "string"),
}
_SERVICE_SPEC: Message = {
    1: ("ports", [_SERVICE_PORT]),
    2: ("selector", "map"),
    3: ("clusterIP", "string"),
    4: ("type", "string"),
    5: ("externalIPs", "string[]"),
    7: ("sessionAffinity", "string"),
    8: ("loadBalancerIP", "string"),
    10: ("externalName", "string"),
    11: ("externalTrafficPolicy", "string"),
    12: ("healthCheckNodePort", "int?"),
    13: ("publishNotReadyAddresses", "bool?"),
    18: ("clusterIPs", "string[]"),
}
_SCALER_SPEC: Message = {
    1: ("scaleTargetRef", {1: ("kind", "string"), 2: ("name", "string"), 3: ("apiVersion", "string")}),
    2: ("minReplicas", "int"),
    3: ("maxReplicas", "int"),
    4: ("targetCPUUtilizationPercentage", "int"),
}
_QUOTA_SPEC: Message = {1: ("hard", "quantities"), 2: ("scopes", "string[]")}


def _kind(spec: Message) -> Message:
    """Metadata, a spec, and a status that a client has no say in."""
    return {1: ("metadata", _META), 2: ("spec", spec), 3: ("status", None)}


MESSAGES: dict[str, Message] = {
    "CronJob": _kind(_CRONJOB_SPEC),
    "Deployment": _kind(_DEPLOYMENT_SPEC),
    "HorizontalPodAutoscaler": _kind(_SCALER_SPEC),
    "Job": _kind(_JOB_SPEC),
    "ResourceQuota": _kind(_QUOTA_SPEC),
    "Service": _kind(_SERVICE_SPEC),
    "Namespace": {1: ("metadata", _META), 2: ("spec", None), 3: ("status", None)},
    "ServiceAccount": {1: ("metadata", _META)},
    "ConfigMap": {1: ("metadata", _META), 2: ("data", "map"), 3: ("binaryData", "bytemap"), 4: ("immutable", "bool")},
    "Secret": {
        1: ("metadata", _META),
        2: ("data", "bytemap"),
        3: ("type", "string"),
        4: ("stringData", "map"),
        5: ("immutable", "bool"),
    },
    "Role": {1: ("metadata", _META), 2: ("rules", [_RULE])},
    "ClusterRole": {1: ("metadata", _META), 2: ("rules", [_RULE])},
    "RoleBinding": {1: ("metadata", _META), 2: ("subjects", [_SUBJECT]), 3: ("roleRef", _ROLE_REF)},
    "ClusterRoleBinding": {1: ("metadata", _META), 2: ("subjects", [_SUBJECT]), 3: ("roleRef", _ROLE_REF)},
    "TokenRequest": {
        1: ("metadata", _META),
        2: ("spec", {1: ("audiences", "string[]"), 3: ("boundObjectRef", _BOUND), 4: ("expirationSeconds", "int")}),
        3: ("status", None),
    },
    "SelfSubjectReview": {1: ("metadata", _META), 2: ("status", None)},
    "SelfSubjectRulesReview": {1: ("metadata", _META), 2: ("spec", {1: ("namespace", "string")}), 3: ("status", None)},
    "SelfSubjectAccessReview": {
        1: ("metadata", _META),
        2: ("spec", {1: ("resourceAttributes", _ATTRIBUTES)}),
        3: ("status", None),
    },
}
