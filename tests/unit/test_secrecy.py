"""What of a Kubernetes Secret is masked: passwords wherever they stand, and no region, bucket or engine."""

from __future__ import annotations

import base64
import html
import json
import shlex

import pytest

from drillbook.evidence import Masker
from drillbook.evidence.mask import MASK
from drillbook.kube.redaction import Redactor
from drillbook.profile.secrecy import secrets_of


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("AWS_REGION", "fra1"),
        ("AWS_REGION", "eu-central-1"),
        ("region", "nyc3"),
        ("BUCKET", "synergyflow-backups"),
        ("bucketName", "synergyflow-backups"),
        ("AWS_ENDPOINT_URL", "https://fra1.digitaloceanspaces.com"),
        ("S3_URL", "https://minio.storage.svc:9000"),
        ("engine", "postgres"),
        ("sslmode", "require"),
        ("PGHOST", "shared-postgres-rw"),
        ("PGSSLMODE", "verify-full"),
        ("dbuser", "synergyflow"),
        ("destinationPath", "s3://backups/shared-postgres"),
        ("STORAGE_ACCOUNT", "synergyflow"),
        ("NODE_ENV", "production"),
        ("uri", "postgresql://app@shared-postgres-rw:5432/synergyflow"),
        ("ca.crt", "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n"),
        ("replicas", "3"),
    ],
)
def test_s06_what_names_or_places_something_stays_readable(key: str, value: str) -> None:
    masker = Masker()
    Redactor(masker.register).add_entries({key: value})
    assert masker.mask(f"location {value}") == f"location {value}"
    assert not masker.add(value, key=key)


@pytest.mark.parametrize(
    ("key", "value", "secret"),
    [
        ("password", "postgres", "postgres"),
        ("dbpassword", "require", "require"),
        ("ACCESS_SECRET_KEY", "eu-central-1", "eu-central-1"),
        ("whatever", "kJ8s-xyzzy", "kJ8s-xyzzy"),
        ("uri", "postgresql://app:pl%40ugh-12@shared-postgres-rw/synergyflow", "pl@ugh-12"),
        ("host", "postgresql://app:plugh-12@shared-postgres-rw/synergyflow", "plugh-12"),
        ("jdbc-uri", "jdbc:postgresql://rw:5432/shop?password=plugh-12&user=app", "plugh-12"),
        ("conninfo", "host=rw user=app password='plugh 12' dbname=shop", "plugh 12"),
        ("pgpass", "rw:5432:shop:app:plugh\\:12\n", "plugh:12"),
        ("AZURE_CONNECTION_STRING", "AccountName=shop;AccountKey=cGx1Z2g=;EndpointSuffix=core", "cGx1Z2g="),
        ("credentials", "[default]\naws_secret_access_key = plughplugh\n", "plughplugh"),
        ("config.json", '{"user": "app", "password": "plugh-12"}', "plugh-12"),
        (
            "SLACK_WEBHOOK",
            "https://hooks.slack.com/services/T0/B0/plugh",
            "https://hooks.slack.com/services/T0/B0/plugh",
        ),
        ("PING", "https://hc-ping.com/5b1c7a9e", "https://hc-ping.com/5b1c7a9e"),
    ],
)
def test_s06_what_opens_something_is_masked_wherever_it_stands(key: str, value: str, secret: str) -> None:
    masker = Masker()
    Redactor(masker.register).add_entries({key: value})
    assert secret not in masker.mask(f"said {secret} and {value}")
    assert secret in secrets_of(key, value)


ODD = "kJ8s-xyzzy-'\"\\<&>-plugh-0123456789"


@pytest.mark.parametrize(
    "shown",
    [
        ODD[:9] + "\n" + ODD[9:],
        ODD[:9] + "\r\n      " + ODD[9:20] + "\n" + ODD[20:],
        ODD[:9] + "\\\n  " + ODD[9:],
        base64.b64encode(ODD.encode()).decode()[:20] + "\n" + base64.b64encode(ODD.encode()).decode()[20:],
        "'" + ODD.replace("'", "''") + "'",
        shlex.quote(ODD),
        "password='" + ODD.replace("\\", "\\\\").replace("'", "\\'") + "'",
        html.escape(json.dumps(ODD)),
        html.escape(html.escape(ODD)),
        html.escape(shlex.quote(ODD)),
    ],
)
def test_i16_a_secret_is_masked_however_it_is_quoted_wrapped_or_escaped_twice(shown: str) -> None:
    masker = Masker()
    masker.add(ODD)
    masked = masker.mask(f"before {shown} after")
    assert masked.startswith("before ") and masked.endswith(" after")
    assert "xyzzy" not in masked and "plugh" not in masked and MASK in masked
    assert masker.mask("a line\nand another\n") == "a line\nand another\n"
