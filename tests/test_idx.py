"""The reader of IDX files: what it finds, what it makes of it, and how a file can be broken."""

import gzip
import tracemalloc

import numpy as np
import pytest
from idx_files import idx, write_idx_folder

from fastconv.data import find_idx, load_idx, read_idx

ARRAY = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
WHOLE = idx(ARRAY)
ZIPPED = gzip.compress(WHOLE, mtime=0)
HUGE = b"\0\0\x08\x03" + b"\xff" * 12

# what is wrong: (bytes, what the message says)
BROKEN = {
    "empty": (b"", "truncated: ends 4 bytes early"),
    "text": (b"5 0 4 1 9 2", "not an IDX file: it begins with 35 20 30 20"),
    "no dimensions": (b"\0\0\x08\0", "not an IDX file"),
    "floats": (idx(ARRAY, code=13), "type code 0x0d, expected 0x08"),
    "signed bytes": (idx(ARRAY, code=9), "type code 0x09, expected 0x08"),
    "half a header": (WHOLE[:9], "truncated: ends 7 bytes early"),
    "a value short": (WHOLE[:-1], "truncated: 39 bytes cannot hold 2 x 3 x 4 values"),
    "header only": (WHOLE[:16], "truncated"),
    "a byte more": (WHOLE + b"\0", "something follows the 2 x 3 x 4 values"),
    "sizes beyond memory": (HUGE, "16 bytes cannot hold 4294967295 x 4294967295 x 4294967295"),
    "255 dimensions": (b"\0\0\x08\xff" + b"\0\0\0\x01" * 255 + b"\0", "dimension"),
    "gz: sizes beyond memory": (gzip.compress(HUGE), "cannot hold 4294967295 x"),
    "gz: a value short": (gzip.compress(WHOLE[:-1]), "truncated: ends 1 bytes early"),
    "gz: a byte more": (gzip.compress(WHOLE + b"\0"), "something follows"),
    "gz: truncated": (ZIPPED[:-12], "truncated gzip file"),
    "gz: truncated in the check sum": (ZIPPED[:-3], "truncated gzip file"),
    "gz: wrong check sum": (ZIPPED[:-8] + bytes(8), "corrupt gzip file (CRC check failed"),
    "gz: no deflate stream": (ZIPPED[:10] + b"\xff" * 40, "corrupt gzip file"),
    "gz: junk behind": (ZIPPED + b"junk", "corrupt gzip file (Not a gzipped file"),
    "gz: only its magic": (b"\x1f\x8b", "truncated gzip file"),
}


@pytest.mark.parametrize("data", [WHOLE, ZIPPED], ids=["plain", "gzip"])
def test_read_idx(tmp_path, data):
    (tmp_path / "file").write_bytes(data)
    array = read_idx(tmp_path / "file")
    assert array.dtype == np.uint8
    np.testing.assert_array_equal(array, ARRAY)


def test_read_more_than_a_chunk(tmp_path):
    array = np.random.default_rng(0).integers(0, 256, (3, 1_000_001), dtype=np.uint8)
    (tmp_path / "file").write_bytes(gzip.compress(idx(array), compresslevel=1))
    np.testing.assert_array_equal(read_idx(tmp_path / "file"), array)


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_file_is_named(tmp_path, name):
    data, message = BROKEN[name]
    path = tmp_path / "file"
    path.write_bytes(data)
    tracemalloc.start()
    with pytest.raises(ValueError) as caught:
        read_idx(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert str(caught.value).startswith(f"{path}: ") and message in str(caught.value)
    assert peak < 2**20, "bytes allocated"


def test_every_damaged_byte_of_a_gzip_file_is_a_value_error_or_harmless(tmp_path):
    path = tmp_path / "file"
    for i in range(len(ZIPPED)):
        path.write_bytes(ZIPPED[:i] + bytes([ZIPPED[i] ^ 0xFF]) + ZIPPED[i + 1 :])
        try:
            np.testing.assert_array_equal(read_idx(path), ARRAY)
        except ValueError as error:
            assert str(error).startswith(f"{path}: ")


def test_the_number_of_dimensions(tmp_path):
    (tmp_path / "file").write_bytes(WHOLE)
    with pytest.raises(ValueError, match="3 dimensions, expected 1"):
        read_idx(tmp_path / "file", 1)


def test_a_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError):
        read_idx(tmp_path / "file")


