"""The embedded lab: real PostgreSQL, barman and S3 behind a Kubernetes-shaped API; reached only by address."""
