"""Codecs of what travels: our own JSON, and foreign protocols. Bytes in, records out; no I/O, no model, no store."""
