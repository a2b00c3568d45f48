"""Kaggle from a laptop: stage the library, push kernels, watch them, and chain sessions until a run is finished.

Everything goes through the `kaggle` package's Python API, whose answers are looked at: its command line ends with exit
code 0 after a refused push, a failed upload and a kernel in ERROR. What a run has reached is read from Kaggle and the
store each time; nothing of it is kept on the laptop. `python -m kelron_lib.kaggle_ops` is the command line.
"""
