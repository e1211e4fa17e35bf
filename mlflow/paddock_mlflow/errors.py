"""The exceptions of this package.

PaddockError
├── SettingsError        a setting is missing or makes no sense
├── TooManyLogins        too many wrong passwords (logins.py)
├── IncompatibleMlflow   the installed MLflow is not a release that this plugin was checked with
└── SetupError           a store or a server refused a step of the set-up
"""


class PaddockError(Exception):
    """Base of all; its text says what was expected, what was found and what to do."""


class SettingsError(PaddockError):
    pass


class IncompatibleMlflow(PaddockError):
    pass


class SetupError(PaddockError):
    pass
