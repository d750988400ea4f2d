"""The application that a site's database is for: a small HTTP service with a real connection pool.

What it serves is data (its statements come from its environment), so every site has one of its own.
"""
