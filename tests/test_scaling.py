"""What steps cost beyond SGD on eight devices, read off the compiled programs."""

import json

import pytest
import tyro

from benchmarks import collectives, scaling
from tests import compiling


def script(*words):
    """The command line, in a process of its own."""
    return scaling.main(tyro.cli(scaling.Scaling, args=words))


@pytest.fixture(scope="module")
def record(server, tmp_path_factory):
    """The script's own record, of a small network on eight devices."""
    out = tmp_path_factory.mktemp("scaling")
    words = (
        "--devices 8 --batch-per-device 8 --image 32 --blocks 1 --width 16 "
        "--classes 10 --steps sgd pullback mapped-sgd mapped-local --out"
    )
    flags = f"{compiling.FLAGS} --xla_force_host_platform_device_count=2"
    done = server.call(script, *words.split(), out, XLA_FLAGS=flags)
    assert done.end() == 0, done.said
    (path,) = out.iterdir()
    found = json.loads(path.read_text(encoding="utf-8"))
    assert all(scaling.STEPS[name] in done.said for name in found["costs"])
    return found


@pytest.mark.parametrize(
    ("step", "sgd", "is_waited_for"),
    [("pullback", "sgd", True), ("mapped-local", "mapped-sgd", False)],
)
def test_two_messages_and_nothing_else(record, step, sgd, is_waited_for):
    ours, theirs = record["costs"][step], record["costs"][sgd]
    more = [collectives.Collective(**each) for each in ours["collectives"]]
    for each in theirs["collectives"]:
        (index, *_) = [
            i
            for i, mine in enumerate(more)
            if (mine.kind, mine.arrays) == (each["kind"], each["arrays"])
        ]
        del more[index]
    assert [(each.kind, each.arrays, each.bytes) for each in more] == [
        ("all-reduce maximum", ["f32[2]"], 8),
        ("all-reduce add", ["f32[5]"], 20),
    ]
    assert ours["heavy"] == theirs["heavy"] == 6 + 11  # forward; no gradient of images
    assert [each.waiting for each in more] == 2 * [11 if is_waited_for else 0]

    assert ours["flops"] <= 1.001 * theirs["flops"]
    assert ours["temporary_bytes"] <= 1.01 * theirs["temporary_bytes"]
    assert ours["argument_bytes"] == theirs["argument_bytes"] + 16


def test_collectives_of_every_form_are_read():
    program = collectives.read(ASYNCHRONOUS)
    assert program.heavy == 2
    assert program.collectives == [
        collectives.Collective(
            "all-reduce maximum", ("f32[2]", "bf16[3,5]"), 38, 1, False
        ),
        collectives.Collective("all-gather", ("s8[8,4]",), 32, 0, False),
        collectives.Collective("reduce-scatter add", ("pred[4]",), 4, 0, False),
        collectives.Collective("all-reduce add", ("f32[]",), 4, 0, True),
    ]


def test_text_without_a_program_is_refused():
    with pytest.raises(ValueError, match="No entry computation"):
        collectives.read("HloModule nothing")


def test_steps_without_their_baseline_are_refused():
    with pytest.raises(ValueError, match="add mapped-sgd"):
        scaling.Scaling(steps=("sgd", "mapped-local"))
    with pytest.raises(ValueError, match="devices must be at least 1, got 0"):
        scaling.Scaling(devices=0)


# What accelerators' compilers write; the CPU's has no asynchronous pairs.
ASYNCHRONOUS = """\
HloModule step, is_scheduled=true

%larger (x: f32[], y: f32[]) -> f32[] {
  %x = f32[] parameter(0)
  %y = f32[] parameter(1)
  ROOT %maximum.1 = f32[] maximum(%x, %y)
}

%sum (x.1: f32[], y.1: f32[]) -> f32[] {
  %x.1 = f32[] parameter(0)
  %y.1 = f32[] parameter(1)
  ROOT %add.1 = f32[] add(%x.1, %y.1)
}

%scatter (p: pred[32]) -> pred[4] {
  %p = pred[32]{0} parameter(0)
  ROOT %reduce-scatter.1 = pred[4]{0} reduce-scatter(%p), dimensions={0}, to_apply=%sum
}

%product (q: f32[2]) -> f32[] {
  %q = f32[2]{0} parameter(0)
  ROOT %dot.1 = f32[] dot(%q, %q), lhs_contracting_dims={0}, rhs_contracting_dims={0}
}

%body (r: f32[]) -> f32[] {
  %r = f32[] parameter(0)
  ROOT %all-reduce.9 = f32[] all-reduce(%r), to_apply=%sum
}

%go (t: f32[]) -> pred[] {
  %t = f32[] parameter(0)
  ROOT %finite = pred[] is-finite(%t)
}

ENTRY %main (a: f32[2], b: bf16[3,5], c: s8[1,4], d: pred[32]) -> f32[] {
  %a = f32[2]{0:T(128)} parameter(0)
  %b = bf16[3,5]{1,0:T(8,128)(2,1)} parameter(1)
  %c = s8[1,4]{1,0} parameter(2)
  %d = pred[32]{0} parameter(3)
  %before = f32[] fusion(%a), kind=kOutput, calls=%product
  %first = (f32[2]{0:T(128)}, bf16[3,5]{1,0}) all-reduce-start(%a, %b), to_apply=%larger
  %wide = (s8[1,4]{1,0}, s8[8,4]{1,0}) all-gather-start(%c), dimensions={0}
  %done = (f32[2]{0}, /*index=1*/bf16[3,5]{1,0}) all-reduce-done(%first)
  %taken = f32[2]{0} get-tuple-element(%done), index=0
  %after = f32[] fusion(%taken), kind=kOutput, calls=%product
  %gathered = s8[8,4]{1,0} all-gather-done(%wide)
  %begun = ((pred[32]{0}), pred[4]{0}) async-start(%d), calls=%scatter
  %ended = pred[4]{0} async-done(%begun), calls=%scatter
  ROOT %loop = f32[] while(%after), condition=%go, body=%body
}
"""
