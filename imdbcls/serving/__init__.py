"""Serve finished runs over HTTP: a page to try them on a text, and the same as JSON."""
