"""From command-line overrides to a checked configuration, without importing torch."""

from xlm.compose.load import load_config, to_yaml
from xlm.compose.resolvers import late_values_as_text, register_resolvers

__all__ = ["late_values_as_text", "load_config", "register_resolvers", "to_yaml"]
