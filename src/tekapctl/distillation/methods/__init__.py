"""Distillation methods, one file each, and what one is written with."""

from tekapctl.data.batch import Batch
from tekapctl.distillation.methods.method import METHODS, About, Method, MethodSpec, Weights
from tekapctl.distillation.methods.pair import Pair
from tekapctl.models.knowledge import Knowledge, Requires

__all__ = ["METHODS", "About", "Batch", "Knowledge", "Method", "MethodSpec", "Pair", "Requires", "Weights"]
