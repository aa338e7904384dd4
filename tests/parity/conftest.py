"""The parity suite needs PyTorch (torch==2.13.0); without it nothing here is collected."""

import importlib.util

import pytest

if importlib.util.find_spec("torch") is None:
    collect_ignore_glob = ["test_*.py"]
else:
    import torch

    import fastconv

    @pytest.fixture(autouse=True)
    def single_thread():
        """Two pools of threads on few cores only wait for each other."""
        before = fastconv.get_num_threads()
        fastconv.set_num_threads(1)
        torch.set_num_threads(1)
        yield
        fastconv.set_num_threads(before)


def pytest_report_header():
    found = importlib.util.find_spec("torch") is not None
    return (
        "parity with PyTorch" if found else "parity: PyTorch is missing; pip install torch==2.13.0"
    )
