"""The lab's object store: moto's S3 behind a gate that checks signatures, policies and faults."""
