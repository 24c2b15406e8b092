"""Segmentation of glioma on four MR contrasts: network, transforms, MONAI bundle, inference."""
