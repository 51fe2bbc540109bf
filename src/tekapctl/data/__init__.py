"""Datasets, image sets and batches."""

from tekapctl.data.batch import Batch
from tekapctl.data.batches import Batches
from tekapctl.data.image_set import ImageSet, Splits
from tekapctl.data.names import data_spec
from tekapctl.data.spec import DATASETS, DataSpec, load

__all__ = ["DATASETS", "Batch", "Batches", "DataSpec", "ImageSet", "Splits", "data_spec", "load"]
