"""Networks of one's own: the page's example, padding, and what is refused."""

import pathlib
import re

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from experiments import configs, models, user_code
from experiments.cli import main
from experiments.models import custom
from experiments.report import markdown
from experiments.results import aggregate, run_dir
from experiments.train import evaluation, sharding
from tests.programs import epochs

PAGE = pathlib.Path(__file__).parent.parent / "docs" / "your_network.md"
TINY = (
    "--data.examples-per-class", "120", "--batch-size", "32", "--method.name", "sgd",
    "--optimizer.drop-at", "--no-tensorboard",
)  # fmt: skip


@pytest.fixture(scope="module")
def module(tmp_path_factory):
    """The example of the page, where it can be imported."""
    (source,) = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(), re.M | re.S)
    folder = tmp_path_factory.mktemp("networks")
    (folder / "my_networks.py").write_text(source)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        yield folder


def _words(out, network="my_networks:small"):
    command = ["train", "digits_label_noise", "--model.custom", network, *TINY]
    return [*command, "--data.noise-rate", "0", "--out", str(out)]


@pytest.fixture(scope="module")
def trained(module, tmp_path_factory):
    out = tmp_path_factory.mktemp("trained") / "run"
    assert main([*_words(out), "--epochs", "8", "--optimizer.warmup", "0"]) == 0
    return out


def test_the_example_of_the_page_learns_as_its_command_says(trained):
    assert "train digits_long_tail --model.custom my_networks:small" in PAGE.read_text()
    assert epochs(trained)[-1]["test"]["accuracy"] > 0.35  # a tenth is chance


@pytest.mark.parametrize("flags", [("--model.name", "{}"), ("--model.name={}",)])
def test_its_function_may_be_given_as_the_name(flags, module, tmp_path, shell):
    flags = [flag.format("my_networks:small") for flag in flags]
    command = ["train", "digits_label_noise", *TINY, "--epochs", "1", *flags]
    shell.printed(*command, "--data.noise-rate", "0", "--out", tmp_path)
    assert run_dir.load(tmp_path).run.model.custom == "my_networks:small"
    command[-1] = flags[-1].replace("my_networks", "no_networks")
    out = tmp_path / "none"
    shell.refused(2, "There is no module no_networks", *command, "--out", out)


def test_statistics_and_dropout_go_on_where_they_were(trained, module, tmp_path):
    """Without schedule points, more epochs are those of a run that has had them."""
    out = tmp_path / "run"
    assert main([*_words(out), "--epochs", "2", "--optimizer.warmup", "0"]) == 0
    assert main(["resume", str(out), "--epochs", "8"]) == 0
    assert epochs(out) == epochs(trained)
    states = [
        evaluation.restore(run, run_dir.load(run), sharding.layout(1))[1]
        for run in (out, trained)
    ]
    resumed, whole = ({str(k): v for k, v in _flat(state)} for state in states)
    assert any("mean" in name for name in whole)
    assert resumed.keys() == whole.keys()
    for name, value in whole.items():
        np.testing.assert_array_equal(resumed[name], value, err_msg=name)


def _flat(state):
    for part in (state.params, state.statistics):
        for path, variable in nnx.to_flat_state(part):
            if not isinstance(variable, nnx.RngKey):
                yield path, np.asarray(variable[...])


def test_what_comes_after_training_knows_the_network(trained, shell):
    accuracy = epochs(trained)[-1]["test"]["accuracy"]
    assert f"accuracy {accuracy:.4f}" in shell.printed("evaluate", trained)
    rows = shell.printed("predict", trained).splitlines()[1:]
    assert np.mean([row.split(",")[1] == row.split(",")[2] for row in rows]) == (
        pytest.approx(accuracy)
    )
    (group,) = aggregate.grouped([aggregate.read(trained)])
    assert markdown.describe(group).startswith("my_networks:small on digits")
    with pytest.raises(configs.BadConfiguration, match="features of my_networks:small"):
        evaluation.features(trained)


# Padding.


class Normalised(nnx.Module):
    """BatchNorm alone; it has as many classes as features."""

    def __init__(self, rngs):
        self.norm = nnx.BatchNorm(3, momentum=0.0, rngs=rngs)

    def __call__(self, inputs):
        return self.norm(inputs)


class Masked(Normalised):
    def __call__(self, inputs, present=None):
        return self.norm(inputs, mask=None if present is None else present[:, None])


def test_padding_does_not_enter_the_moments_of_batchnorm():
    examples = np.random.default_rng(0).normal(size=(3, 3)).astype(np.float32)
    padded = jnp.asarray(np.pad(examples, ((0, 2), (0, 0)), constant_values=1e6))
    present = jnp.arange(5) < 3
    copied, masked = (custom.Custom(kind(nnx.Rngs(0))) for kind in (Normalised, Masked))
    logits = copied(padded, present)
    expected = examples[[0, 1, 2, 0, 1]]
    mean, std = expected.mean(axis=0), np.sqrt(expected.var(axis=0) + 1e-5)
    np.testing.assert_allclose(logits[:3], (examples - mean) / std, atol=1e-5)
    np.testing.assert_allclose(copied.module.norm.mean[...], mean, atol=1e-6)
    masked(padded, present)
    np.testing.assert_allclose(
        masked.module.norm.mean[...], examples.mean(axis=0), atol=1e-6
    )


