"""Environments on a host of the lab: venvs whose Python has all that the lab's own has, and what looks like conda's."""

from __future__ import annotations

import sys
import sysconfig

from tests.lab.site import Site

_ACTIVATE = 'export GDAL_DATA="$CONDA_PREFIX/share/gdal"\nexport PATH="$PATH:$CONDA_PREFIX/tools"\n'


def make(site: Site, host: str, prefix: str, *, conda: bool = False, bare: bool = False) -> None:
    """Make the venv `prefix` on a host, a path of alice's home; with `conda` all take it for a conda environment.

    Parameters
    ----------
    bare : bool
        It has Python alone, without the packages of the lab's interpreter.
    """
    site.run(host, [site.python, "-m", "venv", "--without-pip", prefix], check=True, timeout=60)
    if not bare:
        line = f"import site; site.addsitedir({sysconfig.get_path('purelib')!r})\n"
        version = f"python{sys.version_info[0]}.{sys.version_info[1]}"
        site.host(host).write(f"~/{prefix}/lib/{version}/site-packages/lab.pth", line)
        home = site.account().home
        script = f"#!{home}/{prefix}/bin/python\nfrom ports.__main__ import main\nmain()\n"
        site.host(host).write(f"~/{prefix}/bin/ports", script, mode=0o755)
    if conda:
        site.host(host).write(f"~/{prefix}/conda-meta/history", "")
        site.host(host).write(f"~/{prefix}/etc/conda/activate.d/gdal.sh", _ACTIVATE)
