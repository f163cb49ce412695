"""Masked (absorbing) models: how tokens get masked and how masks get filled, for all families that do so."""
