"""Checkpoints: what was saved comes back, and a failure never costs the old file."""

import os
import stat

import numpy as np
import pytest

import fastconv
from fastconv.io import checkpoint, load, save
from fastconv.models import Net


def numbers(tensor):
    return tensor.detach().numpy()


def test_a_network_comes_back(tmp_path):
    net, other, path = Net(), Net(), tmp_path / "net.safetensors"
    save(net.state_dict(), path)
    state = load(path)
    assert list(state) == list(net.state_dict())
    assert not any(tensor.requires_grad for tensor in state.values())
    other.load_state_dict(state)
    for mine, theirs in zip(other.parameters(), net.parameters(), strict=True):
        assert numbers(mine).tobytes() == numbers(theirs).tobytes()
    assert os.listdir(tmp_path) == [path.name]


@pytest.mark.parametrize(
    "array",
    [
        np.array(1.5),
        np.zeros((0, 3), np.float32),
        np.array([1, -2]),
        np.array([True, False]),
        np.arange(12, dtype=np.float32).reshape(3, 4).T,
        np.arange(12.0)[::-3],
        np.arange(4, dtype=">f8"),
        np.float32(2.5),
    ],
)
def test_arrays_of_every_make(tmp_path, array):
    path = str(tmp_path / "array")
    save({"b": array, "a": fastconv.ones(2)}, path)
    state = load(path)
    assert list(state) == ["b", "a"]
    loaded = numbers(state["b"])
    assert loaded.dtype == array.dtype.newbyteorder("=") and loaded.shape == array.shape
    assert np.array_equal(loaded, array) and loaded.flags.writeable


def test_read_by_others_and_from_others(tmp_path):
    from safetensors.numpy import load_file, save_file

    save({"x": np.arange(3.0)}, tmp_path / "ours")
    assert load_file(tmp_path / "ours")["x"].tolist() == [0, 1, 2]
    save_file({"y": np.arange(3.0), "x": np.zeros(2, np.float32)}, tmp_path / "theirs")
    state = load(tmp_path / "theirs")
    assert sorted(state) == ["x", "y"] and numbers(state["y"]).tolist() == [0, 1, 2]


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_the_old_file_survives_a_failure(tmp_path, monkeypatch, step):
    path = tmp_path / "net"
    save({"x": np.ones(2)}, path)
    before = path.read_bytes()

    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr(checkpoint.os, step, fail)
    with pytest.raises(OSError, match="disk full"):
        save({"x": np.zeros(2)}, path)
    assert path.read_bytes() == before and os.listdir(tmp_path) == ["net"]


def test_bad_entries_leave_the_old_file(tmp_path):
    path = tmp_path / "net"
    save({"x": np.ones(2)}, path)
    before = path.read_bytes()
    for state, text in (
        ({"state": {0: {}}, "param_groups": []}, "'state' is a dict.*optimizer"),
        ({"x": 3.0}, "'x' must be a Tensor or a NumPy array, got float"),
        ({"x": np.zeros(2, object)}, "dtype object"),
        ({"x": np.zeros(2, complex)}, "dtype complex128"),
        ({"x": np.zeros(2, np.float16)}, "dtype float16"),
        ({"x": np.ma.masked_less(np.arange(3.0), 1)}, "'x' is a masked array"),
        ({1: np.zeros(2)}, "must be strings, got 1"),
        ([np.zeros(2)], "takes a state dict, got list"),
    ):
        with pytest.raises(TypeError, match=text):
            save(state, path)
    with pytest.raises(ValueError, match="__metadata__"):
        save({"__metadata__": np.zeros(2)}, path)
    assert path.read_bytes() == before and os.listdir(tmp_path) == ["net"]


def test_a_link_is_followed(tmp_path):
    save({"x": np.ones(2)}, tmp_path / "real")
    (tmp_path / "link").symlink_to("real")
    save({"x": np.zeros(2)}, tmp_path / "link")
    assert (tmp_path / "link").is_symlink() and not numbers(load(tmp_path / "real")["x"]).any()


def test_who_may_read_it_stays(tmp_path):
    path = tmp_path / "net"
    save({"x": np.ones(2)}, path)
    path.chmod(0o600)
    save({"x": np.zeros(2)}, path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_names_in_bytes(tmp_path):
    path = os.fsencode(tmp_path / "net")
    save({"x": np.ones(2)}, path)
    assert os.listdir(tmp_path) == ["net"] and list(load(path)) == ["x"]


def test_missing(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere"):
        load(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match="nowhere"):
        save({"x": np.ones(2)}, tmp_path / "nowhere" / "net")
    with pytest.raises(OSError, match=tmp_path.name):
        load(tmp_path)


def test_damaged(tmp_path):
    whole = tmp_path / "whole"
    save({"x": np.arange(100.0), "y": np.ones(3, np.float32)}, whole)
    data = whole.read_bytes()
    path = tmp_path / "damaged"
    cuts = [data[:n] for n in (0, 1, 7, 8, 9, 40, len(data) // 2, len(data) - 1)]
    noise = [b"\x80\x02}q\x00.", b"PK\x03\x04" + bytes(60), b"\xff" * 100, data + b"more"]
    header = data.replace(b'"F64"', b'"F65"')
    for damaged in (*cuts, *noise, header, data.replace(b'"BF', b"")[1:]):
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match="damaged is not a whole safetensors file"):
            load(path)


def test_a_device_or_a_folder_is_not_replaced(tmp_path):
    with pytest.raises(OSError, match="not a file"):
        save({"w": np.ones(1)}, tmp_path)
    with pytest.raises(OSError, match="not a file"):
        save({"w": np.ones(1)}, os.devnull)


def test_files_of_others_that_cannot_be_read(tmp_path):
    from safetensors.numpy import save_file

    path = tmp_path / "theirs"
    save_file({"half": np.zeros(2, np.float16), "x": np.zeros(2)}, path)
    with pytest.raises(ValueError, match="theirs: 'half' has dtype float16"):
        load(path)
    save_file({"x": np.zeros(2)}, path, {checkpoint.ORDER: "[" * 100_000})
    with pytest.raises(ValueError, match="theirs is not a whole"):
        load(path)
