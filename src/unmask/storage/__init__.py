"""Bytes and rows: one object-store client, and record files as one memory-mapped table."""
