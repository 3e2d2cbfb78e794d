"""The configuration groups, importable as `imdbcls.conf` so that they ship with the package."""
