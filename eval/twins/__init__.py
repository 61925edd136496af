"""The only door to the twins: their interpreters, their verbs as programs, their workers, features and drawn images."""
