"""The hosts that a front end offers to somebody who has named none."""

from __future__ import annotations

import re

from ports.hosts import targets
from ports.hosts.openssh import ssh_config
from ports.state import settings

#: What lets nobody in to a shell: places of git repositories.
_FORGE = re.compile(r"(\w+\.)?(github|gitlab|bitbucket|codeberg|sourcehut|git\.sr|dev\.azure|gitea)\b")


def aliases() -> list[str]:
    """Return the hosts of the setting ``ports.hosts``, then other aliases of ~/.ssh/config that can have a shell."""
    chosen = [targets.parse(one).host for one in settings.hosts()]
    offered = [alias for alias, name in ssh_config.names().items() if not _FORGE.match((name or alias).lower())]
    return list(dict.fromkeys([*chosen, *offered]))
