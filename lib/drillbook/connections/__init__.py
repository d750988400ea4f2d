"""Connections on their way from the application to PostgreSQL: limits, load and what binds. Nothing here opens one."""
