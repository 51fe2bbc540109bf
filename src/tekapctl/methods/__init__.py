"""Distillation methods, one file each."""

from tekapctl.knowledge import Needs
from tekapctl.methods.method import METHODS, About, Method, MethodSpec, Pair, Weights

__all__ = ["METHODS", "About", "Method", "MethodSpec", "Needs", "Pair", "Weights"]
