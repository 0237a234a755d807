"""The IMDB reviews, as token ids.

As their authors publish them, unpacked in `data_dir/aclImdb` (train/neg/*.txt and so
on; https://ai.stanford.edu/~amaas/data/sentiment/), in the order of the names; or
prepared by TensorFlow Datasets in `data_dir/imdb_reviews/plain_text/<version>`, in the
order in which TFDS stored them. Class 0 is negative, 1 positive.
"""

import pathlib
from collections.abc import Sequence

import numpy as np

from experiments import configs
from experiments.data import _check, own_text, text, tfds
from experiments.data.types import DamagedData, Dataset, Examples, MissingData

_NAME = "imdb_reviews/plain_text"
_FOLDER = "aclImdb"
_COUNT = 25_000  # of each split, half of them of each class


def load(data: configs.Data, data_dir: pathlib.Path, download: bool) -> Dataset:
    """Loads the reviews as token ids, int32 `[n, length]`; see `datasets`, `text`.

    The vocabulary is that of the whole training split, before it is subsampled: it does
    not use labels or the test split. Takes some ten seconds.
    """
    train, test = _texts(data, data_dir, download)
    as_ids = text.Tokenizer(text.vocabulary(train[0], data.vocabulary), data.length)
    splits = [Examples(as_ids(texts), labels) for texts, labels in (train, test)]
    return Dataset(splits[0], splits[1], None)


def tokenizer(data: configs.Data, data_dir: pathlib.Path | None) -> text.Tokenizer:
    """A function from other texts, `StringDType` `[n]`, to token ids like `load`'s.

    MissingData if the reviews, whose training split has the vocabulary, are not there.
    """
    try:
        if data_dir is None:
            raise MissingData
        (texts, _), _ = _texts(data, data_dir.expanduser(), download=False)
    except MissingData as error:
        raise MissingData(
            "Texts need the vocabulary of IMDB's training reviews, which are not in "
            f"{data_dir or 'any known directory'}: give --data-dir, the one that holds "
            f"{_FOLDER}/ or imdb_reviews/; or give token ids in a .npy file."
        ) from error
    return text.Tokenizer(text.vocabulary(texts, data.vocabulary), data.length)


def _texts(
    data: configs.Data, data_dir: pathlib.Path, download: bool
) -> list[tuple[list[str], np.ndarray]]:
    """The texts and labels of both splits."""
    if (data_dir / _FOLDER).is_dir():
        return _from_folders(data_dir / _FOLDER, data)
    directory = tfds.find(_NAME, data_dir, download=download)
    return [_split(directory, split, data) for split in ("train", "test")]


def _from_folders(
    directory: pathlib.Path, data: configs.Data
) -> list[tuple[list[str], np.ndarray]]:
    """The texts and labels of both splits, from text files."""
    parts = own_text.from_folders(directory)
    found = []
    for split in ("train", "test"):
        if split not in parts or {*parts[split].labels} != {"neg", "pos"}:
            raise DamagedData(f"{directory} must have {split}/neg and {split}/pos.")
        labels = np.array([name == "pos" for name in parts[split].labels], np.int32)
        _refuse_counts(f"{directory}, split {split!r}", labels, data)
        found.append((parts[split].inputs.tolist(), labels))
    return found


def _split(
    directory: pathlib.Path, split: str, data: configs.Data
) -> tuple[list[str], np.ndarray]:
    """The texts and labels of one split."""
    where = f"{directory}, split {split!r}"
    texts, labels = [], []
    features = {"text": bytes, "label": int}
    for index, record in enumerate(tfds.read(directory, split, features)):
        _check.label(f"{where}, record {index}", record["label"], data.classes)
        try:
            texts.append(record["text"].decode())
        except UnicodeDecodeError as error:
            raise DamagedData(f"{where}, record {index}: {error}.") from error
        labels.append(record["label"])
    _refuse_counts(where, labels, data)
    return texts, np.asarray(labels, np.int32)


def _refuse_counts(where: str, labels: Sequence[int], data: configs.Data) -> None:
    """Refuses another number of reviews than was published."""
    counts = np.bincount(labels, minlength=data.classes)
    if not data.partial and (counts != _COUNT // 2).any():
        raise DamagedData(
            f"{where} has {counts[0]:,} negative and {counts[1]:,} positive reviews, "
            f"published are {_COUNT // 2:,} of each. {_check.PARTIAL}"
        )
