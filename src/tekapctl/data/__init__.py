"""Datasets, image sets and batches."""

from tekapctl.data.batch import Batch
from tekapctl.data.batches import Batches
from tekapctl.data.image_set import ImageSet, Splits
from tekapctl.data.spec import DATASETS, DataSpec, data_spec, load

__all__ = ["DATASETS", "Batch", "Batches", "DataSpec", "ImageSet", "Splits", "data_spec", "load"]
