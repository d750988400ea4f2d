"""PostgreSQL: its client, its checks, its write-ahead log and its recovery log."""
