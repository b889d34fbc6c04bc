"""Codecs not yet trained, and so not yet listed by the registry."""
