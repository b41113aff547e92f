"""Jobs: functions and scripts that a compute resource runs, durable, found again tomorrow."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ports.probe import face

if TYPE_CHECKING:
    from ports.jobs._resource import Resource as Resource
    from ports.jobs._resource import ResourceRecord as ResourceRecord
    from ports.jobs._resource import get_resource as get_resource
    from ports.jobs._resource import list_resources as list_resources
    from ports.jobs._resource import prune_resources as prune_resources
    from ports.jobs._resource import resource_logs as resource_logs
    from ports.jobs._resource import start_resource as start_resource
else:
    __getattr__, __dir__, __all__ = face(
        __name__,
        {
            "_resource": (
                "Resource",
                "ResourceRecord",
                "get_resource",
                "list_resources",
                "prune_resources",
                "resource_logs",
                "start_resource",
            ),
        },
    )
