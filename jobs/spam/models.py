"""The three models that are compared, each with the settings tried on the validation split.

Words are counted for naive Bayes, weighted by TF-IDF for a logistic regression, and taken to
pieces of up to five letters for the last, beside the words: ``fr33`` and ``freee`` share
pieces with ``free``. The pieces are hashed, so no vocabulary has to ship with the model.

Data:    training messages.
Source:  MultinomialNB: Manning et al., Introduction to Information Retrieval, 13.2 (2008);
         character n-grams for spam: Kanaris et al., IJAIT 16 (2007).
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sklearn.pipeline import Pipeline


def naive_bayes(alpha: float, stop_words: str | None) -> Pipeline:
    """Multinomial naive Bayes on counts of lower-case words."""
    from sklearn.feature_extraction.text import CountVectorizer
    from sklearn.naive_bayes import MultinomialNB
    from sklearn.pipeline import make_pipeline

    words = CountVectorizer(stop_words=stop_words)
    return make_pipeline(words, MultinomialNB(alpha=alpha))


def word_regression(c: float, class_weight: str | None, stop_words: str | None) -> Pipeline:
    """Logistic regression on TF-IDF of lower-case words; ``c`` is the inverse L2 penalty."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    words = TfidfVectorizer(sublinear_tf=True, stop_words=stop_words)
    return make_pipeline(words, LogisticRegression(C=c, class_weight=class_weight, max_iter=1000))


def character_regression(c: float, class_weight: str | None) -> Pipeline:
    """Logistic regression on TF-IDF of hashed character n-grams, words and word pairs.

    The n-grams are of 1 to 5 characters inside a word; each punctuation mark is a word.
    """
    from sklearn.feature_extraction.text import HashingVectorizer, TfidfTransformer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline, make_union

    counts = {"n_features": 2**18, "alternate_sign": False, "norm": None}
    parts = (
        HashingVectorizer(analyzer="char_wb", ngram_range=(1, 5), **counts),
        HashingVectorizer(token_pattern=r"\w+|[^\w\s]", ngram_range=(1, 2), **counts),
    )
    weighted = [make_pipeline(part, TfidfTransformer(sublinear_tf=True)) for part in parts]
    regression = LogisticRegression(C=c, class_weight=class_weight, max_iter=2000)
    return make_pipeline(make_union(*weighted), regression)


MODELS = {
    "naive bayes": naive_bayes,
    "word regression": word_regression,
    "character regression": character_regression,
}
GRID: dict[str, dict[str, tuple[Any, ...]]] = {
    "naive bayes": {
        "alpha": (0.1, 0.3, 1.0),
        "stop_words": (None, "english"),
    },
    "word regression": {
        "c": (3.0, 10.0),
        "class_weight": (None, "balanced"),
        "stop_words": (None, "english"),
    },
    "character regression": {
        "c": (30.0, 300.0),
        "class_weight": (None, "balanced"),
    },
}


def candidates() -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield each model's name with one of its settings."""
    for name, grid in GRID.items():
        for values in product(*grid.values()):
            yield name, dict(zip(grid, values, strict=True))
