"""Public data sets -> record files: one converter per set (`sets/`), and the rooms that they share.

`converter.py` says what a converter is; `run.py` runs one, shard by shard, so that a killed run goes on where it stopped.
"""
