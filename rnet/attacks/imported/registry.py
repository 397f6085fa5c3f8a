"""Functions that answer for a suspect: package.module:function, whatever module it is in."""

from rnet.config.component import ComponentConfig
from rnet.registry import Registry

FUNCTIONS = Registry("attack.function", ComponentConfig, {})
