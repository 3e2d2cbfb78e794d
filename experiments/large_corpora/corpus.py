"""Read and split a file as a run does, without training: `python corpus.py data.train=FILE ...` (config keys)."""

import sys

from imdbcls.config.overrides import compose
from imdbcls.runtime.process import prepare_process


def main() -> None:
    config = compose(["data=files", "backbone=tiny", *sys.argv[1:]])
    prepare_process()
    from imdbcls.construction import build_corpus

    corpus = build_corpus(config.data)
    print(corpus.split_hash, {name: len(documents) for name, documents in corpus.splits.items()})


if __name__ == "__main__":
    main()
