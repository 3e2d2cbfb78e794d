"""Load a tokenizer.json and encode some texts, in a process that may crash or be killed.

`imdbcls.data.tokenizer_check` runs this module as a script. The script prints one line of JSON: `{"error": null}`, or
the reason for refusing the file as `error`. It imports nothing from this package, and it limits its own memory and CPU
time.
"""

import contextlib
import json
import resource
import sys
import time

MAX_BYTES = 3 * 2**30  # address space; the largest common tokenizers take about 500 MB
MAX_SECONDS = 20  # CPU time; the largest common tokenizers take 3 s, mostly for loading
MAX_ENCODING_SECONDS = 1.0  # CPU time for all texts; common tokenizers take a few milliseconds
MAX_ADDED_TOKENS = 20_000  # transformers adds them one by one
MAX_SPECIAL = 64  # special tokens around a document
TEXTS = (
    "It was a quiet, patient film: 97 minutes of rain (and one joke), directed by nobody I'd heard of. 10/10 <br /> "
    * 10,
    "a" * 2000 + "!",
    "xy" * 500 + " " * 500 + "\n\t" * 50 + "x" * 500,
    "1234567890" * 50 + ".,;:!?-_'\"()[]{}" * 20,
    "naïve Größe 字幕付きの映画 фильм שלום مرحبا 한국어 영화 👩\u200d💻 e\u0301 ﷺ ½ \x00\x1b \ufeff " * 10,
)


def problem_of(path: str) -> str | None:
    """Return the reason for refusing a `tokenizer.json`; None if it can be used."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(path)
    added = len(tokenizer.get_added_tokens_decoder())
    if added > MAX_ADDED_TOKENS:
        return f"it adds {added:,} tokens to its vocabulary; at most {MAX_ADDED_TOKENS:,} are allowed"
    tokenizer.no_truncation()
    tokenizer.no_padding()
    started = time.process_time()
    for text in TEXTS:
        ids = tokenizer.encode(text, add_special_tokens=False).ids
        if len(ids) > 8 * len(text.encode()) + MAX_SPECIAL:
            return f"it splits {len(text):,} characters into {len(ids):,} tokens"
        special = len(tokenizer.encode(text).ids) - len(ids)
        if special > MAX_SPECIAL:
            return f"it adds {special:,} special tokens to each document"
        if time.process_time() - started > MAX_ENCODING_SECONDS:
            return f"it takes more than {MAX_ENCODING_SECONDS:g} s for a few short texts"
    return None


def main() -> None:
    limits = {resource.RLIMIT_AS: MAX_BYTES, resource.RLIMIT_CPU: MAX_SECONDS, resource.RLIMIT_CORE: 0}
    for limit, value in limits.items():
        _, hard = resource.getrlimit(limit)
        within = value if hard == resource.RLIM_INFINITY else min(value, hard)
        with contextlib.suppress(ValueError, OSError):  # macOS does not limit the address space
            resource.setrlimit(limit, (within, hard))
    try:
        problem = problem_of(sys.argv[1])
    except BaseException as error:  # a Rust panic is not a subclass of Exception
        problem = f"{type(error).__name__}: {' '.join(str(error).split())}"
    print(json.dumps({"error": problem}))


if __name__ == "__main__":
    main()
