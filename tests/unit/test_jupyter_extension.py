"""The file that enables the route of `ports` in Jupyter servers."""

from __future__ import annotations

import configparser
import shutil
from pathlib import Path

from jupyter_server.extension.config import ExtensionConfigManager

ROOT = Path(__file__).parents[2]
NAME = "ports.web"


def test_an_administrator_disables_it_as_any_extension(tmp_path: Path) -> None:
    """Of two files in a directory the later name counts, and Jupyter writes one that is called like the extension."""
    parser = configparser.ConfigParser()
    parser.read(ROOT / "setup.cfg")
    [file] = parser["options.data_files"]["etc/jupyter/jupyter_server_config.d"].split()
    directory = tmp_path / "jupyter_server_config.d"
    directory.mkdir()
    shutil.copy(ROOT / file, directory)
    config = {"read_config_path": [str(tmp_path)], "write_config_dir": str(directory)}
    assert ExtensionConfigManager(**config).enabled(NAME)
    ExtensionConfigManager(**config).disable(NAME)
    assert not ExtensionConfigManager(**config).enabled(NAME)
