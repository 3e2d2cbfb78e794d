"""The parts of `python -m imdbcls.compare`: read run folders, test the differences, show them.

Arrays carry their shape in their names: S runs of one group (its seeds), N documents, C classes,
B bootstrap draws, K columns; `correct_SN` is one row per seed and one column per document.
"""
