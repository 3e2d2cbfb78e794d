"""Serve finished runs over HTTP: a web page for trying them on a text, and a JSON interface."""
