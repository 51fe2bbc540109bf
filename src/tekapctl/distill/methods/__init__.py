"""Distillation methods, one file each."""

from tekapctl.distill.methods.method import METHODS, About, Method, MethodSpec, Pair, Weights
from tekapctl.models.network import Requires

__all__ = ["METHODS", "About", "Method", "MethodSpec", "Pair", "Requires", "Weights"]