# Folders ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("zipped", [True, False], ids=["gzip", "plain"])
def test_load_idx(tmp_path, zipped):
    write_idx_folder(tmp_path, zipped=zipped)
    train, test = load_idx(tmp_path)
    assert (len(train), len(test)) == (40, 20)
    images, labels = (t.numpy() for t in train.tensors)
    assert images.shape == (40, 1, 32, 32) and images.dtype == np.float32
    assert labels.dtype == np.int64 and labels.tolist() == list(range(10)) * 4
    suffix = ".gz" if zipped else ""
    padded = np.zeros((40, 32, 32))
    padded[:, 2:30, 2:30] = read_idx(tmp_path / f"train-images-idx3-ubyte{suffix}")
    wanted = (padded - padded.mean()) / padded.std()
    np.testing.assert_allclose(images[:, 0], wanted, rtol=1e-5, atol=1e-6)
    border = test.tensors[0].numpy()[:, :, 0]
    assert (border == images[0, 0, 0, 0]).all(), "the test images are scaled as the others"


@pytest.mark.parametrize("side", [1, 27, 32])
def test_images_are_brought_to_32(tmp_path, side):
    write_idx_folder(tmp_path, side=side)
    assert load_idx(tmp_path)[0].tensors[0].shape == (40, 1, 32, 32)


def test_images_all_equal(tmp_path):
    write_idx_folder(tmp_path)
    images = np.full((40, 32, 32), 77, np.uint8)
    (tmp_path / "train-images-idx3-ubyte.gz").write_bytes(idx(images))
    assert (load_idx(tmp_path)[0].tensors[0].numpy() == 0).all()


def test_other_names(tmp_path):
    write_idx_folder(tmp_path, prefix="emnist-digits-")
    names = {p.name for p in find_idx(tmp_path).values()}
    assert "emnist-digits-t10k-labels-idx1-ubyte.gz" in names
    for path in list(tmp_path.iterdir()):
        path.rename(path.with_name(path.name.replace("t10k", "test").replace("-idx", ".idx")))
    assert len(load_idx(tmp_path)[1]) == 20


def test_no_prefix_and_plain_files_come_first(tmp_path):
    write_idx_folder(tmp_path, prefix="kmnist-")
    write_idx_folder(tmp_path)
    write_idx_folder(tmp_path, zipped=False)
    names = {p.name for p in find_idx(tmp_path).values()}
    assert names == {
        f"{split}-{kind}-ubyte"
        for split in ("train", "t10k")
        for kind in ("images-idx3", "labels-idx1")
    }


def test_several_sets(tmp_path):
    write_idx_folder(tmp_path, prefix="emnist-digits-")
    write_idx_folder(tmp_path, prefix="emnist-letters-")
    with pytest.raises(ValueError, match="several data sets .*emnist-digits-, emnist-letters-"):
        load_idx(tmp_path)


def test_missing_files_are_listed(tmp_path):
    with pytest.raises(FileNotFoundError, match="no such folder .*train-images-idx3-ubyte"):
        load_idx(tmp_path / "nothing")
    with pytest.raises(FileNotFoundError, match="train-images-idx3.* t10k-labels-idx1-ubyte"):
        load_idx(tmp_path)
    write_idx_folder(tmp_path)
    (tmp_path / "t10k-labels-idx1-ubyte.gz").unlink()
    with pytest.raises(FileNotFoundError, match=": no t10k-labels-idx1-ubyte "):
        load_idx(tmp_path)
    with pytest.raises(NotADirectoryError):
        load_idx(tmp_path / "train-images-idx3-ubyte.gz")


@pytest.mark.parametrize(
    ("name", "array", "message"),
    [
        ("train-labels-idx1", np.zeros(39), "39 labels for 40 images"),
        ("t10k-labels-idx1", np.full(20, 10), "label 10, expected 0..9"),
        ("train-images-idx3", np.zeros((40, 28, 27)), "40 images of 28x27 pixels, expected"),
        ("train-images-idx3", np.zeros((40, 33, 33)), "33x33 pixels, .* at most 32x32"),
        ("train-images-idx3", np.zeros((40, 0, 0)), "0x0 pixels"),
        ("t10k-images-idx3", np.zeros((0, 28, 28)), "0 images"),
        ("train-images-idx3", np.zeros(40), "1 dimensions, expected 3"),
        ("train-labels-idx1", np.zeros((40, 1, 1)), "3 dimensions, expected 1"),
    ],
)
def test_files_that_do_not_fit(tmp_path, name, array, message):
    write_idx_folder(tmp_path)
    path = tmp_path / f"{name}-ubyte.gz"
    path.write_bytes(gzip.compress(idx(array.astype(np.uint8))))
    with pytest.raises(ValueError, match=message) as caught:
        load_idx(tmp_path)
    assert str(caught.value).startswith(f"{path}: ")


def test_more_classes(tmp_path):
    write_idx_folder(tmp_path)
    labels = np.arange(40, dtype=np.uint8) % 26 + 1
    (tmp_path / "train-labels-idx1-ubyte.gz").write_bytes(idx(labels))
    assert load_idx(tmp_path, classes=27)[0].tensors[1].numpy().max() == 26
