"""Connections on their way from the application to PostgreSQL: limits, load and what binds.

Only ``pod``, a program of its own, opens connections; everything else here is data and arithmetic.
"""