def test_a_whole_batch_is_given_as_it_is():
    inputs = jnp.asarray(np.random.default_rng(0).normal(size=(4, 3)), jnp.float32)
    outputs = [custom.Custom(Normalised(nnx.Rngs(0)))(inputs, p)
               for p in (None, jnp.ones(4, bool))]  # fmt: skip
    np.testing.assert_array_equal(*outputs)


# What is refused.

BROKEN = """
import jax.numpy as jnp
from flax import nnx

number = 3

def linear(classes, shape, rngs):
    return nnx.Linear(shape[-1], classes, rngs=rngs)

def nothing(classes, shape, rngs):
    return None

def two_arguments(classes, shape):
    return None

class Fails(nnx.Module):
    def __call__(self, images):
        raise KeyError("no such thing")

def fails(classes, shape, rngs):
    return Fails()

class Returns(nnx.Module):
    def __init__(self, *parts):
        self.parts = parts

    def __call__(self, images):
        made = tuple(jnp.zeros((len(images), 10), dtype) for dtype in self.parts)
        return made if len(made) > 1 else made[0]

def integers(classes, shape, rngs):
    return Returns("int32")

def pair(classes, shape, rngs):
    return Returns("float32", "int32")

class Mixes(nnx.Module):
    def __init__(self, rngs):
        self.norm = nnx.BatchNorm(1, rngs=rngs)

def mixes(classes, shape, rngs):
    return Mixes(rngs)
"""


@pytest.mark.parametrize(
    ("network", "arguments", "said"),
    [
        ("my_networks", (), "custom must be module:function"),
        ("no_such_module:small", (), "There is no module no_such_module to take small"),
        ("my_networks:large", (), "my_networks has no large."),
        ("broken:number", (), "must be a function (classes, shape, rngs), got int"),
        ("broken:nothing", (), "must return a module of flax.nnx, got NoneType"),
        ("broken:two_arguments", (), "takes 2 positional arguments but 3 were given"),
        ("broken:fails", (), "failed: KeyError: 'no such thing' ("),
        ("syntax:small", (), "syntax cannot be imported: SyntaxError"),
        ("needs:small", (), "needs cannot be imported: No module named 'no_such_lib'"),
        ("broken:linear", (), "[batch, 10]: of a batch of 2 it makes [2, 8, 8, 10]."),
        ("broken:integers", (), "floating array [batch, 10]: of a batch of 2 it "
         "returns int32 [2, 10]."),
        ("broken:pair", (), "returns tuple: float32 [2, 10], int32 [2, 10]."),
        ("broken:mixes", ("--model.norm", "group"), "but it has a BatchNorm"),
        ("my_networks:small", ("--method.route", "dense"), "Under BatchNorm"),
        ("my_networks:small", ("--trainable", "head"), "trainable 'head' needs"),
        ("my_networks:small", ("--loss.name", "ldam"), "The ldam loss needs the head"),
        ("my_networks:small", ("--model.head", "cosine"), "head are for the networks"),
        ("my_networks:small", ("--parallel", "pmap"), "runs under --parallel jit"),
    ],
)  # fmt: skip
def test_what_is_no_network_is_refused_in_a_sentence(
    network, arguments, said, module, tmp_path, shell
):
    (module / "broken.py").write_text(BROKEN)
    (module / "syntax.py").write_text("def small(:")
    (module / "needs.py").write_text("import no_such_lib")
    out = tmp_path / "run"
    shell.refused(2, said, *_words(out, network), *arguments, "--method.name", "absgd")
    assert not out.exists()


def test_a_function_is_asked_for_without_arguments_where_they_are_not_known():
    with pytest.raises(configs.BadConfiguration, match="be a function, got float"):
        user_code.load("math:pi")


def test_methods_that_change_the_head_are_left_out_of_a_comparison(module, shell):
    command = ["compare", "digits_label_noise", "--model.custom", "my_networks:small"]
    status, _, said = shell(*command, "--methods", "ldam")
    assert status == 2
    assert "There is no method 'ldam' for digits and my_networks:small" in said
    offered = said.partition("there are ")[2].split(", ")
    assert {"absgd", "mw_net", "sce"} < set(offered)
    assert not {"crt", "lws", "tau", "oltr", "range"} & set(offered)


def test_texts_have_a_shape_too(module):
    data = configs.Data("imdb", vocabulary=20, length=6)
    (module / "texts.py").write_text(
        "from flax import nnx\n"
        "class Mean(nnx.Module):\n"
        "    def __init__(self, classes, length, rngs):\n"
        "        self.length = length\n"
        "        self.embedding = nnx.Embed(22, classes, rngs=rngs)\n"
        "    def __call__(self, ids):\n"
        "        assert ids.shape[1] == self.length\n"
        "        return self.embedding(ids).mean(axis=1)\n"
        "def mean(classes, shape, rngs):\n"
        "    return Mean(classes, *shape, rngs)\n"
    )
    models.check(configs.Model(custom="texts:mean"), data)
