"""Networks for CIFAR-sized images, one file per family."""
