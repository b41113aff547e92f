"""Attacks by another account of the machine, each with a default Dask cluster beside it as the control that falls."""
