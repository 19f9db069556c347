"""The store: tasks, runs and the append-only ledger in one SQLite file. The only place that knows SQL."""
