"""Distillation methods, one file each."""

from tekapctl.methods.method import METHODS, Method, MethodSpec, Pair, Weights

__all__ = ["METHODS", "Method", "MethodSpec", "Pair", "Weights"]
