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
    from ports.jobs._asking import plan_copy as plan_copy
    from ports.jobs._at_boot import start_at_boot as start_at_boot
    from ports.jobs._at_boot import waiting_since_boot as waiting_since_boot
    from ports.jobs._client import begin as begin
    from ports.jobs._client import in_batch as in_batch
    from ports.jobs._copies import nothing_sent as nothing_sent
    from ports.jobs._files import File as File
    from ports.jobs._inside import directory as directory
    from ports.jobs._inside import progress as progress
    from ports.jobs._inside import should_stop as should_stop
    from ports.jobs._job import Job as Job
    from ports.jobs._job import JobMap as JobMap
    from ports.jobs._job import get as get
    from ports.jobs._job import list as list
    from ports.jobs._listening import listening as listening
    from ports.jobs._logs import Tail as Tail
    from ports.jobs._logs import follow as follow
    from ports.jobs._logs import last_of as last_of
    from ports.jobs._logs import whole as whole
    from ports.jobs._machine import at as at
    from ports.jobs._model import as_asked as as_asked
    from ports.jobs._model import parse_duration as parse_duration
    from ports.jobs._model import parse_id as parse_id
    from ports.jobs._notices import notice_line as notice_line
    from ports.jobs._notices import notice_services as notice_services
    from ports.jobs._notices import test_notices as test_notices
    from ports.jobs._resource import Resource as Resource
    from ports.jobs._resource import ResourceRecord as ResourceRecord
    from ports.jobs._resource import get_resource as get_resource
    from ports.jobs._resource import kept_files as kept_files
    from ports.jobs._resource import list_resources as list_resources
    from ports.jobs._resource import prune_resources as prune_resources
    from ports.jobs._resource import resource_logs as resource_logs
    from ports.jobs._resource import start_resource as start_resource
    from ports.jobs._scripts import changed as changed
    from ports.jobs._scripts import command as command
    from ports.jobs._scripts import describe as describe
    from ports.jobs._scripts import read_file as read_file
    from ports.jobs._scripts import variable as variable
    from ports.jobs._shell import open_job_shell as open_job_shell
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
            "_asking": ("plan_copy",),
            "_at_boot": (
                "start_at_boot",
                "waiting_since_boot",
            ),
            "_client": (
                "begin",
                "in_batch",
            ),
            "_copies": ("nothing_sent",),
            "_files": ("File",),
            "_inside": (
                "directory",
                "progress",
                "should_stop",
            ),
            "_job": (
                "Job",
                "JobMap",
                "get",
                "list",
            ),
            "_listening": ("listening",),
            "_logs": (
                "Tail",
                "follow",
                "last_of",
                "whole",
            ),
            "_machine": ("at",),
            "_model": (
                "as_asked",
                "parse_duration",
                "parse_id",
            ),
            "_notices": (
                "notice_line",
                "notice_services",
                "test_notices",
            ),
            "_resource": (
                "Resource",
                "ResourceRecord",
                "get_resource",
                "kept_files",
                "list_resources",
                "prune_resources",
                "resource_logs",
                "start_resource",
            ),
            "_scripts": (
                "changed",
                "command",
                "describe",
                "read_file",
                "variable",
            ),
            "_shell": ("open_job_shell",),
        },
    )
