"""kernels.Plain and Watch: looking at objects without Python. What plans do with them: test_compile*.py."""

import numpy as np
import pytest

import fastconv as fc
from fastconv import kernels


class Point:
    __slots__ = ("x", "kind", "mark")

    def __init__(self, x, kind=None, mark=False):
        self.x, self.kind, self.mark = x, kind, mark


class Corner(Point):
    __slots__ = ()


def plain_points():
    return kernels.Plain(Point, "x", {"kind": None, "mark": False})


def test_plain_objects_are_read():
    a, b = object(), [1]
    assert plain_points().read((Point(a), Point(b))) == [a, b]
    assert plain_points().read(()) == []


def test_plain_objects_are_made():
    points = kernels.Plain(Point, "x", {"kind": None}, {"mark": [1, 2]})
    value = object()
    a, b = points.make(value), points.make(value)
    assert type(a) is Point and a.x is value and a.kind is None
    assert a.mark == b.mark == [1, 2] and a.mark is not b.mark


@pytest.mark.parametrize(
    "other",
    [
        Point(1, kind="odd"),
        Point(1, mark=True),
        Point(1, mark=0),
        Corner(1),
        Point.__new__(Point),
        1,
        None,
    ],
    ids=range(7),
)
def test_an_object_that_is_not_plain(other):
    assert plain_points().read((Point(1), other)) is None


def test_an_object_that_lost_what_is_read():
    point = Point(1)
    del point.x
    assert plain_points().read((point,)) is None


def test_what_is_read_lives_on():
    points = (Point([1, 2]),)
    (held,) = plain_points().read(points)
    del points
    assert held == [1, 2]


def test_what_is_no_slot():
    with pytest.raises(AttributeError):
        kernels.Plain(Point, "y", {})
    with pytest.raises(TypeError, match="Tensor.shape is not a slot"):
        kernels.Plain(fc.Tensor, "shape", {})
    with pytest.raises(TypeError, match="incorrect type"):
        plain_points().read([Point(1)])


def test_a_watch_names_what_changed():
    watch, numbers, options = kernels.Watch(), [1, 2.0], {"lr": 0.1}
    point = Point(np.zeros((2, 3), np.float32))
    watch.items(numbers, "the numbers")
    watch.entry(options, "lr", "lr")
    watch.memory(point, Point.x, point.x, "the memory")
    assert len(watch) == 3 and watch.changed() is None
    numbers[1] = 2.0  # another object, but the same number
    assert watch.changed() is None
    numbers[1] = 2
    assert watch.changed() == "the numbers"
    numbers[1] = 2.0
    options["lr"] = 0.2
    assert watch.changed() == "lr"
    options["lr"] = 0.1
    given = point.x
    for other in (given.copy(), given.view(np.int32), given.T, None):
        point.x = other
        assert watch.changed() == "the memory"
    point.x = given[:]  # another array of the same memory
    assert watch.changed() is None
    del given, point.x
    assert watch.changed() == "the memory"


def test_the_quick_halves_alone():
    plan, compiled = kernels.QuickPlan(), kernels.QuickCompiled(plain_points(), kernels.Watch())
    for call in (
        lambda: plan.fits([], ()),
        lambda: plan.run([], ()),
        lambda: compiled(Point(1)),
        lambda: compiled(),
        lambda: kernels.QuickCompiled.__new__(kernels.QuickCompiled)(),
        lambda: compiled._find(None, None, 0) or compiled._plans.append(None) or compiled(),
    ):
        with pytest.raises((AttributeError, TypeError)):
            call()


def test_a_replay_of_other_numbers_of_arrays():
    step = fc.compile(lambda x: x + x)
    step(fc.ones(3))
    replay = step._plans[0].replay
    for arrays, outputs in (
        ([], None),
        ([np.zeros(3, np.float32)] * 2, None),
        ([np.zeros(3, np.float32)], []),
    ):
        with pytest.raises(ValueError, match="1 inputs and 1 outputs"):
            replay.run(arrays, outputs, [])
