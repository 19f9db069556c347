"""Datasets: public on-disk layouts in, an audited, split and sealed image store out.

`dataset` reads what is stored and is light. `ingest` builds it and everything that it imports is heavy: import it only
where a dataset is added.
"""
