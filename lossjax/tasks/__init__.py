from lossjax.tasks.arrays import Arrays
from lossjax.tasks.bayes import at_bayes_accuracy, bayes_risk
from lossjax.tasks.dataset import class_counts, seen_often
from lossjax.tasks.digits import Digits
from lossjax.tasks.next_word import NextWord
from lossjax.tasks.places import PlaceNames
from lossjax.tasks.random_labels import RandomLabels
from lossjax.tasks.task import Bayes, Split, Splits, Task
from lossjax.tasks.teacher import Teacher
from lossjax.tasks.ucr import ItalyPowerDemand, JapaneseVowels

__all__ = [
    "Arrays",
    "Bayes",
    "Digits",
    "ItalyPowerDemand",
    "JapaneseVowels",
    "NextWord",
    "PlaceNames",
    "RandomLabels",
    "Split",
    "Splits",
    "Task",
    "Teacher",
    "at_bayes_accuracy",
    "bayes_risk",
    "class_counts",
    "seen_often",
]
