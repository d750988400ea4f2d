"""Index migrations: what one proposes, and what its claims are worth on a copy of the database.

``migration`` is the input as data, ``statements`` the only user of the SQL parser. What a definition is in the end is
what a server's catalogue says after it was created, never what was read from the SQL here.
"""
