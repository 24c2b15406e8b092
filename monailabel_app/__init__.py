"""MONAI Label application: a clinician corrects the tumour in 3D Slicer or OHIF, and the twin follows.

A thin adapter: images come from `imaging`, the network from `segmentation`, growth from `twin`.
"""
