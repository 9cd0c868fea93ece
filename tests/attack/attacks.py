"""All attacks by name."""

from __future__ import annotations

from tests.attack.files import FILES
from tests.attack.kernel import KERNEL
from tests.attack.network import NETWORK
from tests.attack.processes import PROCESSES
from tests.attack.programs import Attack
from tests.attack.resources import RESOURCES

ATTACKS: dict[str, Attack] = FILES | NETWORK | PROCESSES | RESOURCES | KERNEL
