"""Small data sets, laid out on disk as the true ones are.

`build(source, root)` writes one and returns the directory to read it from. Images have
a colour or a brightness for each class and noise on top, reviews have words for each,
so that what is trained on them can learn.
"""

import colorsys
import csv
import io
import json
import pathlib

import numpy as np
from PIL import Image

CLASSES = {"cifar10": 10, "cifar100": 100}


def build(source, root, seed=0):
    """Writes the data set of that name with its default size; returns `data_dir`."""
    root = pathlib.Path(root)
    if source in CLASSES:
        tfds_cifar(root, source, seed=seed)
    elif source == "imdb":
        tfds_imdb(root, seed=seed)
    elif source != "digits":  # which come with scikit-learn
        globals()[source](root, seed=seed)
    return root


# --- TensorFlow Datasets ---


def tfds_cifar(
    root, name="cifar10", train=20, test=4, shards=2, version="3.0.2", seed=0
):
    """CIFAR as TFDS stores it: shuffled, in shards, with ids of the official order.

    `train` and `test` are examples a class, at most 10 a class of CIFAR-100. Returns
    the images and labels of each split in the official order.
    """
    rng = np.random.default_rng(seed)
    classes = CLASSES[name]
    features = CIFAR10_FEATURES
    if name == "cifar100":
        train = min(train, 10)
        features = features | {"label": _label(100), "coarse_label": _label(20)}
    splits, truth = {}, {}
    for split, per_class in (("train", train), ("test", test)):
        labels = rng.permutation(np.repeat(np.arange(classes), per_class))
        images = np.stack([colourful(each, classes, (32, 32), rng) for each in labels])
        truth[split] = images, labels
        rows = cifar_rows(split, images, labels)
        if name == "cifar100":
            rows = [row | {"coarse_label": row["label"] // 5} for row in rows]
        splits[split] = [rows[i] for i in rng.permutation(len(rows))]
    write_tfds(root / name / version, name, splits, features, shards=shards)
    return truth


def cifar_rows(split, images, labels):
    """Records of a split in the official order."""
    return [
        {
            "id": f"{split}_{i:05d}".encode(),
            "image": encode(image, "PNG"),
            "label": int(label),
        }
        for i, (image, label) in enumerate(zip(images, labels, strict=True))
    ]


def binary_cifar(root, name, truth):
    """CIFAR as its official binary files, of what `tfds_cifar` returns."""
    ten = name == "cifar10"
    folder = root / ("cifar-10-batches-bin" if ten else "cifar-100-binary")
    folder.mkdir(parents=True)
    for split, (images, labels) in truth.items():
        names = [f"{split}_batch.bin" if ten else f"{split}.bin"]
        if ten and split == "train":
            names = [f"data_batch_{number}.bin" for number in range(1, 6)]
        coarse = [] if ten else [labels[:, None] // 5]
        pixels = images.transpose(0, 3, 1, 2).reshape(len(images), -1)
        rows = np.concatenate([*coarse, labels[:, None], pixels], 1).astype(np.uint8)
        for file, part in zip(names, np.array_split(rows, len(names)), strict=True):
            part.tofile(folder / file)
    return folder


def tfds_imdb(root, train=30, test=10, seed=0):
    """The reviews as TFDS stores them; `train` and `test` are reviews a class.

    Returns the texts and labels of each split, in the order on disk.
    """
    rng = np.random.default_rng(seed)
    common = ["the", "a", "film", "plot", "it's", "and", "of", "it", "was", "1980s"]
    own = [["awful", "dull", "boring", "waste"], ["wonderful", "moving", "gem"]]
    splits, truth = {}, {}
    for split, per_class in (("train", train), ("test", test)):
        labels = rng.permutation(np.repeat([0, 1], per_class))
        texts = []
        for label in labels:
            drawn = rng.choice(common * 2 + own[label] * 3, rng.integers(5, 40))
            text = " ".join(drawn).capitalize()
            texts.append(f"{text}.<br /><br />{drawn[0]}!")
        truth[split] = texts, labels
        splits[split] = [
            {"text": text.encode(), "label": int(label)}
            for text, label in zip(texts, labels, strict=True)
        ]
    features = {"text": _feature("text_feature.Text", text={}), "label": _label(2)}
    directory = root / "imdb_reviews" / "plain_text" / "1.0.0"
    write_tfds(directory, "imdb_reviews", splits, features, config="plain_text")
    return truth


def write_tfds(directory, name, splits, features, *, config=None, shards=1):
    """Writes rows of bytes and ints as TFDS does, without TensorFlow."""
    from array_record.python import array_record_module
    from tensorflow_datasets.proto import tf_example_pb2

    directory.mkdir(parents=True)
    described = []
    for split, rows in splits.items():
        lengths = []
        for shard in range(shards):
            file = f"{name}-{split}.array_record-{shard:05d}-of-{shards:05d}"
            writer = array_record_module.ArrayRecordWriter(
                str(directory / file), "group_size:1"
            )
            part = rows[shard::shards]
            for row in part:
                example = tf_example_pb2.Example()
                for key, value in row.items():
                    feature = example.features.feature[key]
                    if isinstance(value, bytes):
                        feature.bytes_list.value.append(value)
                    else:
                        feature.int64_list.value.append(value)
                writer.write(example.SerializeToString())
            writer.close()
            lengths.append(str(len(part)))
        template = "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}"
        described.append(
            {"filepathTemplate": template, "name": split, "shardLengths": lengths}
        )
    info = {"name": name, "version": directory.name, "fileFormat": "array_record"}
    info["splits"] = described
    if config:
        info["configName"] = config
    (directory / "dataset_info.json").write_text(json.dumps(info))
    whole = _feature("features_dict.FeaturesDict", featuresDict={"features": features})
    (directory / "features.json").write_text(json.dumps(whole))


def _feature(python_class, **what):
    name = f"tensorflow_datasets.core.features.{python_class}"
    return {"pythonClassName": name, **what}


def _label(classes):
    number = {"numClasses": str(classes)}
    return _feature("class_label_feature.ClassLabel", classLabel=number)


CIFAR10_FEATURES = {
    "id": _feature("text_feature.Text", text={}),
    "image": _feature(
        "image_feature.Image",
        image={"dtype": "uint8", "shape": {"dimensions": ["32", "32", "3"]}},
    ),
    "label": _label(10),
}


# --- Lists of image files ---


def imagenet_lt(root, classes=(0, 1, 2, 500, 998, 999), largest=24, seed=0):
    """ImageNet-LT with six of its classes; returns the entries of each list."""
    parts = {
        "ImageNet_LT_train.txt": (largest, "train"),
        "ImageNet_LT_val.txt": (2, "train"),
        "ImageNet_LT_test.txt": (3, "val"),
    }
    name = "n{0:08d}/n{0:08d}_{1}.JPEG"
    return _lists(root / "imagenet_lt", classes, parts, name, seed)


def places_lt(root, classes=(0, 1, 2, 180, 363, 364), largest=24, seed=0):
    """Places-LT with six of its classes; returns the entries of each list."""
    parts = {
        "Places_LT_train.txt": (largest, "train"),
        "Places_LT_val.txt": (2, "val"),
        "Places_LT_test.txt": (3, "val"),
    }
    return _lists(root / "places_lt", classes, parts, "scene_{}/{:08d}.jpg", seed)


def inaturalist18(root, classes=(0, 1, 4000, 8141), largest=20, seed=0, as_json=False):
    """iNaturalist 2018 with four of its classes; returns the entries of each list.

    With `as_json` it has the competition's annotations in place of the lists.
    """
    root = root / "inaturalist18"
    parts = {
        "iNaturalist18_train.txt": (largest, "train_val2018"),
        "iNaturalist18_val.txt": (3, "train_val2018"),
    }
    entries = _lists(root, classes, parts, "Aves/{}/{:032x}.jpg", seed)
    if as_json:
        for part, listed in zip(("train", "val"), entries.values(), strict=True):
            (root / f"iNaturalist18_{part}.txt").unlink()
            images = [
                {"id": 100 + i, "file_name": path, "width": 48, "height": 40}
                for i, (path, _) in enumerate(listed)
            ]
            annotations = [
                {"id": 900 + i, "image_id": 100 + i, "category_id": label}
                for i, (_, label) in enumerate(listed)
            ]
            content = {"images": images, "annotations": annotations[::-1]}
            (root / f"{part}2018.json").write_text(json.dumps(content))
    return entries


def clothing1m(root, train=6, clean=2, classes=14, seed=0):
    """Clothing1M with so many images a class; a fifth of the noisy labels are wrong.

    Returns the entries of the train, validation and test lists.
    """
    root = root / "clothing1m"
    rng = np.random.default_rng(seed)
    entries, labels, count = {}, {"noisy": {}, "clean": {}}, 0
    for part, per_class in (
        ("noisy_train", train),
        ("clean_train", clean),
        ("clean_val", clean),
        ("clean_test", clean),
    ):
        kind = part.split("_")[0]
        entries[part] = []
        for label in rng.permutation(np.repeat(np.arange(classes), per_class)):
            path = f"images/{count % 10}/{count % 7}/{count:010d},{count * 7}.jpg"
            count += 1
            write_image(root / path, colourful(label, classes, (40, 48), rng))
            given = int(label)
            if kind == "noisy" and rng.random() < 0.2:
                given = int(rng.integers(classes))
            labels[kind][path] = given
            entries[part].append((path, given))
        keys = [path for path, _ in entries[part]]
        write_lines(root / f"{part}_key_list.txt", keys)
    for kind, of in labels.items():
        lines = [f"{path} {label}" for path, label in of.items()]
        write_lines(root / f"{kind}_label_kv.txt", lines)
    del entries["clean_train"]
    return entries


def covid_lt(root, other=130, normal=40, pneumonia=24, covid=16, seed=0):
    """CheXpert and the collection of Cohen et al., so many X-rays of each class.

    Patients have one to three X-rays, of one class. The second collection has other
    findings, and CT, too. Returns the class of every path that counts.
    """
    root = root / "covid_lt"
    rng = np.random.default_rng(seed)
    chexpert, cohen = root / "CheXpert-v1.0-small", root / "covid-chestxray-dataset"
    truth, rows, patient = {}, [], 0
    findings = {0: ("", "-1.0"), 1: ("1.0", ""), 2: ("0.0", "1.0")}
    for label, count in enumerate((other, normal, pneumonia)):
        none, pneumonic = findings[label]
        while count:
            patient += 1
            for view in range(1, 1 + min(count, rng.integers(1, 4))):
                path = f"train/patient{patient:05d}/study1/view{view}_frontal.jpg"
                write_image(chexpert / path, grey(label, 4, (40, 48), rng))
                path = f"{chexpert.name}/{path}"
                truth[path] = label
                row = [path, "Female", "68", "Frontal", "AP", none, "1.0", pneumonic]
                rows.append(row)
                count -= 1
    columns = "Path,Sex,Age,Frontal/Lateral,AP/PA,No Finding,Edema,Pneumonia"
    rows = [rows[i] for i in rng.permutation(len(rows))]
    write_csv(chexpert / "train.csv", [columns.split(","), *rows])
    rows = []
    for i in range(covid + 4):
        finding = "Pneumonia/Viral/" + ("SARS" if i >= covid + 2 else "COVID-19")
        modality = "CT" if covid <= i < covid + 2 else "X-ray"
        file = f"case-{i}.{['png', 'jpeg'][i % 2]}"
        if i < covid:
            image = grey(3, 4, (48, 40), rng)
            if i % 2:  # some are stored as colour
                image = np.repeat(image[..., np.newaxis], 3, axis=-1)
            write_image(cohen / "images" / file, image)
            truth[f"{cohen.name}/images/{file}"] = 3
        patient = str(i // 2 if i % 6 else 1000 + i)
        notes = 'Two\nlines, with a comma and "quotes".'
        rows.append([patient, finding, "PA", modality, "images", file, notes])
    columns = "patientid,finding,view,modality,folder,filename,clinical_notes"
    write_csv(cohen / "metadata.csv", [columns.split(","), *rows])
    return truth


def _lists(root, classes, parts, name, seed):
    """Writes images and the lists of them; returns the entries of each list.

    A part has so many images a class, those of the training a long tail of them, in a
    directory; `name` is formatted with an image's class and number.
    """
    rng = np.random.default_rng(seed)
    entries, count = {}, 0
    for file, (images, directory) in parts.items():
        entries[file] = []
        for rank, label in enumerate(classes):
            tail = 10 ** (-rank / (len(classes) - 1)) if "train.txt" in file else 1
            for _ in range(max(int(images * tail), 1)):
                count += 1
                path = f"{directory}/{name.format(label, count)}"
                image = colourful(rank, len(classes), (40, 48), rng)
                write_image(root / path, image)
                entries[file].append((path, label))
        write_lines(root / file, [f"{path} {label}" for path, label in entries[file]])
    return entries


# --- Files ---


def colourful(label, classes, size, rng):
    """An image in the colour of its class, uint8 `[height, width, 3]`."""
    colour = np.array(colorsys.hsv_to_rgb(label / classes, 0.8, 0.5 + label % 2 * 0.4))
    noise = rng.normal(0, 25, (*size, 3))
    return np.clip(255 * colour + noise, 0, 255).astype(np.uint8)


def grey(label, classes, size, rng):
    """An image as bright as its class demands, uint8 `[height, width]`."""
    noise = rng.normal(0, 15, size)
    return np.clip(40 + 180 * label / (classes - 1) + noise, 0, 255).astype(np.uint8)


def encode(image, kind="JPEG"):
    """An image file's content."""
    file = io.BytesIO()
    options = {"quality": 95} if kind == "JPEG" else {}
    Image.fromarray(image).save(file, kind, **options)
    return file.getvalue()


def write_image(path, image):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encode(image, "PNG" if path.suffix == ".png" else "JPEG"))


def write_lines(path, lines):
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def write_csv(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows(rows)
    return path
