"""Contrastive representation distillation (CRD): the loss, its memory banks and negatives."""

from tekapctl.distillation.methods.crd.crd import CRD, CRDSpec

__all__ = ["CRD", "CRDSpec"]
