"""Executable runbooks that prove a PostgreSQL on CloudNativePG can be restored."""
