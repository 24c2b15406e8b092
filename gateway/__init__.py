"""From a hospital's archive to the application and back: which studies, in which order, once each.

``python -m gateway`` runs it; :mod:`gateway.service` is the place to start reading.
"""
