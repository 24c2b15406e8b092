"""The container: its manifests, its contents, and the entry point that runs the application inside it.

:mod:`container.__main__` and :mod:`container.supervisor` run inside the image and need the standard library only; the
other modules run while the image is built.
"""
