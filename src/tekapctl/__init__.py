"""Knowledge distillation of image classifiers with TeKAP."""

__version__ = "0.1.0"
