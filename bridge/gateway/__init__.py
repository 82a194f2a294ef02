"""The gateway process: connections, sessions, seats and the worker link."""
