"""Simulated patients, the training of the default network, and the phantom; never part of the container."""
