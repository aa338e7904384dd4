"""What PyTorch has in `torch.utils.data`; defined in `fastconv.data`."""

from fastconv.data import (
    DataLoader,
    Dataset,
    Subset,
    TensorDataset,
    default_collate,
    random_split,
)
from fastconv.missing import guide

__all__ = ["DataLoader", "Dataset", "Subset", "TensorDataset", "default_collate", "random_split"]

__getattr__ = guide(__name__)
