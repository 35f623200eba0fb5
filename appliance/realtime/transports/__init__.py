"""Transports of the Realtime protocol."""
