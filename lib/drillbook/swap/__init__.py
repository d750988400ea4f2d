"""Putting recovered data into service: names, other controllers, a superuser's session, the transferred database and its comparison.

Nothing here decides to act: the steps of ``steps`` do, each behind its gate.
"""
