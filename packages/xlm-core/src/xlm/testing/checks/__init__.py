"""The checks, by subject; `xlm.testing.contract` names the function of each property."""
