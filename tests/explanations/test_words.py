"""Each token of a text belongs to one word, and no character of a word is lost."""

from hypothesis import given
from hypothesis import strategies as st

from imdbcls.explanations.words import words_of


def words(text: str, offsets: list[tuple[int, int]]) -> tuple[list[str], list[int]]:
    spans, index = words_of(text, offsets)
    return [text[start:end] for start, end in spans], index


def test_subwords_punctuation_and_line_ends() -> None:
    text = "I don't\nlike it."
    offsets = [(0, 1), (2, 5), (5, 6), (6, 7), (7, 8), (8, 10), (10, 12), (13, 15), (15, 16)]
    assert words(text, offsets) == (["I", "don't", "like", "it", "."], [0, 1, 1, 1, 2, 2, 2, 3, 4])


def test_words_that_share_a_token_become_one() -> None:
    assert words("well, (yes) no", [(0, 5), (6, 8), (8, 11), (12, 14)]) == (["well,", "(yes)", "no"], [0, 1, 1, 2])


def test_token_after_the_last_word_belongs_to_it() -> None:
    assert words("so \n", [(0, 2), (3, 4)]) == (["so"], [0, 0])


def test_words_of_other_scripts() -> None:
    assert words("हिन्दी café—日本。", [])[0] == ["हिन्दी", "café", "—", "日", "本", "。"]


@given(st.text(min_size=1).filter(str.strip), st.data())
def test_every_token_has_a_word(text: str, data: st.DataObject) -> None:
    bounds = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=12)))
    offsets = list(zip(bounds[::2], bounds[1::2], strict=False))
    spans, index = words_of(text, offsets)
    assert "".join("".join(text[start:end].split()) for start, end in spans) == "".join(text.split())
    assert index == sorted(index) and set(index) <= set(range(len(spans)))
    for (start, end), word in zip(offsets, index, strict=True):
        if text[start:end].strip():  # all characters of the token are in its word
            first, last = spans[word]
            assert first <= start + len(text[start:end]) - len(text[start:end].lstrip())
            assert end - len(text[start:end]) + len(text[start:end].rstrip()) <= last
