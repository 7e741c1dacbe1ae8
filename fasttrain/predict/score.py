"""How many predictions are right, where the images are said to be of a class.

Only counts are kept, so a million images need as much memory as ten.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..errors import shown
from .stream import Answer

WIDEST = 24  # letters of a class's name
MOST_CLASSES = 20  # of a whole table: more would not fit the width of a terminal
MOST_CONFUSIONS = 20


class Score:
    """Counts of true and predicted classes.

    The most probable class counts as the prediction, whatever the threshold, as in the run's
    class_accuracy.json. `confusion` is int64 (classes, classes), a row for each true class.
    """

    def __init__(self, classes: Sequence[str], *, threshold: float = 0.0) -> None:
        self.classes, self.threshold = classes, threshold
        self.numbers = {name: number for number, name in enumerate(classes)}
        self.confusion = np.zeros((len(classes), len(classes)), np.int64)
        self.images = self.sure = self.right = self.unknown = 0

    def add(self, answer: Answer) -> None:
        """Count an answer, if its image is said to be of a class of the network."""
        found, label = answer.probabilities, answer.item.label
        if found is None:
            return
        self.images += 1
        if label is None:
            return
        if label not in self.numbers:
            self.unknown += 1
            return
        true, predicted = self.numbers[label], int(found.argmax())
        self.confusion[true, predicted] += 1
        if found[predicted] >= self.threshold:
            self.sure += 1
            self.right += true == predicted

    def text(self) -> str:
        """Accuracy and confusions in lines; "" if no image was said to be of a class."""
        count, correct = int(self.confusion.sum()), int(np.trace(self.confusion))
        if not count:
            return ""
        line = f"accuracy {_share(correct, count)}"
        if without := self.images - count:
            why = f", {self.unknown:,} of them of a class unknown to it" if self.unknown else ""
            line += f"; {without:,} more images without a class of this network{why}"
        lines = [line]
        if self.threshold > 0:
            sure = f"accuracy {_share(self.right, self.sure)}" if self.sure else "no image"
            lines.append(f"at a probability of {self.threshold:g} or more: {sure}")
        small = len(self.classes) <= MOST_CLASSES
        return "\n".join([*lines, *(self._table() if small else self._worst())]) + "\n"

    def _table(self) -> list[str]:
        """The whole confusion table, its columns numbered as the rows are."""
        names = [shown(name, WIDEST) for name in self.classes]
        wide = max(map(len, names))
        digits = max(len(f"{self.confusion.max()}"), len(f"{len(names) - 1}"), 3)
        heads = " ".join(f"{number:{digits}}" for number in range(len(names)))
        lines = [f"{'true class, predicted as':{wide + 4}}", f"{'':{wide + 4}}{heads}  correct"]
        for number, (name, row) in enumerate(zip(names, self.confusion, strict=True)):
            cells = " ".join(f"{cell:{digits}}" for cell in row)
            of = int(row.sum())
            right = f"{100 * row[number] / of:6.2f} %" if of else "       -"
            lines.append(f"{number:2} {name:{wide}} {cells} {right}")
        return lines

    def _worst(self) -> list[str]:
        """The most frequent confusions."""
        wrong = self.confusion * (1 - np.eye(len(self.classes), dtype=np.int64))
        order = np.argsort(-wrong, axis=None, kind="stable")[:MOST_CONFUSIONS]
        lines = []
        for true, predicted in zip(*np.unravel_index(order, wrong.shape), strict=True):
            if count := int(wrong[true, predicted]):
                names = [shown(self.classes[number], WIDEST) for number in (true, predicted)]
                of = int(self.confusion[true].sum())
                lines.append(f"  {names[0]} as {names[1]}: {count:,} of {of:,}")
        return ["most frequent confusions", *lines] if lines else []


def _share(correct: int, count: int) -> str:
    return f"{100 * correct / count:.2f} %: {correct:,} of {count:,} images"
