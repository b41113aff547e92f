"""A site on one machine: laptop, login node and two servers, with real ssh between them; see docs/lab.md."""

from tests.lab.site import Host, LabError, NotPossibleError, Site, open_site

__all__ = ["Host", "LabError", "NotPossibleError", "Site", "open_site"]
