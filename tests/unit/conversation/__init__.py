"""Tests of the pure conversation, by subject; each drives the whole `Conversation` on a `Stage`."""
