"""An index migration: rehearsed on a copy, and brought to production as it was proven."""
