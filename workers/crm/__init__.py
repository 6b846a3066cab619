"""The business's own data as tools work with it: one interface, and the backend that is built in."""

from workers.crm.backend import (
    Appointment,
    Created,
    Crm,
    Location,
    NewAppointment,
    NewContact,
    NewOpportunity,
    Opportunity,
    Origin,
    SlotQuery,
    StatusChange,
    on_wire,
)
from workers.crm.demo import DEMO_CONTACTS, seed_demo
from workers.crm.embedded import CONTACTS_STREAM, EmbeddedCrm

__all__ = [
    "CONTACTS_STREAM",
    "DEMO_CONTACTS",
    "Appointment",
    "Created",
    "Crm",
    "EmbeddedCrm",
    "Location",
    "NewAppointment",
    "NewContact",
    "NewOpportunity",
    "Opportunity",
    "Origin",
    "SlotQuery",
    "StatusChange",
    "on_wire",
    "seed_demo",
]
