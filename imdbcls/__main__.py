"""`python -m imdbcls` is the console script `imdbcls`."""

from imdbcls.cli import main

if __name__ == "__main__":
    main()
