"""Distillation methods, one file each."""

from tekapctl.methods.method import METHODS, About, Method, MethodSpec, Pair, Weights

__all__ = ["METHODS", "About", "Method", "MethodSpec", "Pair", "Weights"]
