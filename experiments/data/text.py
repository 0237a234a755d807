"""Tokenizer: vocabulary and token ids of texts.

The papers do not describe theirs; this is ours. Text is put in lower case, line breaks
of HTML become spaces, and a token is a run of letters, digits and underscores,
apostrophes within it included.
"""

import collections
import dataclasses
import re
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

PADDING = 0
UNKNOWN = 1
FIRST_WORD = 2  # the most frequent; an embedding needs `vocabulary + FIRST_WORD` rows

_BREAK = re.compile(r"<br\s*/?>")
_WORD = re.compile(r"\w+(?:'\w+)*")


def words(text: str) -> list[str]:
    """The tokens of a text.

    Examples:
      >>> words("Don't miss it!<br /><br />It's a '80s film.")
      ["don't", 'miss', 'it', "it's", 'a', '80s', 'film']
    """
    return _WORD.findall(_BREAK.sub(" ", text.lower()))


def vocabulary(texts: Iterable[str], size: int) -> list[str]:
    """At most `size` words, the most frequent first, equally frequent ones by alphabet.

    Examples:
      >>> vocabulary(["b a", "c c a", "d"], 3)
      ['a', 'c', 'b']
    """
    counts = collections.Counter()
    for text in texts:
        counts.update(words(text))
    ranked = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return [word for word, _ in ranked[:size]]


@dataclasses.dataclass(frozen=True, eq=False)
class Tokenizer:
    """Makes token ids of texts; called with `StringDType` `[n]` or a sequence."""

    known: list[str]  # the vocabulary, from the most frequent word
    length: int  # of the token ids of a text

    def __call__(self, texts: np.ndarray | Sequence[str]) -> np.ndarray:
        """The token ids of the last words of each text, padded in front.

        int32 `[n, length]`: 0 for padding, 1 for an unknown token, 2 for the first of
        the known words, and so on.

        Examples:
          >>> tokenize = Tokenizer(["a", "film"], length=3)
          >>> tokenize(["a film", "not a good film"]).tolist()
          [[0, 2, 3], [2, 1, 3]]
        """
        numbers = {word: id for id, word in enumerate(self.known, start=FIRST_WORD)}
        table = np.full((len(texts), self.length), PADDING, np.int32)
        for row, text in zip(table, texts, strict=True):
            kept = words(text)[-self.length :]
            row[self.length - len(kept) :] = [numbers.get(w, UNKNOWN) for w in kept]
        return table

    def described(self) -> dict[str, Any]:
        """For JSON: the vocabulary, the length, and how words are split."""
        return {
            "vocabulary": self.known,
            "first_id": FIRST_WORD,
            "unknown": UNKNOWN,
            "padding": PADDING,
            "length": self.length,
            "space": _BREAK.pattern,
            "word": _WORD.pattern,
        }
