"""The run folder: its files, the hashes that identify a run, and safe reading of untrusted folders."""
