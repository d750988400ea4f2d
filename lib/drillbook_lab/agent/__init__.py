"""The programs that run inside a lab pod: initdb, instance, recovery, backup, and the two WAL commands."""
