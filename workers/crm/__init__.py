"""The business's own data as tools work with it: one interface, and the backend that is built in."""

from workers.crm.backend import Crm, Location
from workers.crm.demo import seed_demo
from workers.crm.embedded import EmbeddedCrm

__all__ = ["Crm", "EmbeddedCrm", "Location", "seed_demo"]
