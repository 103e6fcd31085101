"""A speech-act classifier trained on a team's own labels: logistic regression on hashed words and characters.

It is kept as `weights.safetensors` and `classifier.json`, takes seconds to train and needs no download.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from platen.core.errors import DataError, MissingExtraError
from platen.data.instruct.acts import ACTS, Act, RuleActs

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

WEIGHTS_FILE, ABOUT_FILE = "weights.safetensors", "classifier.json"
FEATURES = 2**14
"""Columns for words and pairs of words, and as many for parts of words."""
_FOLDS = 5


@dataclass(frozen=True)
class Labelled:
    """A text and the act that people say it is."""

    text: str
    label: Act


@dataclass(frozen=True)
class Training:
    """What a classifier learned from.

    `accuracy` and `macro_f1` are cross-validated; None with too few examples.
    """

    examples: int
    counts: Mapping[str, int]
    accuracy: float | None
    macro_f1: float | None


class ActClassifier:
    """Gives the likeliest act. An act that it has never seen an example of is left to the rules."""

    def __init__(
        self,
        weights: NDArray[np.float32],
        bias: NDArray[np.float32],
        labels: tuple[Act, ...],
        training: Training,
    ) -> None:
        """`weights` is (labels, 2 x FEATURES), `bias` (labels,)."""
        self._weights, self._bias = weights, bias
        self.labels, self.training = labels, training
        self._rules = RuleActs()

    def probabilities(self, texts: Sequence[str]) -> NDArray[np.float64]:
        """(texts, labels); each row sums to 1."""
        scores = np.asarray(_features(texts) @ self._weights.T, dtype=np.float64) + self._bias
        scores -= scores.max(axis=1, keepdims=True)
        odds = np.exp(scores)
        return np.asarray(odds / odds.sum(axis=1, keepdims=True))

    def tag(self, texts: Sequence[str]) -> list[Act]:
        if not texts:
            return []
        best = self.probabilities(texts).argmax(axis=1)
        by_rule = self._rules.tag(texts)
        return [
            rule if rule not in self.labels else self.labels[index]
            for rule, index in zip(by_rule, best, strict=True)
        ]

    def save(self, folder: Path) -> None:
        from safetensors.numpy import save_file

        folder.mkdir(parents=True, exist_ok=True)
        save_file({"weights": self._weights, "bias": self._bias}, folder / WEIGHTS_FILE)
        about = {"labels": list(self.labels), "features": FEATURES, "training": asdict(self.training)}
        (folder / ABOUT_FILE).write_text(json.dumps(about, indent=2) + "\n", "utf-8")

    @classmethod
    def load(cls, folder: Path) -> ActClassifier:
        """Raises DataError for a folder that holds none."""
        from safetensors import SafetensorError
        from safetensors.numpy import load_file

        try:
            about = json.loads((folder / ABOUT_FILE).read_text("utf-8"))
            tensors = load_file(folder / WEIGHTS_FILE)
            labels, training = tuple(about["labels"]), Training(**about["training"])
            weights, bias = tensors["weights"], tensors["bias"]
            if weights.shape != (len(labels), 2 * FEATURES) or bias.shape != (len(labels),):
                raise ValueError(f"weights of the shape {weights.shape} for {len(labels)} labels")
        except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
            raise DataError(f"{folder} holds no act classifier: {error}", hint="Train it again.") from None
        return cls(weights, bias, labels, training)


def read_labels(file: Path) -> list[Labelled]:
    """JSON lines with `text` and `label` (a text, or doccano's list of one).

    Raises DataError with the line.
    """
    found = []
    try:
        lines = file.read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(
            f"{file} can't be read: {error}", hint="Export labels with `platen data labels`."
        ) from None
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
            label = record["label"]
            label = label[0] if isinstance(label, list) and len(label) == 1 else label
            if not isinstance(record["text"], str) or label not in ACTS:
                raise ValueError(f"the label {label!r} is no speech act")
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(
                f"{file}, line {number}: {error}",
                hint=f'Write lines like {{"text": "Hi!", "label": "expressive"}}; acts: {", ".join(ACTS)}.',
            ) from None
        found.append(Labelled(record["text"], label))
    return found


def train_classifier(examples: Sequence[Labelled], *, seed: int = 0) -> ActClassifier:
    """Fit on all examples; how good it is, is told by cross-validation.

    Raises DataError for fewer than two acts.
    """
    labels = tuple(act for act in ACTS if any(example.label == act for example in examples))
    if len(labels) < 2:
        raise DataError(
            f"{len(examples)} labelled examples with {len(labels)} different acts",
            hint="Label examples of at least two acts.",
        )
    features = _features([example.text for example in examples])
    targets = np.array([labels.index(example.label) for example in examples])
    model = _regression(seed).fit(features, targets)
    weights, bias = model.coef_, model.intercept_
    if len(labels) == 2:  # one row for two classes
        weights, bias = np.vstack([-weights, weights]) / 2, np.concatenate([-bias, bias]) / 2
    counts = Counter(example.label for example in examples)
    accuracy, macro_f1 = _cross_validated(features, targets, seed)
    training = Training(len(examples), {act: counts[act] for act in labels}, accuracy, macro_f1)
    # In C order: safetensors writes an array's memory as it lies.
    rows = np.ascontiguousarray(weights, dtype=np.float32)
    return ActClassifier(rows, bias.astype(np.float32), labels, training)


def _regression(seed: int) -> Any:
    from sklearn.linear_model import LogisticRegression

    return LogisticRegression(C=10.0, max_iter=1000, class_weight="balanced", random_state=seed)


def _cross_validated(
    features: csr_matrix, targets: NDArray[np.int64], seed: int
) -> tuple[float | None, float | None]:
    folds = min(_FOLDS, int(np.bincount(targets).min()))
    if folds < 2:
        return None, None
    from sklearn.metrics import accuracy_score, f1_score
    from sklearn.model_selection import StratifiedKFold, cross_val_predict

    split = StratifiedKFold(folds, shuffle=True, random_state=seed)
    predicted = cross_val_predict(_regression(seed), features, targets, cv=split)
    return float(accuracy_score(targets, predicted)), float(f1_score(targets, predicted, average="macro"))


def _features(texts: Sequence[str]) -> csr_matrix:
    """(texts, 2 x FEATURES): hashed words and pairs, which keep ? and !, beside hashed parts of words."""
    try:
        from scipy.sparse import hstack
        from sklearn.feature_extraction.text import HashingVectorizer
    except ImportError:
        raise MissingExtraError("data", "the classifier of speech acts") from None
    words = HashingVectorizer(
        n_features=FEATURES, ngram_range=(1, 2), token_pattern=r"[\w']+|[?!]", alternate_sign=False
    )
    parts = HashingVectorizer(
        n_features=FEATURES, analyzer="char_wb", ngram_range=(2, 4), alternate_sign=False
    )
    return hstack([words.transform(texts), parts.transform(texts)], format="csr")
