"""The organization that `up` starts with, and the key it is opened with: the same ones for the same data directory."""

from __future__ import annotations

import msgspec

from eventstore.data_dir import write_json
from eventstore.organizations import Organizations
from eventstore.schema import OrgId
from trunkline.settings import Settings

DEMO = OrgId("demo")


class Demo(msgspec.Struct, frozen=True):
    organization: str
    api_key: str


async def open_demo(organizations: Organizations, settings: Settings) -> Demo:
    """Creates what is missing. A key that the store does not know any more (another Redis, revoked) is replaced.

    The configured telephone number stays its own when other organizations come.
    """
    path = settings.data_dir / "organization.json"
    await organizations.ensure(DEMO, settings.default_organization_name)
    if settings.twilio_phone_number is not None:
        await organizations.map_number(DEMO, settings.twilio_phone_number)
    try:
        known = msgspec.json.decode(path.read_bytes(), type=Demo)
        owner = await organizations.authenticate(known.api_key)
        if owner is not None and owner.org == DEMO:
            return known
    except (FileNotFoundError, msgspec.DecodeError):
        pass
    demo = Demo(DEMO, await organizations.create_key(DEMO, name="trunkline up"))
    write_json(path, msgspec.to_builtins(demo))
    return demo
