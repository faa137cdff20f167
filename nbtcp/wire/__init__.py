"""Bytes <-> values, without state: nothing in here knows what a connection is."""
