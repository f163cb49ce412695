"""From command-line overrides to a checked configuration, without importing torch."""

from xlm.compose.load import load_config, to_yaml
from xlm.compose.resolvers import register_resolvers

__all__ = ["load_config", "register_resolvers", "to_yaml"]
