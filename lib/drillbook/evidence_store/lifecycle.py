"""The rule that moves old evidence to Glacier, as `put_bucket_lifecycle_configuration` takes it.

Source: S3 user guide, "Transitioning objects using Amazon S3 Lifecycle": objects under 128 KB don't move by default, since
a transition costs a request each and 32 KB of overhead; a filter by size that names another bound changes that.
"""

from __future__ import annotations

from typing import Any

from drillbook.profile.evidence import EvidenceArchive

SMALLEST_BYTES = 128 * 1024


def lifecycle_rule(
    settings: EvidenceArchive,
    site: str,
    *,
    days: int = 90,
    storage_class: str = "GLACIER",
    smallest: int = SMALLEST_BYTES,
) -> dict[str, Any]:
    """One rule for a site's runs, current and older versions; the ledger stays where it is read at once.

    A transition keeps Object Lock as it is; nothing expires. ``smallest`` in bytes: smaller objects stay.
    """
    prefix = "/".join(part for part in (settings.prefix, site, "runs") if part) + "/"
    return {
        "Rules": [
            {
                "ID": f"drillbook-evidence-{site}",
                "Status": "Enabled",
                "Filter": {"And": {"Prefix": prefix, "ObjectSizeGreaterThan": smallest - 1}},
                "Transitions": [{"Days": days, "StorageClass": storage_class}],
                "NoncurrentVersionTransitions": [{"NoncurrentDays": days, "StorageClass": storage_class}],
            }
        ]
    }


__all__ = ["SMALLEST_BYTES", "lifecycle_rule"]
