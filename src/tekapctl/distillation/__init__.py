"""Distillation: TeKAP, methods, perturbations, and the objective they make up."""
