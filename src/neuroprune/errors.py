"""Errors that configuration and targets share."""


class ConfigError(ValueError):
    """A configuration value is outside what it may be; the message says what may be."""
