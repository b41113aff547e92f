"""Jobs: functions and scripts that a compute resource runs, durable, found again tomorrow."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ports.probe import face

if TYPE_CHECKING:
    from ports.jobs._api import JobFunction as JobFunction
    from ports.jobs._api import gather as gather
    from ports.jobs._api import host as host
    from ports.jobs._api import job as job
    from ports.jobs._api import map as map
    from ports.jobs._api import submit as submit
    from ports.jobs._job import Job as Job
    from ports.jobs._job import JobMap as JobMap
    from ports.jobs._job import get as get
    from ports.jobs._job import list as list
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
            "_api": (
                "JobFunction",
                "gather",
                "host",
                "job",
                "map",
                "submit",
            ),
            "_job": (
                "Job",
                "JobMap",
                "get",
                "list",
            ),
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
